"""The report as one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_emapl.errors import UserError, require_package
from asr_emapl.plotting import COLOURS
from asr_emapl.report.chart import draw
from asr_emapl.report.charts import chart_groups
from asr_emapl.report.comparison import Decoded, comparisons, standings
from asr_emapl.report.curves import look
from asr_emapl.report.run import Run
from asr_emapl.report.settings import scaled, settings
from asr_emapl.report.usage import table
from asr_emapl.report.utterances import worst
from asr_emapl.scoring.alignment_files import ALIGNMENT_CSS, alignment_html
from asr_emapl.storage import write


def write_page(runs: Sequence[Run], out: Path, decoded: Decoded | None = None, *, count: int = 20) -> None:
    """Write the report on `runs`; whoever looks sees the old page or the whole new one.

    Args:
        decoded: for the comparison, and for the utterances that went worst.
        count: of the latter, at most; they come with their audio.

    Raises:
        UserError: another ending than .html; hypotheses and references do not match; nothing to write to.
    """
    check_ending(out)
    write(out, render(runs, decoded, count))


def check_ending(out: Path) -> None:
    """Before anything is decoded: UserError if the name does not end in .html, or a package is missing."""
    for package in ("matplotlib", "jinja2"):
        require_package(package, "report")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{out}: name a page that ends in .html")


def render(runs: Sequence[Run], decoded: Decoded | None, count: int) -> str:
    """The page as text. Everything that comes from a run is escaped by the template."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("asr_emapl.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "draw": lambda chart: Markup(draw(chart)),
        "alignment": lambda alignment: Markup(alignment_html(alignment)),
    }
    splits = list(dict.fromkeys(name.partition("/")[2] for run in runs for name in run.wer))
    return environment.get_template("page.html").render(
        runs=runs,
        looks=[_look(number) for number in range(len(runs))],
        splits=splits,
        groups=chart_groups(runs),
        settings=settings(runs),
        scaled=[found for found in map(scaled, runs) if found is not None],
        decoded=decoded,
        usage=_usage(runs),
        standings=standings(runs, decoded) if decoded else [],
        comparisons=comparisons(runs, decoded) if decoded else [],
        misheard=worst(decoded.utterances, decoded.hypotheses, count) if decoded else [],
        alignment_css=Markup(ALIGNMENT_CSS),
    )


def _usage(runs: Sequence[Run]) -> dict[str, Any] | None:
    """The table of those runs whose time was measured, and what is advised; None without any."""
    usages = {run.label: run.usage for run in runs if run.usage is not None}
    if not usages:
        return None
    head, rows = table(usages)
    return {
        "head": head,
        "rows": rows,
        "advice": [(label, found.advice()) for label, found in usages.items()],
    }


def _look(run: int) -> tuple[int, str]:
    """The number of a run's colour in the style, and its marker as a letter."""
    return run % len(COLOURS), look(run)[2].strip()

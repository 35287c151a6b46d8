"""The report as one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from asr_emapl.errors import UserError, require_package
from asr_emapl.plotting import COLOURS
from asr_emapl.progress import Progress
from asr_emapl.report.chart import draw
from asr_emapl.report.charts import chart_groups
from asr_emapl.report.comparison import Decoded, comparisons, standings
from asr_emapl.report.curves import look
from asr_emapl.report.labels import labels_of_runs
from asr_emapl.report.run import Run
from asr_emapl.report.settings import scaled, settings
from asr_emapl.report.usage import table
from asr_emapl.report.utterances import worst
from asr_emapl.report.verdict import verdict
from asr_emapl.scoring.alignment_files import ALIGNMENT_CSS, alignment_html
from asr_emapl.storage import write

_PARTS = 7
"""Parts whose making takes long: those of `made` in `render`, and the charts, which are drawn last."""

T = TypeVar("T")


def write_page(runs: Sequence[Run], out: Path, decoded: Decoded | None = None, *, count: int = 20) -> None:
    """Write the report on `runs`. The file is replaced atomically.

    Args:
        decoded: hypotheses for the comparison and the worst utterances.
        count: number of worst utterances to show with audio, over all systems and of each system.

    Raises:
        UserError: the extension is not .html, hypotheses and references do not match, or the file cannot be
            written.
    """
    check_ending(out)
    with Progress(f"writing {out.name}", _PARTS, "parts of the page") as progress:
        write(out, render(runs, decoded, count, progress.advance))


def check_ending(out: Path) -> None:
    """Raise UserError if the name does not end in .html or a package is missing. Call before decoding."""
    for package in ("matplotlib", "jinja2"):
        require_package(package, "report")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{out}: the file name must end in .html")


def render(
    runs: Sequence[Run],
    decoded: Decoded | None,
    count: int,
    advance: Callable[[], object] = lambda: None,
) -> str:
    """Return the page as HTML. The template escapes all data of the runs.

    Args:
        advance: called after each of the parts whose making takes long.
    """
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

    def made(part: T) -> T:
        advance()
        return part

    script = files("asr_emapl.report").joinpath("worst.js").read_text(encoding="utf-8")
    splits = list(dict.fromkeys(name.partition("/")[2] for run in runs for name in run.wer))
    return environment.get_template("page.html").render(
        runs=runs,
        verdict=verdict(runs),
        looks=[_look(number) for number in range(len(runs))],
        splits=splits,
        groups=made(chart_groups(runs)),
        labels=made(labels_of_runs(runs)),
        settings=settings(runs),
        scaled=made([found for found in map(scaled, runs) if found is not None]),
        decoded=decoded,
        usage=_usage(runs),
        standings=made(standings(decoded) if decoded else []),
        comparisons=made(comparisons(decoded) if decoded else []),
        misheard=made(worst(decoded, count) if decoded else []),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        alignment_css=Markup(ALIGNMENT_CSS),
    )


def _usage(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return the usage table of the runs with timings and the advice for each, or None if no run has any."""
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
    """Return the colour index of a run in the style sheet, and its marker as a text symbol."""
    return run % len(COLOURS), look(run)[2].strip()

"""Colours, figures and files shared by all plots. matplotlib is imported only when needed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_emapl.errors import UserError, require_package
from asr_emapl.storage import write
from asr_emapl.terminal import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colour-blind-safe palette, without yellow, which is too pale on white."""


def check_ending(out: Path) -> None:
    """Raise UserError if the file extension is not .png or .svg, or if matplotlib is not installed."""
    require_package("matplotlib", "report")
    if out.suffix.lower() not in (".png", ".svg"):
        raise UserError(f"{out}: unknown image format; use the file extension .png or .svg")


@contextmanager
def new_figure(
    width: float, height: float, *, font_size: float = 13.0, salt: str = "asr_emapl", **settings: Any
) -> Iterator[Figure]:
    """Context with an empty white figure; draw and write it inside the context.

    Args:
        width, height: in inches.
        font_size: in points.
        salt: salt for the ids in an SVG file, so that the same figure gives the same file.
        settings: other rcParams of matplotlib, with _ instead of the first dot. Texts are not parsed as
            formulas unless text_parse_math is True.
    """
    require_package("matplotlib", "report")
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    usual: Any = {"font.size": font_size, "svg.hashsalt": salt, "text.parse_math": False}
    usual |= {name.replace("_", ".", 1): value for name, value in settings.items()}
    with rc_context(usual):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        yield figure


def write_plot(figure: Figure, out: Path, *, dpi: float = 150.0) -> None:
    """Write a figure atomically as PNG or SVG, depending on the file extension.

    Control characters in its texts, which SVG does not allow, are drawn as escapes.

    Raises:
        UserError: it cannot be written; an existing file is unchanged.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(visible(text.get_text(), keep="\n"))
    form = out.suffix.lower().removeprefix(".")
    # Without a date, the same figure gives the same file.
    metadata = {"Date": None} if form == "svg" else {}
    picture = io.BytesIO()
    figure.savefig(picture, format=form, dpi=dpi, bbox_inches="tight", metadata=metadata)
    write(out, picture.getvalue())

"""Colours, figures and files shared by all plots. matplotlib is imported when something is drawn."""

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
"""Okabe and Ito's palette, told apart by colour-blind readers; without its yellow, too pale on white."""


def check_ending(out: Path) -> None:
    """Before anything is drawn: UserError if the name does not end in .png or .svg, or without matplotlib."""
    require_package("matplotlib", "report")
    if out.suffix.lower() not in (".png", ".svg"):
        raise UserError(f"{out}: name a picture that ends in .png or .svg")


@contextmanager
def new_figure(
    width: float, height: float, *, font_size: float = 13.0, salt: str = "asr_emapl", **settings: Any
) -> Iterator[Figure]:
    """An empty white figure for the block, within which it is to be drawn and written.

    Args:
        width: in inches, as `height` is.
        font_size: in points.
        salt: of the ids in an SVG file: the same figure gives the same file.
        settings: more of matplotlib's rcParams, with _ for the dot. Names from files are drawn as they are,
            without formulas, unless text_parse_math is True.
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
    """Write a figure as PNG or SVG, as its name's ending says, in one piece.

    Control characters in its texts, which no font has and SVG forbids, are drawn as escapes.

    Raises:
        UserError: it cannot be written; what was there before still is.
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

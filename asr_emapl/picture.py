"""What all pictures share: the colours, and how they are written. matplotlib is the caller's to load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from asr_emapl.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, told apart by colour-blind readers; without its yellow, too pale on white."""


def check_ending(out: Path) -> None:
    """Before anything is drawn: UserError if the name does not end in .png or .svg."""
    if out.suffix.lower() not in (".png", ".svg"):
        raise UserError(f"{out}: name a picture that ends in .png or .svg")


def write_picture(figure: Figure, out: Path) -> None:
    """Write a figure as its name's ending says; UserError if that fails."""
    # Without a date, the same figure gives the same file.
    metadata = {"Date": None} if out.suffix.lower() == ".svg" else {}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150, bbox_inches="tight", metadata=metadata)
    except OSError as error:
        raise UserError(f"{out}: the picture cannot be written ({error.strerror})") from error

"""What people read in a terminal: lines and tables in which names and texts cannot act on the terminal.

Ids, paths, speakers and texts come from files of others. Control characters in them could move the cursor,
change colours or the window's title, or hide what stands before them; here they are shown as escapes.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

from asr_emapl.storage.atomic import is_standard_output

if TYPE_CHECKING:
    from rich.text import Text

# C0 and C1 controls, DEL, what ends lines in Unicode, what turns the direction of text, and halves of
# surrogate pairs, which cannot be printed.
_ACTIVE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str, keep: str = "\n\t") -> str:
    r"""The text with characters that act on a terminal as escapes (\x1b, \u202e), but for those to keep."""
    return _ACTIVE.sub(lambda match: match[0] if match[0] in keep else _escape(ord(match[0])), text)


def say(text: str) -> None:
    """Print a line to standard output for people to read."""
    print(visible(text), flush=True)


def warn(text: str) -> None:
    """Print a line to standard error."""
    print(visible(text), file=sys.stderr, flush=True)


def say_written(out: str | os.PathLike[str], text: str) -> None:
    """As `say`, but to standard error where `out`, which was written, is standard output."""
    (warn if is_standard_output(out) else say)(text)


def put(content: str) -> None:
    """Write data to standard output: as it is where a program reads it, made visible on a terminal."""
    print(visible(content) if sys.stdout.isatty() else content, end="", flush=True)


def plain(text: str) -> Text:
    """One line for rich to show, without control characters, markup or emoji codes."""
    from rich.text import Text

    return Text(visible(text, keep=""))


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Print rows under a head."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in head:
        table.add_column(plain(name))
    for row in rows:
        table.add_row(*map(plain, row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _escape(code: int) -> str:
    # JSON knows \u, and writes characters below 32 as escapes itself.
    return f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}"

"""Terminal output: lines, tables and the library's log, with control characters escaped.

Ids, paths, speakers and texts come from untrusted files. Their control characters could move the cursor,
change colours or the window title, or hide other text.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from asr_emapl.errors import UserError
from asr_emapl.storage.atomic import is_standard_output

if TYPE_CHECKING:
    from rich.text import Text

# C0 and C1 controls, DEL, Unicode's line separators and bidirectional controls, and unpaired surrogates,
# which cannot be printed.
_ACTIVE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LOGGERS = ("asr_emapl", "data_prep")
RUN_LOGGER = "asr_emapl.run"
"""Logger for the output of a training run."""


def visible(text: str, keep: str = "\n\t") -> str:
    r"""Replace control characters by escapes (\x1b, \u202e), except those in `keep`."""
    return _ACTIVE.sub(lambda match: match[0] if match[0] in keep else _escape(ord(match[0])), text)


def say(text: str) -> None:
    """Print a line to standard output."""
    print(visible(text), flush=True)


def warn(text: str) -> None:
    """Print a line to standard error."""
    print(visible(text), file=sys.stderr, flush=True)


def time_text(seconds: float) -> str:
    """A wall-clock time for people: "40 s", "12 min", "3.4 h"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


def run_script(main: Callable[[], None]) -> None:
    """Run the main function of a script; a UserError becomes one line and exit status 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def say_written(out: str | os.PathLike[str], text: str) -> None:
    """Print a line about the file `out`: to standard error if `out` is standard output."""
    (warn if is_standard_output(out) else say)(text)


def put(content: str) -> None:
    """Write data to standard output; control characters are escaped only on a terminal."""
    print(visible(content) if sys.stdout.isatty() else content, end="", flush=True)


class _LogHandler(logging.Handler):
    """Prints the output of a run to standard output, and all other messages to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        rank = os.environ.get("RANK", "0")
        where = "" if rank == "0" else f"[rank {rank}] "
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        (say if record.name == RUN_LOGGER else warn)(f"{where}{level}{record.getMessage()}")


def print_log() -> None:
    """Print the library's log messages in this process."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        if not logger.handlers:
            logger.addHandler(_LogHandler())


def plain(text: str) -> Text:
    """Text for rich, without control characters, markup or emoji codes."""
    from rich.text import Text

    return Text(visible(text, keep=""))


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Print a table with a header row."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in head:
        table.add_column(plain(name))
    for row in rows:
        table.add_row(*map(plain, row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _escape(code: int) -> str:
    # JSON supports only \u escapes, and escapes characters below 0x20 itself.
    return f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}"

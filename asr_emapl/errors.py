"""Errors that a user can fix, and how their messages list things."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence


class UserError(Exception):
    """An error that the user can fix: `<what is wrong> (<where>); <what to do>`.

    The command line prints the message after "error: " and exits with status 2. A message has one line, or
    one line per finding.
    """


class UnreachableError(UserError, OSError):
    """A server does not answer or cannot serve. It says nothing about the files on the server.

    It ends the run or the command: the audio file is not treated as broken.
    """


def require_package(name: str, extra: str) -> None:
    """Check that an optional package is installed, without importing it.

    Raises:
        UserError: it is not; the message names the extra that has it.
    """
    if importlib.util.find_spec(name) is None:
        raise UserError(f"{name} is not installed; pip install 'asr_emapl[{extra}]'")


def listing(items: Sequence[str], limit: int, separator: str = ", ") -> str:
    """The first `limit` items as "a, b and 3 more"; one item per line where the separator is a newline."""
    more = len(items) - limit
    shown = separator.join(items[:limit])
    if more <= 0:
        return shown
    return f"{shown}{separator if separator.isspace() else ' '}and {more} more"

"""Errors that the user can fix, and helpers for their messages."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence


class UserError(Exception):
    """An error that the user can fix: `<what is wrong> (<where>); <what to do>`.

    The command line prints the message after "error: " and exits with status 2. A message has one line, or
    one line per finding.
    """


class UnreachableError(UserError, OSError):
    """A server or file cannot be reached at the moment.

    The run or command stops; the audio file is not treated as undecodable.
    """


def require_package(name: str, extra: str) -> None:
    """Check that an optional package is installed, without importing it.

    Raises:
        UserError: it is not installed; the message names the extra to install.
    """
    if importlib.util.find_spec(name) is None:
        raise UserError(f"{name} is not installed; run pip install '.[{extra}]' in the checkout")


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 utterance", "1,024 utterances"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listing(items: Sequence[str], limit: int) -> str:
    """Join the first `limit` items and count the rest: "a, b and 3 more"."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def list_findings(findings: Sequence[str], limit: int = 20, total: int | None = None) -> str:
    """Join the first `limit` findings, one per line, and count the rest in a line "... and 3 more".

    Args:
        total: total number of findings, if `findings` is incomplete.
    """
    more = (len(findings) if total is None else total) - limit
    return "\n".join([*findings[:limit], *([f"... and {more} more"] if more > 0 else [])])

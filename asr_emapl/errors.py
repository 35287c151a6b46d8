"""The one exception that reaches a user as a line of text instead of a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: the message names the thing, the place and the remedy.

    The command line prints it as one line (or, where a report lists all that is wrong, one line per
    finding) and exits with status 2. Library callers may catch it like any other exception.
    """


class UnreachableError(UserError, OSError):
    """A server does not answer, or answers that it cannot serve: says nothing about any file on it.

    Never taken for a fault of an audio file, which would be left out: it ends the run or the command.
    """

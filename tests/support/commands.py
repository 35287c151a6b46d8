"""Run `asr-emapl` commands in tests."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest import mock

from asr_emapl.cli import main


@dataclass
class Outcome:
    """Exit status and output of a command."""

    status: int | str | None
    out: str
    err: str


def call(*arguments: object) -> Outcome:
    """Run `asr-emapl` with these arguments in this process, to avoid importing torch again."""
    out, err = io.StringIO(), io.StringIO()
    status: int | str | None = 0
    with (
        mock.patch.object(sys, "argv", ["asr-emapl", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as exit_:
            status = exit_.code
    return Outcome(status, out.getvalue(), err.getvalue())


def succeed(*arguments: object) -> str:
    outcome = call(*arguments)
    assert (outcome.status, outcome.err) == (0, ""), outcome
    return outcome.out


def fail(*arguments: object) -> str:
    """Run a command with invalid input and return its one-line error."""
    outcome = call(*arguments)
    assert outcome.status == 2, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1, outcome.err
    return outcome.err

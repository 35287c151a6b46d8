"""Commands of `asr-emapl` called as a user does, for tests."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest import mock

from asr_emapl.cli import main


@dataclass
class Outcome:
    """What a command left: its exit status, and its words."""

    status: int | str | None
    out: str
    err: str


def call(*arguments: object) -> Outcome:
    """`asr-emapl` with these arguments, in this process: another one would import torch anew."""
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
    """The one line that a command says to input that is wrong."""
    outcome = call(*arguments)
    assert outcome.status == 2, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1, outcome.err
    return outcome.err

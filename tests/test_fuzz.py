"""Broken inputs at every command: none ends in a traceback, hangs, or changes what it was given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.templates import TEMPLATES

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux's pidfd_open")


def fuzz(*arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own: it forks, and this one may have threads."""
    command = [sys.executable, "-m", "tests.fuzz", *map(str, arguments)]
    root = Path(__file__).parent.parent
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_some_broken_inputs_and_each_command_with_good_ones() -> None:
    outcome = fuzz("--start", -len(TEMPLATES), "--count", len(TEMPLATES) + 60)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert outcome.stdout.startswith(f"{len(TEMPLATES) + 60} cases, 0 with faults")


@pytest.mark.slow
def test_a_fault_is_found(tmp_path: Path) -> None:
    """A traceback in a command is one, and so is the exit status of the whole."""
    code = (
        "import sys; sys.path.insert(0, 'tests'); from tests.fuzz import server, __main__; "
        "from asr_emapl.scoring import curves; curves.draw_curves = lambda *_: 1 / 0; "
        "numbers = [-next(i for i, t in enumerate(reversed(server.TEMPLATES), 1) if 'plot' in t.arguments)]; "
        "print([case.faults for case in server.run_cases(numbers, 0)])"
    )
    root = Path(__file__).parent.parent
    outcome = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert "a traceback" in outcome.stdout


@pytest.mark.slow
def test_two_thousand_broken_inputs() -> None:
    outcome = fuzz("--count", 2000)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr

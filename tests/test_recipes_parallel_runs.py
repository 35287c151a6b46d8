"""Runs in parallel: what is printed while they run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes"))

import parallel_runs
from parallel_runs import Devices

from asr_emapl.errors import UserError


@pytest.fixture
def devices(tmp_path, monkeypatch) -> Devices:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parallel_runs.signal, "signal", lambda *_: None)
    return Devices(1)


def test_a_start_is_printed_at_once_with_the_file_of_its_output(devices, capsys):
    devices.emapl(["settings", "optimizer.lr"], Path("runs/a-seed0.log"))
    assert capsys.readouterr().out == "a-seed0: settings started (output: runs/a-seed0.log)\n"


def test_new_lines_of_the_output_are_shown_now_and_then(devices, monkeypatch, capsys):
    monkeypatch.setattr(parallel_runs, "LINE_EVERY_S", 0.05)
    program = """
import time
print("0.5/2 h", flush=True)
time.sleep(1)
print("1/2 h\\n", flush=True)
time.sleep(1)
"""
    with Path("a-seed0.log").open("w") as log:
        devices.run([sys.executable, "-c", program], log, what="probe")
    # Each line once, although it is looked for more often.
    assert capsys.readouterr().out.splitlines() == [
        "a-seed0: probe started (output: a-seed0.log)",
        "a-seed0: 0.5/2 h",
        "a-seed0: 1/2 h",
    ]


def test_a_failure_is_the_last_line_of_the_output(devices):
    error = pytest.raises(UserError, match=re.escape("a-seed0 failed: no memory"))
    with Path("a-seed0.log").open("w") as log, error:
        devices.run([sys.executable, "-c", "print('no memory'); raise SystemExit(1)"], log)

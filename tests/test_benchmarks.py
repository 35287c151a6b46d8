"""benchmarks/gpu.sh: what runs where a GPU is lent for minutes has to work at the first try."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.sh"


def test_the_measurements_of_a_gpu_run_small_on_a_cpu(tmp_path):
    environment = os.environ | {"OUT": str(tmp_path), "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", str(SCRIPT), "--smoke"], env=environment, capture_output=True, text=True, check=False
    )
    summary = (tmp_path / "summary.txt").read_text()
    assert done.returncode == 0, summary
    for shown in ("of a labelled step", "the audio of the best other", "EmaTeacher", "of the encoder alone"):
        assert shown in summary


def test_a_part_that_fails_is_named(tmp_path):
    environment = os.environ | {"OUT": str(tmp_path), "PYTHON": "false"}
    done = subprocess.run(["bash", str(SCRIPT), "--smoke"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "failed: step step-recomputed throughput average label" in done.stdout


def test_help_and_unknown_options_measure_nothing(tmp_path):
    environment = os.environ | {"OUT": str(tmp_path)}
    for option, status in (("--help", 0), ("--frobnicate", 2)):
        command = ["bash", str(SCRIPT), option]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == status
        assert option in done.stderr or "one GPU" in done.stdout
    assert list(tmp_path.iterdir()) == []

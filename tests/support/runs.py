"""Runs on the tiny corpus in subprocesses, with torchrun if there are several, and their logs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from asr_emapl.config import RunConfig
from asr_emapl.training.trainer import train
from support.tiny import write_tiny_config

CLI = ("-m", "asr_emapl")
# Runs with batches of other shapes differ by rounding, which training amplifies; how much depends on the CPU.
# In float64, they stay within 1e-9.
IN_FLOAT64 = (str(Path(__file__).parent / "in_float64.py"),)


def launch(
    root: Path,
    run: Path,
    *overrides: str,
    processes: int = 1,
    torchrun: Sequence[str] = ("--standalone",),
    prefix: Sequence[str] = (),
    program: Sequence[str] = CLI,
    environment: dict[str, str] | None = None,
    config: Path | None = None,
    **popen,
) -> subprocess.Popen:
    """Start `asr-emapl train` on the corpus in `root`; `program` replaces `asr-emapl`, after `prefix`.

    Args:
        config: None: the config of `write_tiny_config`.
    """
    config = write_tiny_config(root, *overrides) if config is None else config
    command = [*prefix, sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", *torchrun, f"--nproc-per-node={processes}"]
    command += [*program, "train", "--config", str(config), f"run_dir={run}", *overrides]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | (environment or {}),
        **popen,
    )


def finish(process: subprocess.Popen) -> str:
    """Wait for the process and return its output."""
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def read_log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_log(run) if line["event"] == "step"]


def assert_resumes_anywhere(run: Path, config: RunConfig) -> None:
    """Resume a finished run from each of its checkpoints: the log must be the same."""
    whole = read_log(run)
    paths = sorted((run / "checkpoints").glob("step-*.pt"))
    assert len(paths) > 2
    for kept in paths[:-1]:
        again = run.with_name(f"{run.name}-from-{kept.stem}")
        shutil.copytree(run, again, symlinks=True)
        for path in (again / "checkpoints").glob("step-*.pt"):
            if path.name > kept.name:
                path.unlink()
        train(replace(config, run_dir=str(again)))
        assert read_log(again) == whole

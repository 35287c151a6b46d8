"""Record each start of a run: date, command, code version and device."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version as distribution_version
from pathlib import Path

import torch

from asr_emapl import __version__
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.runs.line_file import LineFile
from asr_emapl.runs.reader import STARTS

_ROOT = Path(__file__).parents[2]


def record_start(folder: Path, group: ProcessGroup, hours: float) -> None:
    """Append a line to starts.jsonl of a run directory.

    Args:
        hours: audio consumed before this start.

    Raises:
        OSError: the file cannot be opened.
    """
    device = torch.cuda.get_device_name(group.device) if group.device.type == "cuda" else "CPU"
    record = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S"),
        "hours": hours,
        "command": shlex.join(sys.argv),
        "version": __version__,
        "commit": _commit(),
        "torch": distribution_version("torch"),
        "device": f"{group.size} x {device}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    file = LineFile(folder / STARTS)
    file.write(json.dumps(record))
    file.close()


def _commit() -> str:
    """The git commit of the code, with "-dirty" if there are changes; "" if it is not in a git checkout."""
    if not (_ROOT / ".git").exists():
        return ""  # git would describe any repository that contains an installed package
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10.0, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

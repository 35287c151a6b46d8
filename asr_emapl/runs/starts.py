"""Each start of a run: when, by which command and code, and on which device. Reading imports no torch."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import TYPE_CHECKING

from asr_emapl import __version__
from asr_emapl.runs.line_file import LineFile
from asr_emapl.runs.reader import STARTS
from asr_emapl.storage import BrokenLineError, parse_object, raw_lines

if TYPE_CHECKING:
    from asr_emapl.distributed.process_group import ProcessGroup


@dataclass(frozen=True)
class Start:
    """One start or resume of a run.

    Attributes:
        date: UTC, to the second. hours: audio consumed before it.
        commit: of the checkout that has the code, with "-dirty" if it has changes; "" without one.
        device: its name, after the number of processes: "8 x NVIDIA H100".
    """

    date: str
    hours: str
    command: str
    version: str
    commit: str
    torch: str
    device: str


def record_start(folder: Path, group: ProcessGroup, hours: float) -> None:
    """Append this start to starts.jsonl of a run directory.

    Raises:
        OSError: the file cannot be opened.
    """
    import torch

    name = torch.cuda.get_device_name(group.device) if group.device.type == "cuda" else "CPU"
    start = Start(
        datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S"),
        f"{hours:.3f}",
        shlex.join(sys.argv),
        __version__,
        _commit(),
        distribution_version("torch"),
        f"{group.size} x {name}",
    )
    file = LineFile(folder / STARTS)
    file.write(json.dumps(asdict(start)))
    file.close()


def read_starts(folder: Path) -> list[Start]:
    """The starts of a run, in order; lines that are incomplete or of another kind are left out."""
    path, names = folder / STARTS, [field.name for field in fields(Start)]
    found = []
    for _, line in raw_lines(path) if path.is_file() else ():
        try:
            record = parse_object(line)
        except BrokenLineError:
            continue
        values = [record.get(name) for name in names]
        if all(isinstance(value, str) for value in values):
            found.append(Start(*map(str, values)))
    return found


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10.0, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

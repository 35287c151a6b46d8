"""The state of processes that tests start."""

from __future__ import annotations

from pathlib import Path


def is_alive(pid: int) -> bool:
    """Neither gone nor waiting for someone to take its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

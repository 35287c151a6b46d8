"""Helper processes: they leave signals to their parent and end with it. Imports no torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable
from multiprocessing.process import BaseProcess

# How often a helper looks whether its parent is alive.
_LOOK_S = 1.0


def serve_parent(*ignored: signal.Signals) -> None:
    """Prepare a helper process, in that process: it ends when its parent ends, `kill -9` included.

    Args:
        ignored: signals that reach a whole process group and that the parent acts on.
    """
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), name="parent", daemon=True).start()


def _end_with_parent(pid: int) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    # A forked helper that began later keeps the sentinel open; the process id does not depend on it.
    while parent.is_alive() and os.getppid() == pid:
        parent.join(_LOOK_S)
    os._exit(1)


def kill(processes: Iterable[BaseProcess]) -> None:
    """Kill the processes that have not ended by themselves; returns when all have ended."""
    processes = list(processes)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()

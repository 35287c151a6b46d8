"""Helper processes that ignore signals handled by their parent and end with it. Does not import torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable
from multiprocessing.process import BaseProcess

_POLL_S = 1.0


def serve_parent(*ignored: signal.Signals) -> None:
    """Make this helper process end when its parent ends, even by `kill -9`.

    Args:
        ignored: signals to ignore, because the parent handles them for the whole process group.
    """
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), name="parent", daemon=True).start()


def _end_with_parent(pid: int) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    # Helpers forked later keep the parent's sentinel open, so check the process id as well.
    while parent.is_alive() and os.getppid() == pid:
        parent.join(_POLL_S)
    os._exit(1)


def how_ended(process: BaseProcess) -> str:
    """How a process that has ended did so, for a message such as "process 7 was killed by SIGKILL"."""
    code = process.exitcode or 0
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def kill(processes: Iterable[BaseProcess]) -> None:
    """Kill processes and wait until they have ended."""
    processes = list(processes)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()

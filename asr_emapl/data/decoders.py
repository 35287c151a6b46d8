"""Monitor the decoding processes, and report which utterance a process was decoding when it died."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray
from typing import TypeVar

from torch.utils.data import DataLoader

from asr_emapl.processes import how_ended, kill
from asr_emapl.torch_private import shut_down_workers

T = TypeVar("T")

# Seconds to wait for decoding processes to exit before they are killed.
PATIENCE_S = 5.0

# Likely causes of signals that end a decoding process, and remedies.
_REMEDIES: dict[int, str] = {
    signal.SIGKILL: "probably out of memory: lower data.workers, or the batch",
    signal.SIGBUS: "shared memory is full: enlarge /dev/shm, or lower data.workers",
    signal.SIGSEGV: "the file may be damaged: remove it, or convert it again",
}


@dataclass(frozen=True)
class Reading:
    """The utterance that a process is decoding, by its index in the labelled or unlabelled corpus."""

    labelled: bool
    index: int


class WorkerProgress:
    """Shared memory in which each decoding process records its current utterance; it outlives the processes.

    Args:
        processes: number of decoding processes.
    """

    def __init__(self, processes: int) -> None:
        # For each process: its id, whether the utterance is labelled, the utterance (-1: none).
        self._notes = RawArray("q", [0, 0, -1] * processes)
        self._place = 0

    def take(self, process: int) -> None:
        """Register this process as decoding process number `process`."""
        self._place = 3 * process
        self._notes[self._place] = os.getpid()

    def note(self, labelled: bool, index: int) -> None:
        """Record that this process starts to decode an utterance; index -1: it has finished its step."""
        self._notes[self._place + 1] = labelled
        self._notes[self._place + 2] = index

    def last_note(self, pid: int) -> Reading | None:
        """The last utterance of the process with this id; None if it was not decoding."""
        for at in range(0, len(self._notes), 3):
            if self._notes[at] == pid and self._notes[at + 2] >= 0:
                return Reading(bool(self._notes[at + 1]), self._notes[at + 2])
        return None


class DeadDecoderError(Exception):
    """A decoding process died. `at` is the utterance that it was decoding, or None."""

    def __init__(self, process: BaseProcess, at: Reading | None) -> None:
        self.at = at
        self.remedy = _REMEDIES.get(-(process.exitcode or 0), "run it with data.workers=0 to see why")
        super().__init__(f"decoding process {process.pid} {how_ended(process)}")


def watched(loader: DataLoader[T], desk: WorkerProgress) -> Generator[T, None, None]:
    """Yield the items of a loader; its processes end with this iterator.

    Processes that do not end within `PATIENCE_S` are killed.

    Raises:
        DeadDecoderError: a process died; raised within seconds after its item is due.
    """
    others = set(multiprocessing.active_children())
    handler = signal.getsignal(signal.SIGCHLD)
    items = iter(loader)
    processes = [p for p in multiprocessing.active_children() if p not in others]
    if threading.current_thread() is threading.main_thread():
        # torch's handler would raise during a training step.
        signal.signal(signal.SIGCHLD, handler)
    try:
        yield from items
    # OSError, EOFError: the prepared items of the process are lost.
    except (RuntimeError, OSError, EOFError) as error:
        # When a process ends, its connections close first, then its sentinel, and only then is it not alive.
        dying = wait([p.sentinel for p in processes], timeout=10.0)
        for process in processes:
            if process.sentinel in dying:
                process.join(timeout=10.0)
            if not process.is_alive():
                raise DeadDecoderError(process, desk.last_note(process.pid or 0)) from error
        raise
    finally:
        # The garbage collector may close the loader's queues before its workers receive the request to stop.
        # A worker that waits for a failed disk also ignores SIGTERM, and blocks the exit of the interpreter.
        late = threading.Timer(PATIENCE_S, kill, [processes])
        late.start()
        try:
            shut_down_workers(items)
        finally:
            late.cancel()
            # If two threads reaped the same process, one of them would see it as alive.
            late.join()
            kill(processes)

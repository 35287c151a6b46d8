"""The processes that decode ahead: what each of them reads, and what to say when one dies."""

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

from asr_emapl.processes import kill
from asr_emapl.torch_private import shut_down_workers

T = TypeVar("T")

# What decoding processes have to end by themselves once nothing more is wanted from them.
PATIENCE_S = 5.0

# Why a signal may have ended a process that only decodes, and what helps.
_REMEDIES = {
    signal.SIGKILL: "out of memory, if nobody killed it: lower data.workers, or the batch",
    signal.SIGBUS: "shared memory is full: enlarge /dev/shm, or lower data.workers",
    signal.SIGSEGV: "the file may be damaged: leave it out, or convert it again",
}


@dataclass(frozen=True)
class Reading:
    """What a process is at: an utterance, by its place in the labelled or unlabelled corpus."""

    labelled: bool
    index: int


class WorkerProgress:
    """Memory where each decoding process notes what it reads; it outlives them.

    Args:
        processes: how many there are.
    """

    def __init__(self, processes: int) -> None:
        # Of each: its process id, labelled or not, the utterance; -1: none.
        self._notes = RawArray("q", [0, 0, -1] * processes)
        self._place = 0

    def take(self, process: int) -> None:
        """Called in decoding process number `process`, before it begins."""
        self._place = 3 * process
        self._notes[self._place] = os.getpid()

    def note(self, labelled: bool, index: int) -> None:
        """This process begins to decode an utterance; index -1: it is done with its step."""
        self._notes[self._place + 1] = labelled
        self._notes[self._place + 2] = index

    def last_note(self, pid: int) -> Reading | None:
        """What the process with this id was at."""
        for at in range(0, len(self._notes), 3):
            if self._notes[at] == pid and self._notes[at + 2] >= 0:
                return Reading(bool(self._notes[at + 1]), self._notes[at + 2])
        return None


class DeadDecoderError(Exception):
    """A decoding process ended. `at` is what it was decoding, if anything."""

    def __init__(self, process: BaseProcess, at: Reading | None) -> None:
        code = process.exitcode or 0
        self.at = at
        if code < 0:
            self.how = f"was killed by {signal.Signals(-code).name}"
            self.remedy = _REMEDIES.get(signal.Signals(-code), "run it with data.workers=0 to see why")
        else:
            self.how = f"ended with status {code}"
            self.remedy = "run it with data.workers=0 to see why"
        super().__init__(f"decoding process {process.pid} {self.how}")


def watched(loader: DataLoader[T], desk: WorkerProgress) -> Generator[T, None, None]:
    """The loader's items. Its processes are its own as long as the iterator lives, and end with it.

    Those that do not end within `PATIENCE_S` are killed.

    Raises:
        DeadDecoderError: one of them ended; it is noticed within seconds of when its item is due.
    """
    others = set(multiprocessing.active_children())
    handler = signal.getsignal(signal.SIGCHLD)
    items = iter(loader)
    processes = [p for p in multiprocessing.active_children() if p not in others]
    if threading.current_thread() is threading.main_thread():
        # torch's own would raise wherever the trainer happens to be, in the middle of a step.
        signal.signal(signal.SIGCHLD, handler)
    try:
        yield from items
    # OSError, EOFError: what a process had ready went with it.
    except (RuntimeError, OSError, EOFError) as error:
        # One that is dying counts: it closes its connections, then its sentinel, and is gone only after that.
        dying = wait([p.sentinel for p in processes], timeout=10.0)
        for process in processes:
            if process.sentinel in dying:
                process.join(timeout=10.0)
            if not process.is_alive():
                raise DeadDecoderError(process, desk.last_note(process.pid or 0)) from error
        raise
    finally:
        # If the garbage collector shuts the loader down, its queues may be closed before the workers are told
        # to end. A worker that reads from a dead disk does not react and ignores SIGTERM, which torch sends
        # last: the interpreter would wait for it.
        late = threading.Timer(PATIENCE_S, kill, [processes])
        late.start()
        try:
            shut_down_workers(items)
        finally:
            late.cancel()
            # Two threads must not reap the same process: one of them would take it for alive.
            late.join()
            kill(processes)

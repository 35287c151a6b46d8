"""Detect stalled or dead ranks and abort the job.

A process in a collective operation does not know which other process it waits for. Therefore a thread in each
process publishes its status in the rendezvous store, which works with any backend.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import NamedTuple

import torch.distributed as dist

from asr_emapl.distributed.process_group import ProcessGroup, rendezvous_store
from asr_emapl.errors import UserError

_logger = logging.getLogger(__name__)
# A process waits for others if one of these is its innermost frame, ignoring frames of other libraries.
_COLLECTIVES = ("/torch/distributed/", "/asr_emapl/distributed/process_group.py")
# On CPUs, a process also waits in a backward pass. With a GPU, the host waits later, in
# `ProcessGroup.to_list`.
_CPU_COLLECTIVES = (*_COLLECTIVES, "/torch/autograd/graph.py")
# A process without a heartbeat for this time, or for half of the timeout if shorter, is considered dead.
_SILENCE_S = 60.0
# Time for a process to exit by itself after the connection to its store is lost.
_GRACE_S = 5.0


class RankStatus(NamedTuple):
    """The last status that a process published."""

    beats: int  # increases as long as the process is alive
    progress: int  # increases as training advances, at the same points on all processes
    is_waiting: bool  # in a collective operation
    name: str
    position: str


class Heartbeat:
    """End this process if another one fails, or if one stalls for longer than a timeout.

    Use it as a context around the run. Does nothing with a single process.

    Args:
        timeout_s: maximum time without progress on any process; 0: no limit.

    Attributes:
        before_exit: called before the thread ends this process.
    """

    def __init__(self, group: ProcessGroup, timeout_s: float) -> None:
        self.group, self.timeout_s = group, timeout_s
        self.before_exit: Callable[[], None] = lambda: None
        self._what, self._progress, self._since = "setting up", 0, time.monotonic()
        self._beats = 0
        self._earlier: dict[int, RankStatus] = {}
        self._next_beats: int | None = None
        self._next_since = 0.0
        self._over = threading.Event()
        self._store: dist.Store | None = None
        self._thread: threading.Thread | None = None
        self._main = threading.get_ident()
        self._collectives = _COLLECTIVES if group.device.type == "cuda" else _CPU_COLLECTIVES
        self._name = f"process {group.rank} ({socket.gethostname()}, pid {os.getpid()})"

    # Called by the main thread.

    def at(self, what: str) -> None:
        """Record that training reached a point that all processes reach in the same order."""
        self._what, self._progress, self._since = what, self._progress + 1, time.monotonic()

    def tick(self) -> None:
        """Record that the process is still working at the same point."""
        self._since = time.monotonic()

    def __enter__(self) -> Heartbeat:
        if self.group.size > 1:
            # A separate connection, because the main thread may be waiting in the other one.
            self._store = rendezvous_store("heartbeat", timedelta(seconds=300))
            self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Report an error only on the process that raised it first; others exit silently."""
        self._over.set()
        if self._thread is None:
            return
        # A thread that uses the store during interpreter shutdown would abort the process.
        self._thread.join(timeout=10.0)
        if error is None:
            return
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        is_first = self._publish_failure(f"{self._name}: {text}")
        if self.group.device.type == "cuda":
            # Exit immediately, because destroying NCCL's process group would wait for the other processes.
            if is_first and isinstance(error, UserError):
                _logger.error("%s", error)
            elif is_first:
                traceback.print_exception(error)
            self._exit(1 if is_first and not isinstance(error, UserError) else 2)
        if not is_first:
            raise SystemExit(2) from None

    # Called by the heartbeat thread.

    def _run(self) -> None:
        pause = min(1.0, self.timeout_s / 10.0) if self.timeout_s else 1.0
        try:
            while not self._over.wait(pause):
                self._beat()
        except RuntimeError:
            # The process with the store has ended. With gloo, the main thread also gets an error.
            if not self._over.wait(_GRACE_S):
                self._abort("the process with the rendezvous store (process 0, or torchrun) has ended", 1)

    def _beat(self) -> None:
        """Publish this process's status and check the others'."""
        assert self._store is not None
        self._beats += 1
        self._store.set(str(self.group.rank), json.dumps(self._status()))
        if self._store.check(["failed"]):
            self._abort("", 2)
        if not self.timeout_s:
            return
        self._check_next_rank()
        stalled = time.monotonic() - self._since
        if stalled < self.timeout_s / 2.0:
            self._earlier = {}
        elif not self._earlier:
            self._earlier = self._statuses()
        elif stalled >= self.timeout_s:
            self._abort(diagnosis(self._earlier, self._statuses(), self.timeout_s, self.group.size), 1)

    def _check_next_rank(self) -> None:
        """Abort if the next rank is dead, without waiting for the timeout of stalled processes."""
        status, now = self._status_of((self.group.rank + 1) % self.group.size), time.monotonic()
        if status is None or status.beats != self._next_beats:
            self._next_beats, self._next_since = None if status is None else status.beats, now
            return
        limit = min(self.timeout_s / 2.0, _SILENCE_S)
        if now - self._next_since >= limit:
            self._abort(_no_heartbeat(status.name, limit), 1)

    def _status(self) -> RankStatus:
        frame = sys._current_frames().get(self._main)
        line = "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
        is_waiting = False
        while frame is not None:
            file = frame.f_code.co_filename
            is_waiting = any(part in file for part in self._collectives)
            if is_waiting or "/asr_emapl/" in file:
                break
            frame = frame.f_back
        return RankStatus(self._beats, self._progress, is_waiting, self._name, f"{self._what} ({line})")

    def _statuses(self) -> dict[int, RankStatus]:
        statuses = {rank: self._status_of(rank) for rank in range(self.group.size)}
        return {rank: status for rank, status in statuses.items() if status is not None}

    def _status_of(self, rank: int) -> RankStatus | None:
        """The last status of a process; None if it has not published one."""
        assert self._store is not None
        if not self._store.check([str(rank)]):
            return None
        return RankStatus(*json.loads(self._store.get(str(rank))))

    def _publish_failure(self, text: str) -> bool:
        """Publish an error; returns whether this process is the first, or True if the store is gone."""
        assert self._store is not None
        try:
            # The rank makes the text unique.
            mine = f"{self.group.rank}: {text}"
            return self._store.compare_set("failed", "", mine).decode() == mine
        except RuntimeError:
            return True

    def _abort(self, text: str, status: int) -> None:
        """Exit the process, because the main thread may wait forever."""
        if self._over.is_set():
            return
        if text and self._publish_failure(text):
            _logger.error(text)
        self._exit(status)

    def _exit(self, status: int) -> None:
        self.before_exit()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def diagnosis(earlier: dict[int, RankStatus], now: dict[int, RankStatus], timeout_s: float, size: int) -> str:
    """Describe in one line which process stalls the job, from the statuses at two times."""
    dead = [f"process {rank}" for rank in range(size) if rank not in now]
    dead += [s.name for rank, s in now.items() if rank in earlier and earlier[rank].beats == s.beats]
    if dead:
        return _no_heartbeat(", ".join(dead), timeout_s / 2.0)
    least = min(status.progress for status in now.values())
    behind = [status for status in now.values() if status.progress == least]
    working = [status for status in behind if not status.is_waiting]
    positions = "; ".join(f"{status.name}: {status.position}" for status in working or behind)
    if len(behind) == size and len(working) in (0, size):
        return f"no process made progress for {timeout_s:g} s (device.timeout_seconds): {positions}"
    return f"no progress for {timeout_s:g} s (device.timeout_seconds): other processes wait for {positions}"


def _no_heartbeat(names: str, seconds: float) -> str:
    return f"no heartbeat from {names} for {seconds:g} s: it has stopped, or its machine is down"

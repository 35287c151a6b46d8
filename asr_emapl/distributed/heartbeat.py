"""Who holds up a run of several processes: found by a thread in each, said once, and all of them ended.

A process that waits for another in a collective operation cannot tell for whom, nor be told that it waits in
vain. The threads can: they speak through the key-value store where the processes met, whatever the backend.
"""

from __future__ import annotations

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

from asr_emapl.distributed.process_group import ProcessGroup, meeting
from asr_emapl.errors import UserError
from asr_emapl.terminal import warn

# A process whose thread stands in one of these, or in what it calls outside of the package, waits for others.
_WAITS = ("/torch/distributed/", "/asr_emapl/distributed/process_group.py")
# So does one in a backward pass on CPUs. GPUs exchange gradients without their hosts, which wait for that
# later, in `ProcessGroup.read`.
_CPU_WAITS = (*_WAITS, "/torch/autograd/graph.py")
# Without a beat for so long, or for half of the timeout if that is shorter, a process is taken for gone.
_SILENCE_S = 60.0
# What a process whose store is gone has to end by itself.
_FAREWELL_S = 5.0


class RankStatus(NamedTuple):
    """What a process last let the others know of itself."""

    beats: int  # grows for as long as the process itself is alive
    place: int  # grows as its training goes on, at the same points on all processes
    waits: int  # 1: in a collective operation
    who: str
    where: str


class Heartbeat:
    """Ends this process when another one has failed or holds up all for longer than a timeout.

    Used as a context around the run; does nothing for a process alone.

    Args:
        timeout_s: without progress on any process; 0: none.
        before_exit: called before this process is ended from the thread; may be set later.
    """

    def __init__(self, world: ProcessGroup, timeout_s: float) -> None:
        self.world, self.timeout_s = world, timeout_s
        self.before_exit: Callable[[], None] = lambda: None
        self._what, self._place, self._since = "setting up", 0, time.monotonic()
        self._beats = 0
        self._earlier: dict[int, RankStatus] = {}
        self._next_beats: int | None = None
        self._next_since = 0.0
        self._over = threading.Event()
        self._store: dist.Store | None = None
        self._thread: threading.Thread | None = None
        self._main = threading.get_ident()
        self._waits_in = _WAITS if world.device.type == "cuda" else _CPU_WAITS
        self._who = f"process {world.rank} ({socket.gethostname()}, pid {os.getpid()})"

    # For the training's own thread.

    def at(self, what: str) -> None:
        """Training has come to a point that all processes come to, in the same order."""
        self._what, self._place, self._since = what, self._place + 1, time.monotonic()

    def tick(self) -> None:
        """Still at the same point, and still at work."""
        self._since = time.monotonic()

    def __enter__(self) -> Heartbeat:
        if self.world.size > 1:
            # A connection of its own: the other one may be waiting.
            self._store = meeting("watch", timedelta(seconds=300))
            self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """An error is let through on the process that has it first; the others end without a word."""
        self._over.set()
        if self._thread is None:
            return
        # A thread that speaks to the store while the interpreter ends aborts the process.
        self._thread.join(timeout=10.0)
        if error is None:
            return
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        first = self._first_to_say(f"{self._who}: {text}")
        if self.world.device.type == "cuda":
            self._end_at_once(error if first else None)
        if not first:
            raise SystemExit(2) from None

    def _end_at_once(self, error: BaseException | None) -> None:
        """End this process with its error told: NCCL, in parting, would wait for what others never do."""
        if isinstance(error, UserError):
            warn(f"error: {error}")
        elif error is not None:
            traceback.print_exception(error)
        self._exit(2 if error is None or isinstance(error, UserError) else 1)

    # For the thread.

    def _watch(self) -> None:
        pause = min(1.0, self.timeout_s / 10.0) if self.timeout_s else 1.0
        try:
            while not self._over.wait(pause):
                self._beat()
        except RuntimeError:
            # The store went with the process that held it. With gloo the training's own thread hears of it.
            if not self._over.wait(_FAREWELL_S):
                self._end("the process where all had met (process 0, or torchrun) is gone", 1)

    def _beat(self) -> None:
        """Say that this process is alive, and look whether the others are."""
        assert self._store is not None
        self._beats += 1
        self._store.set(str(self.world.rank), "\n".join(map(str, self._sign())))
        if self._store.check(["failed"]):
            self._end("", 2)
        if not self.timeout_s:
            return
        self._listen_to_the_next()
        still = time.monotonic() - self._since
        if still < self.timeout_s / 2.0:
            self._earlier = {}
        elif not self._earlier:
            self._earlier = self._signs()
        elif still >= self.timeout_s:
            self._end(diagnosis(self._earlier, self._signs(), self.timeout_s, self.world.size), 1)

    def _listen_to_the_next(self) -> None:
        """Each process listens to one other, long before all have stood still for the whole timeout."""
        sign, now = self._sign_of((self.world.rank + 1) % self.world.size), time.monotonic()
        if sign is None or sign.beats != self._next_beats:
            self._next_beats, self._next_since = None if sign is None else sign.beats, now
            return
        limit = min(self.timeout_s / 2.0, _SILENCE_S)
        if now - self._next_since >= limit:
            self._end(_unheard(sign.who, limit), 1)

    def _sign(self) -> RankStatus:
        frame = sys._current_frames().get(self._main)
        where = "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
        while frame is not None and not any(
            part in frame.f_code.co_filename for part in (*self._waits_in, "/asr_emapl/")
        ):
            frame = frame.f_back
        waits = frame is not None and any(part in frame.f_code.co_filename for part in self._waits_in)
        return RankStatus(self._beats, self._place, int(waits), self._who, f"{self._what} ({where})")

    def _signs(self) -> dict[int, RankStatus]:
        signs = {rank: self._sign_of(rank) for rank in range(self.world.size)}
        return {rank: sign for rank, sign in signs.items() if sign is not None}

    def _sign_of(self, rank: int) -> RankStatus | None:
        """The last that a process let the others know; None: nothing yet."""
        assert self._store is not None
        if not self._store.check([str(rank)]):
            return None
        beats, place, waits, who, where = self._store.get(str(rank)).decode().split("\n")
        return RankStatus(int(beats), int(place), int(waits), who, where)

    def _first_to_say(self, text: str) -> bool:
        """Whether nobody has said before why the run fails; if the store is gone, nobody will know."""
        assert self._store is not None
        try:
            # Two processes never have the same text: each begins with its own name.
            mine = f"{self.world.rank}: {text}"
            return self._store.compare_set("failed", "", mine).decode() == mine
        except RuntimeError:
            return True

    def _end(self, text: str, status: int) -> None:
        """End this process, whose own thread may wait for ever."""
        if self._over.is_set():
            return
        if text and self._first_to_say(text):
            warn(f"error: {text}")
        self._exit(status)

    def _exit(self, status: int) -> None:
        self.before_exit()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def diagnosis(earlier: dict[int, RankStatus], now: dict[int, RankStatus], timeout_s: float, size: int) -> str:
    """Which process holds up the others, from their signs at two times: a line."""
    unheard = [f"process {rank}" for rank in range(size) if rank not in now]
    silent = unheard + [
        s.who for rank, s in now.items() if rank in earlier and earlier[rank].beats == s.beats
    ]
    if silent:
        return _unheard(", ".join(silent), timeout_s / 2.0)
    first = min(sign.place for sign in now.values())
    behind = [sign for sign in now.values() if sign.place == first]
    working = [sign for sign in behind if not sign.waits]
    if len(behind) == size and len(working) in (0, size):
        stand = "; ".join(f"{sign.who}: {sign.where}" for sign in behind)
        return f"no process has moved for {timeout_s:g} s (device.timeout_seconds): {stand}"
    stand = "; ".join(f"{sign.who}: {sign.where}" for sign in working or behind)
    return f"no progress for {timeout_s:g} s (device.timeout_seconds): the others wait for {stand}"


def _unheard(who: str, seconds: float) -> str:
    return f"no sign of {who} for {seconds:g} s: stopped, or its machine is gone"

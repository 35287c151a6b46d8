"""Who holds up a run of several processes: found by a thread in each, said once, and all of them ended.

A process that waits for another in a collective operation cannot tell for whom, nor be told that it waits in
vain. The threads can: they speak through the key-value store where the processes met, whatever the backend.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import NamedTuple

import torch.distributed as dist

from asr_emapl.errors import UserError
from asr_emapl.training.world import World

# A process whose thread stands in one of these, or in what it calls outside of the package, waits for others.
_WAITS = ("/torch/distributed/", "/asr_emapl/training/world.py", "/torch/autograd/graph.py")


class Sign(NamedTuple):
    """What a process last let the others know of itself."""

    beats: int  # grows for as long as the process itself is alive
    place: int  # grows as its training goes on, at the same points on all processes
    waits: int  # 1: in a collective operation
    who: str
    where: str


class Watch:
    """Ends this process when another one has failed or holds up all for longer than a timeout.

    Used as a context around the run; does nothing for a process alone.

    Args:
        timeout_s: without progress on any process; 0: none.
        before_exit: called before this process is ended from the thread; may be set later.
    """

    def __init__(self, world: World, timeout_s: float) -> None:
        self.world, self.timeout_s = world, timeout_s
        self.before_exit: Callable[[], None] = lambda: None
        self._what, self._place, self._since = "setting up", 0, time.monotonic()
        self._beats = 0
        self._over = threading.Event()
        self._store: dist.Store | None = None
        self._thread: threading.Thread | None = None
        self._main = threading.get_ident()
        self._who = f"process {world.rank} ({socket.gethostname()}, pid {os.getpid()})"

    # For the training's own thread.

    def at(self, what: str) -> None:
        """Training has come to a point that all processes come to, in the same order."""
        self._what, self._place, self._since = what, self._place + 1, time.monotonic()

    def tick(self) -> None:
        """Still at the same point, and still at work."""
        self._since = time.monotonic()

    def __enter__(self) -> Watch:
        if self.world.size > 1:
            # A connection of its own: the other one may be waiting.
            store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=300)))
            self._store = dist.PrefixStore("watch", store)
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
        if not self._first_to_say(f"{self._who}: {text}"):
            raise SystemExit(2) from None

    # For the thread.

    def _watch(self) -> None:
        assert self._store is not None
        pause = min(1.0, self.timeout_s / 10.0) if self.timeout_s else 1.0
        earlier: dict[int, Sign] = {}
        # The store goes with the process that holds it: then torchrun ends the others.
        with contextlib.suppress(RuntimeError):
            while not self._over.wait(pause):
                self._beats += 1
                self._store.set(str(self.world.rank), "\n".join(map(str, self._sign())))
                if self._store.check(["failed"]):
                    self._end("", 2)
                still = time.monotonic() - self._since
                if not self.timeout_s or still < self.timeout_s / 2.0:
                    earlier = {}
                elif not earlier:
                    earlier = self._signs()
                elif still >= self.timeout_s:
                    self._end(diagnosis(earlier, self._signs(), self.timeout_s, self.world.size), 1)

    def _sign(self) -> Sign:
        frame = sys._current_frames().get(self._main)
        where = "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
        while frame is not None and not any(s in frame.f_code.co_filename for s in (*_WAITS, "/asr_emapl/")):
            frame = frame.f_back
        waits = frame is not None and any(part in frame.f_code.co_filename for part in _WAITS)
        return Sign(self._beats, self._place, int(waits), self._who, f"{self._what} ({where})")

    def _signs(self) -> dict[int, Sign]:
        assert self._store is not None
        found = {}
        for rank in range(self.world.size):
            if self._store.check([str(rank)]):
                beats, place, waits, who, where = self._store.get(str(rank)).decode().split("\n")
                found[rank] = Sign(int(beats), int(place), int(waits), who, where)
        return found

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
            print(f"error: {text}", file=sys.stderr)
        self.before_exit()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def diagnosis(earlier: dict[int, Sign], now: dict[int, Sign], timeout_s: float, size: int) -> str:
    """Which process holds up the others, from their signs at two times: a line."""
    unheard = [f"process {rank}" for rank in range(size) if rank not in now]
    silent = unheard + [
        s.who for rank, s in now.items() if rank in earlier and earlier[rank].beats == s.beats
    ]
    if silent:
        return f"no sign of {', '.join(silent)} for {timeout_s / 2.0:g} s: stopped, or its machine is gone"
    first = min(sign.place for sign in now.values())
    behind = [sign for sign in now.values() if sign.place == first]
    working = [sign for sign in behind if not sign.waits]
    if len(behind) == size and len(working) in (0, size):
        stand = "; ".join(f"{sign.who}: {sign.where}" for sign in behind)
        return f"no process has moved for {timeout_s:g} s (device.timeout_seconds): {stand}"
    stand = "; ".join(f"{sign.who}: {sign.where}" for sign in working or behind)
    return f"no progress for {timeout_s:g} s (device.timeout_seconds): the others wait for {stand}"

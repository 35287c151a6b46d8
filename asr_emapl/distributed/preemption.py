"""Graceful shutdown on SIGTERM and Ctrl-C: the run is saved, and all processes end together."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

from asr_emapl.distributed.process_group import ProcessGroup

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_NOTE = b"SIGINT: saving, then ending; a second SIGINT ends this process at once, without saving\n"


class StopRequest:
    """While this context lasts, SIGTERM and the first SIGINT are remembered and end nothing.

    A second SIGINT ends the process at once, even where it waits for another process. After a signal, SIGTERM
    stays ignored when the context ends, since the process is then about to end by itself.

    Attributes:
        signal: that was received, on any process; known once `made` returned True.
    """

    def __init__(self, world: ProcessGroup) -> None:
        self.world = world
        self.signal: signal.Signals | None = None
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        self._previous = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            # A launcher that ends a job may send SIGTERM again while this process, already saved, is ending.
            ends = number == signal.SIGTERM and self._received is not None
            signal.signal(number, signal.SIG_IGN if ends else handler)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self._received is None:
            self._received = signal.Signals(signum)
        if signum == signal.SIGINT:
            # Python's own handler would run only when a collective operation has returned.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if self.world.first:
                os.write(2, _NOTE)  # a signal may come in the middle of a print, which would then fail

    def made(self) -> bool:
        """Whether a signal reached any process; called by all processes at the same point of the run."""
        counts = self.world.all_reduce_sum([float(self._received is number) for number in _SIGNALS])
        for number, count in zip(_SIGNALS, counts, strict=True):
            if count > 0.0:
                self.signal = number
                return True
        return False

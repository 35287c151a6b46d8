"""Graceful shutdown on SIGTERM and SIGINT: save a checkpoint, and end all processes together."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

from asr_emapl.distributed.process_group import ProcessGroup

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_NOTE = b"SIGINT: saving, then exiting; a second SIGINT ends this process immediately, without saving\n"


class StopRequest:
    """Record SIGTERM and the first SIGINT during the context, instead of ending the process.

    A second SIGINT ends the process immediately, even during a collective operation. After a signal, SIGTERM
    is also ignored after the context, because the process is about to exit.

    Attributes:
        signal: the signal that a process has received, after `poll` has returned True.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self.signal: signal.Signals | None = None
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        self._previous = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            # A launcher may repeat SIGTERM while this process is ending.
            is_ending = number == signal.SIGTERM and self._received is not None
            signal.signal(number, signal.SIG_IGN if is_ending else handler)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self._received is None:
            self._received = signal.Signals(signum)
        if signum == signal.SIGINT:
            # A Python handler would run only after a collective operation has returned.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if self.group.is_first:
                os.write(2, _NOTE)  # not print, which fails if the signal interrupts another print

    def poll(self) -> bool:
        """Return whether any process has received a signal; all processes call it at the same point."""
        counts = self.group.all_reduce_sum([float(self._received is number) for number in _SIGNALS])
        self.signal = next((n for n, count in zip(_SIGNALS, counts, strict=True) if count), self.signal)
        return any(counts)

"""SIGTERM as a wish: the step is finished, the run saved, and all processes end together."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from asr_emapl.training.world import World


class StopRequest:
    """While this context lasts, SIGTERM ends nothing and is remembered."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._received = False
        self._previous: Any = None

    def __enter__(self) -> StopRequest:
        self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self._received = True

    def made(self) -> bool:
        """Whether it reached any process: all have to leave their loops at the same step."""
        return self.world.sum([float(self._received)])[0] > 0.0

"""Measure the time of training steps by phase, and their padding, without synchronization.

On a GPU, a mark is a CUDA event, which is read much later: times are those of the GPU, including idle time.
On a CPU, a mark reads the clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from asr_emapl.runs.reader import PHASES
from asr_emapl.torch_private import queue_backward_callback

T = TypeVar("T")


class _Micro(Protocol):
    @property
    def seconds(self) -> list[float]: ...


# Maximum number of marks before completed ones are added up.
_MOST_MARKS = 1000


class Phases:
    """Seconds by phase of this process since the last `take`."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self._marks: list[tuple[str | None, float | torch.cuda.Event]] = []
        self._clear()

    def _clear(self) -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._steps, self._audio_s, self._padded_s = 0, 0.0, 0.0

    def waiting(self, batches: Iterator[T]) -> Iterator[T]:
        """Yield items endlessly; the waiting time for each is counted as "data".

        The time between the last mark of a step and the wait for the next step (validation, checkpoints) is
        not counted.
        """
        while True:
            self._begin()
            batch = next(batches)
            self.mark("data")
            yield batch

    def mark(self, phase: str) -> None:
        """Count the time since the last mark as `phase`."""
        self._marks.append((phase, self._now()))
        if len(self._marks) > _MOST_MARKS:
            self._read(wait=False)

    def mark_backward(self, loss: Tensor, phase: str) -> None:
        """Mark the end of the backward pass of `loss`, excluding DDP's wait for other processes.

        Callbacks run in the order in which they were queued. The callback that sets the mark is queued when
        the pass starts, before the callback in which DDP waits.
        """

        def queue(gradient: Tensor) -> None:
            queue_backward_callback(lambda: self.mark(phase))

        loss.register_hook(queue)

    def count(self, micro: _Micro) -> None:
        """Count the audio of a micro-batch, whose lengths are on the CPU."""
        seconds = micro.seconds
        self._audio_s += sum(seconds)
        self._padded_s += max(seconds) * len(seconds)

    def take(self) -> dict[str, float]:
        """Return seconds by phase, steps, seconds of audio and of padded audio since the last call."""
        self._read(wait=True)
        taken = {**self._seconds, "steps": float(self._steps)}
        taken |= {"audio": self._audio_s, "padded": self._padded_s}
        self._clear()
        return taken

    def _begin(self) -> None:
        self._steps += 1
        self._marks.append((None, self._now()))

    def _now(self) -> float | torch.cuda.Event:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _read(self, *, wait: bool) -> None:
        """Add up the marks so far, if the device has reached the last one; `wait`: wait for it."""
        if len(self._marks) < 2:
            return
        last = self._marks[-1][1]
        if isinstance(last, torch.cuda.Event):
            if wait:
                last.synchronize()
            elif not last.query():
                return
        for (_, start), (phase, end) in zip(self._marks, self._marks[1:], strict=False):
            if phase is not None:
                self._seconds[phase] += _between(start, end)
        self._marks = self._marks[-1:]


def _between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return start.elapsed_time(end) / 1000.0
    assert isinstance(start, float)
    assert isinstance(end, float)
    return end - start

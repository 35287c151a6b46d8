"""Time of one call, on any device."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

Measured = TypeVar("Measured")
# First rounds, which are not measured because they compile and allocate.
_WARM_UP = 3


def in_turns(
    actions: Mapping[str, Callable[[], object]],
    measure: Callable[[Callable[[], object]], Measured],
    rounds: int,
) -> dict[str, list[Measured]]:
    """The measurements of each action in `rounds` rounds.

    Actions are run alternately, so that other work on the machine slows all of them. Their order is random,
    because the previous action determines which data are in the caches.
    """
    found: dict[str, list[Measured]] = {name: [] for name in actions}
    order = list(actions)
    for turn in range(_WARM_UP + rounds):
        random.shuffle(order)
        for name in order:
            measured = measure(actions[name])
            if turn >= _WARM_UP:
                found[name].append(measured)
    return found


def work_seconds_of(action: Callable[[], object], device: torch.device) -> float:
    """Like `seconds_of`, but processor time on a CPU, which depends less on other work on the machine."""
    if device.type == "cuda":
        return seconds_of(action, device)
    start = time.process_time()
    action()
    return time.process_time() - start


def seconds_of(action: Callable[[], object], device: torch.device) -> float:
    """Seconds until the call and the work that it queued are finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def gpu_seconds_of(action: Callable[[], object]) -> float:
    """GPU time in seconds, as in a training step whose work is queued in advance."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(20_000_000)  # cycles, about 10 ms, in which the CPU queues everything
    begin.record()
    action()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000.0

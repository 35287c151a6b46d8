"""How long one call takes, on any device."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

Measured = TypeVar("Measured")
# The first turns compile, allocate and warm up.
_WARM_UP = 3


def in_turns(
    actions: Mapping[str, Callable[[], object]],
    measure: Callable[[Callable[[], object]], Measured],
    rounds: int,
) -> dict[str, list[Measured]]:
    """What `measure` says of each action in each of so many rounds.

    All take turns, so that a busy machine is busy for all of them, in a new order each time, since whoever
    follows another finds what that one used in the caches.
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
    """As `seconds_of`; on a CPU the processor's time, which other work on the machine changes less."""
    if device.type == "cuda":
        return seconds_of(action, device)
    start = time.process_time()
    action()
    return time.process_time() - start


def seconds_of(action: Callable[[], object], device: torch.device) -> float:
    """Seconds until the call and all the work that it queued are done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def gpu_seconds_of(action: Callable[[], object]) -> float:
    """Seconds that the GPU works on it, as in a training step whose work is queued ahead of the GPU."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(20_000_000)  # cycles, about 10 ms: the CPU has queued everything before they are over
    begin.record()
    action()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000.0

"""Wall-clock of one call, on any device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def seconds_of(action: Callable[[], object], device: torch.device) -> float:
    """Seconds until the call and all the work that it queued are done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start

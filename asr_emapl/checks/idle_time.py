"""Time that a computation takes on an otherwise idle machine, measured even if other programs run on it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def idle_seconds(run: Callable[[], object], device: torch.device, times: int = 3) -> float:
    """The shortest time of several calls of `run`, without the time in which other programs had the cores.

    On a CPU, this is processor time: that of this thread, which takes part in the work of all threads of
    torch, or the mean of the threads if it is longer. On a GPU, it is wall-clock time.
    """
    measure = _on_gpu if device.type == "cuda" else _on_cpu
    return max(min(measure(run, device) for _ in range(times)), 1e-9)


def _on_gpu(run: Callable[[], object], device: torch.device) -> float:
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _on_cpu(run: Callable[[], object], device: torch.device) -> float:
    thread, process = time.thread_time(), time.process_time()
    run()
    mean = (time.process_time() - process) / torch.get_num_threads()
    return max(time.thread_time() - thread, mean)

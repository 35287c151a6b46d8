"""The time of a computation does not count what other programs do meanwhile."""

from __future__ import annotations

import time

import torch

from asr_emapl.checks.idle_time import idle_seconds

CPU = torch.device("cpu")


def work() -> None:
    """0.1 s of computation."""
    end = time.thread_time() + 0.1
    while time.thread_time() < end:
        pass


def test_time_without_the_core_does_not_count():
    def interrupted() -> None:
        work()
        time.sleep(0.4)  # another program has the core

    assert 0.1 <= idle_seconds(interrupted, CPU, 2) < 0.3


def test_the_shortest_time_counts():
    rounds = iter([3, 1, 2])

    def changing() -> None:
        for _ in range(next(rounds)):
            work()

    assert 0.1 <= idle_seconds(changing, CPU, 3) < 0.2


def test_the_computation_of_other_threads_counts():
    """torch's threads share a product of matrices; the time is not below their mean."""
    matrix = torch.randn(600, 600)
    before = time.process_time()
    found = idle_seconds(lambda: matrix @ matrix, CPU, 1)
    assert found >= (time.process_time() - before) / torch.get_num_threads() * 0.5

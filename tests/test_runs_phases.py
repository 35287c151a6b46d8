"""Phases: every second between marks belongs to one of them, and none beyond a step."""

from __future__ import annotations

import itertools

import pytest
import torch

from asr_emapl.data.step_batch import MicroBatch
from asr_emapl.runs import phases as phases_module
from asr_emapl.runs.phases import PHASES, Phases


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(phases_module, "time", made)
    return made


def seconds(taken: dict[str, float]) -> dict[str, float]:
    return {phase: taken[phase] for phase in PHASES if taken[phase]}


def test_time_goes_to_the_phase_that_it_ended_with(clock):
    def batches():
        for number in itertools.count():
            clock.now += 0.5  # the wait
            yield number

    phases = Phases(torch.device("cpu"))
    coming = phases.waiting(batches())
    for number in range(3):
        assert next(coming) == number
        clock.now += 2.0
        phases.mark("teacher")
        clock.now += 4.0
        phases.mark("student")
        clock.now += 0.25
        phases.mark("optimizer")
        clock.now += 1000.0  # a validation
    taken = phases.take()
    assert seconds(taken) == {"data": 1.5, "teacher": 6.0, "student": 12.0, "optimizer": 0.75}
    assert taken["steps"] == 3
    assert seconds(phases.take()) == {}


def test_what_is_taken_in_the_middle_of_a_run_is_not_taken_again(clock):
    phases = Phases(torch.device("cpu"))
    coming = phases.waiting(iter(range(10)))
    for expected in (1.0, 2.0, 3.0):
        next(coming)
        clock.now += expected
        phases.mark("student")
        clock.now += 50.0
        assert seconds(phases.take()) == {"student": expected}


def test_marks_do_not_pile_up(clock):
    phases = Phases(torch.device("cpu"))
    for _ in range(5001):
        phases.mark("student")
        clock.now += 1.0
    assert len(phases._marks) <= 1001
    assert phases.take()["student"] == 5000.0


def test_the_backward_pass_marks_the_end_of_its_own_work(clock):
    """What was queued after it, as DDP's wait is, comes later."""
    phases = Phases(torch.device("cpu"))
    phases.mark("features")
    x = torch.ones(3, requires_grad=True)

    def wait() -> None:
        clock.now += 10.0

    def works(gradient):
        clock.now += 3.0
        torch.autograd.Variable._execution_engine.queue_callback(wait)

    x.register_hook(works)
    loss = (2.0 * x).sum()
    phases.mark_backward(loss, "student")
    loss.backward()
    phases.mark("communication")
    assert seconds(phases.take()) == {"student": 3.0, "communication": 10.0}


def test_padding_is_counted():
    phases = Phases(torch.device("cpu"))
    phases.count(MicroBatch(["a", "b"], torch.zeros(2, 16000), torch.tensor([16000, 8000]), None))
    taken = phases.take()
    assert (taken["audio"], taken["padded"]) == (1.5, 2.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_s_time_is_its_own():
    phases = Phases(torch.device("cuda"))
    phases.mark("data")
    torch.cuda._sleep(200_000_000)  # about 0.1 s, queued at once
    phases.mark("student")
    assert 0.02 < phases.take()["student"] < 1.0

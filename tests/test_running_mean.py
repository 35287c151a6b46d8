"""The running mean: an average over any window, from what two checkpoints keep."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asr_emapl.running_mean import RunningMean, window

STEPS = st.lists(st.tuples(st.floats(0.1, 500.0), st.floats(-5.0, 5.0)), min_size=2, max_size=30)


class Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(3))

    @torch.no_grad()
    def set(self, value: float) -> None:
        self.theta.fill_(value)


@settings(max_examples=50)
@given(STEPS, st.data())
def test_a_window_is_the_mean_of_what_lies_in_it(steps, data):
    first = data.draw(st.integers(0, len(steps) - 1))
    student = Point()
    mean = RunningMean(student)
    states = [copy.deepcopy(mean.state_dict())]
    for audio, value in steps:
        student.set(value)
        mean.update(audio)
        states.append(copy.deepcopy(mean.state_dict()))
    inside = [(audio, float(torch.tensor(value))) for audio, value in steps[first:]]
    expected = sum(a * v for a, v in inside) / sum(a for a, _ in inside)
    assert window(states[first], states[-1])["theta"][0].item() == pytest.approx(expected, abs=1e-5)


@settings(max_examples=30)
@given(STEPS)
def test_how_audio_is_packed_does_not_matter(steps):
    whole, halves = Point(), Point()
    one, two = RunningMean(whole), RunningMean(halves)
    for audio, value in steps:
        whole.set(value)
        halves.set(value)
        one.update(audio)
        two.update(audio / 2.0)
        two.update(audio / 2.0)
    assert torch.allclose(one.mean["theta"], two.mean["theta"], rtol=1e-12, atol=1e-12)
    assert one.audio == pytest.approx(two.audio)


def test_a_short_window_late_in_a_long_run_keeps_its_digits():
    student = Point()
    mean = RunningMean(student)
    student.set(1000.0)
    for _ in range(2000):
        mean.update(60.0)
    start = copy.deepcopy(mean.state_dict())
    student.set(1001.0)
    mean.update(60.0)
    assert window(start, mean.state_dict())["theta"][0].item() == pytest.approx(1001.0, abs=1e-3)


def test_a_saved_mean_goes_on():
    student = Point()
    whole = RunningMean(student)
    student.set(1.0)
    whole.update(60.0)
    other = RunningMean(student)
    other.load_state_dict(copy.deepcopy(whole.state_dict()))
    student.set(4.0)
    for mean in (whole, other):
        mean.update(30.0)
    assert torch.equal(whole.mean["theta"], other.mean["theta"])
    assert other.mean["theta"][0].item() == pytest.approx(2.0)


def test_tied_weights_are_averaged_under_both_names():
    student = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    student[1].weight = student[0].weight
    mean = RunningMean(student)
    nothing = copy.deepcopy(mean.state_dict())
    for value in (1.0, 3.0):
        with torch.no_grad():
            student[0].weight.fill_(value)
        mean.update(60.0)
    weights = window(nothing, mean.state_dict())
    assert {name: w[0, 0].item() for name, w in weights.items()} == {"0.weight": 2.0, "1.weight": 2.0}


def test_windows_that_are_none():
    student = Point()
    mean = RunningMean(student)
    mean.update(60.0)
    state = mean.state_dict()
    with pytest.raises(ValueError, match="ends at 60 s of audio and starts at 60 s"):
        window(state, state)
    other = RunningMean(nn.Linear(2, 2)).state_dict()
    with pytest.raises(ValueError, match="different models"):
        window(other, state)
    larger = {"mean": {"theta": torch.zeros(4)}, "audio": 1.0}
    with pytest.raises(ValueError, match=r"theta .*\(4,\)"):
        window(larger, state)
    with pytest.raises(ValueError, match="must not be negative"):
        mean.update(-1.0)


def test_replaced_parameters_are_an_error():
    student = nn.Linear(2, 2)
    mean = RunningMean(student)
    student.load_state_dict(nn.Linear(2, 2).state_dict(), assign=True)
    with pytest.raises(RuntimeError, match=r"weight of the student .* build a new RunningMean"):
        mean.update(1.0)

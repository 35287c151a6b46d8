"""The labeller of TopIPL: the mean of the weights at the best validations."""

from __future__ import annotations

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asr_emapl.pseudo_labels.best_average import BestAverage


def student() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def change(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)


def weights(best: BestAverage) -> set[float]:
    best.refresh()
    return {float(x) for tensor in best.module.state_dict().values() for x in tensor.flatten()}


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=8, unique=True), st.integers(1, 4))
def test_it_is_the_mean_of_the_lowest_wers(rates, count):
    model = student()
    best = BestAverage(model, copy.deepcopy(model), count)
    for step, rate in enumerate(rates):
        change(model, float(step))
        best.validated(step, rate)
    steps = sorted(range(len(rates)), key=lambda step: rates[step])[:count]
    best.refresh()
    assert torch.allclose(best.module[0].weight, torch.tensor(sum(steps) / len(steps)))
    assert int(best.module[1].num_batches_tracked) == steps[0]


def test_before_a_validation_it_is_the_student():
    model = student()
    best = BestAverage(model, copy.deepcopy(model), 2)
    for value in (3.0, 4.0):
        change(model, value)
        assert weights(best) == {value}
    best.validated(1, float("nan"))
    change(model, 5.0)
    assert weights(best) == {5.0}


def test_it_does_not_follow_the_student():
    model = student()
    best = BestAverage(model, copy.deepcopy(model), 2)
    change(model, 1.0)
    best.validated(1, 20.0)
    change(model, 9.0)
    assert weights(best) == {1.0}


def test_it_resumes():
    model = student()
    one, other = (BestAverage(model, copy.deepcopy(model), 2) for _ in range(2))
    for step, rate in enumerate([30.0, 20.0, 40.0]):
        change(model, float(step))
        one.validated(step, rate)
    other.load_state_dict(one.state_dict())
    for best in (one, other):
        change(model, 7.0)
        best.validated(7, 25.0)
    assert weights(one) == weights(other) == {4.0, 1.0}  # the counter of batches is that of step 1

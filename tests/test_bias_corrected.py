"""BEMA: the published recursion at the reference batch, the same average at any batch, and less lag."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from asr_emapl.bias_corrected import BiasCorrectedAverage


def scalar(value: float = 0.0) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def moved(path: list[float], kappa: int = 1, **options) -> BiasCorrectedAverage:
    """The average of a student on this path, of which a step at kappa takes every kappa-th value."""
    student = scalar(path[0])
    average = BiasCorrectedAverage(student, 60.0, **options)
    for value in path[kappa::kappa]:
        nn.init.constant_(student.weight, value)
        average.update(60.0 * kappa)
    return average


def test_it_is_the_published_recursion_at_the_reference_batch():
    path = [float(x) for x in torch.randn(50, generator=torch.Generator().manual_seed(0))]
    average = moved(path)
    ema = path[0]
    for t, theta in enumerate(path[1:]):
        beta = (10.0 + t + 0.5) ** -0.5
        ema = (1.0 - beta) * ema + beta * theta
    expected = ema + (10.0 + 49.0) ** -0.2 * (path[-1] - path[0])
    assert average.weights()["weight"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kappa", [2, 4, 8])
def test_the_batch_does_not_matter_to_a_student_that_moves_steadily(kappa):
    path = [0.001 * t for t in range(4001)]
    small, large = moved(path), moved(path, kappa)
    assert large.audio == small.audio
    one, other = (average.weights()["weight"].item() for average in (small, large))
    # The path is 4 long; the shift of the update by half a step remains, as with the teacher in post order.
    assert other == pytest.approx(one, abs=0.001 * kappa)


def test_it_lags_less_than_the_average_that_it_corrects():
    path = [0.001 * t for t in range(2001)]
    average = moved(path)
    lag = path[-1] - average.ema["weight"].item()
    assert lag > 0.0
    # Before the end of training, the correction can exceed the lag; it falls with alpha.
    shares = [
        (moved(path, bias_power=power).weights()["weight"].item() - path[-1] + lag) / lag
        for power in (0.2, 0.5)
    ]
    assert shares[0] > shares[1] > 0.0


def test_it_resumes_exactly_and_does_not_change_the_student():
    path = [float(x) for x in torch.randn(40, generator=torch.Generator().manual_seed(1))]
    whole, first = moved(path), moved(path[:21])
    state = copy.deepcopy(first.state_dict())
    student = scalar(7.0)
    rest = BiasCorrectedAverage(student, 60.0)
    rest.load_state_dict(state)
    for value in path[21:]:
        nn.init.constant_(student.weight, value)
        rest.update(60.0)
    assert torch.equal(rest.weights()["weight"], whole.weights()["weight"])
    assert student.weight.item() == pytest.approx(path[-1])


def test_what_makes_no_average():
    for wrong in ({"reference": 0.0}, {"reference": 1.0, "lag": 0.0}, {"reference": 1.0, "ema_power": 2.0}):
        with pytest.raises(ValueError, match="must be"):
            BiasCorrectedAverage(scalar(), **wrong)
    average = BiasCorrectedAverage(scalar(), 60.0)
    with pytest.raises(ValueError, match="must not be negative"):
        average.update(-1.0)
    with pytest.raises(ValueError, match="names or shapes"):
        average.load_state_dict({"ema": {}, "start": {}, "audio": 0.0})
    before = average.weights()["weight"].clone()
    average.update(0.0)
    assert torch.equal(average.weights()["weight"], before)

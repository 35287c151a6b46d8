"""The rule as a whole, in small: a student that learns from noisy samples and from its own average.

Thousands of coordinates, each pulled towards 1 by samples and towards the teacher's coordinate by its labels,
so that a wrong momentum comes back through the loss as it does with pseudo-labels. Curves of the teacher over
samples have to agree between kappa 1 and 4 with the rule on, and must not with a part of it off.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asr_emapl.ema import EmaTeacher
from asr_emapl.scaling import half_life, scale_hyperparameters

SAMPLES, RHO, KAPPA = 4096, 0.99, 4
REFERENCE = {
    "sgd": (torch.optim.SGD, {"lr": 2e-3, "momentum": 0.0}),
    "adam": (torch.optim.Adam, {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-8}),
    "adamw": (torch.optim.AdamW, {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.1}),
}
# Noise of a sample's gradient, which itself is about 1: noise dominates, as square-root rules assume.
SIGMA = 8.0


class Coordinates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(4000))


def curve(name: str, kappa: int, *, scale_optimizer: bool = True, scale_rho: bool = True) -> torch.Tensor:
    """The teacher's mean coordinate after every KAPPA samples."""
    generator = torch.Generator().manual_seed(0)
    student = Coordinates()
    cls, reference = REFERENCE[name]
    options = scale_hyperparameters(name, reference, kappa) if scale_optimizer else reference
    optimizer = cls(student.parameters(), **options)
    teacher = EmaTeacher(student, half_life(RHO, 1.0))
    means = []
    for step in range(1, SAMPLES // kappa + 1):
        noise = torch.randn(kappa, 4000, generator=generator).mean(0)
        theta = student.theta.detach()
        student.theta.grad = (theta - 1.0) + 0.5 * (theta - teacher.module.theta) + SIGMA * noise
        optimizer.step()
        teacher.update(float(kappa) if scale_rho else 1.0)
        if step * kappa % KAPPA == 0:
            means.append(teacher.module.theta.mean())
    return torch.stack(means)


@pytest.fixture(scope="module", params=list(REFERENCE))
def reference(request):
    return request.param, curve(request.param, 1)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def test_with_the_rule_the_teachers_curve_is_that_of_the_reference(reference):
    name, expected = reference
    assert expected[-1] > 0.2  # it has learned something
    assert distance(curve(name, KAPPA), expected) < 0.02


@pytest.mark.parametrize("off", [{"scale_rho": False}, {"scale_optimizer": False}])
def test_without_a_part_of_the_rule_it_is_not(reference, off):
    name, expected = reference
    with_rule = distance(curve(name, KAPPA), expected)
    assert distance(curve(name, KAPPA, **off), expected) > 3.0 * with_rule

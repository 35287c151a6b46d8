"""Small students for tests of the teacher."""

from __future__ import annotations

import math

import torch
from torch import nn

S = 60.0
"""Audio of a reference step."""


class Point(nn.Module):
    """A student with a few parameters, for which the teacher can be computed by hand."""

    def __init__(self, value=0.0, size=3, dtype=torch.float32):
        super().__init__()
        self.theta = nn.Parameter(torch.full((size,), value, dtype=dtype))

    def forward(self, x):
        return x * self.theta

    @torch.no_grad()
    def set(self, value):
        self.theta.fill_(value)


def net(seed=0, *, bias=True):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8, bias=bias), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def step(model, seed):
    """Simulate an optimizer step: change all weights, and update the statistics of the norms."""
    generator = torch.Generator().manual_seed(seed)
    model.train()
    model(torch.randn(5, 4, generator=generator))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.1)


def half_life_of(rho):
    return S * math.log(2.0) / -math.log(rho)


def value(teacher):
    return teacher.module.theta[0].item()

"""Batches that adapt, on many noisy quadratics: AdaScale, decay by batch, and growth by measured noise.

The package's scaling plan gives the hyper-parameters of each step, as in a training run; one sample counts as
one second of audio. All runs have the same learning-rate schedule and start at theta = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from noisy_parabola import Array

from asr_emapl.scaling import (
    BatchGrowth,
    BatchSchedule,
    NoiseAverage,
    ReferenceOptimizer,
    ScalingPlan,
    Schedule,
    StepAudio,
    double_with_decay,
    rescale_optimizer_state,
)
from asr_emapl.scaling.gradient_noise import GradientNoise, estimate_noise

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 1e-3}),
    "adam": (torch.optim.Adam, {"lr": 5e-3, "betas": (0.99, 0.999), "eps": 1e-8}),
}


@dataclass(frozen=True)
class Problem:
    """Losses theta ** 2 / 2; sigma is the noise of a sample's gradient theta.

    The learning rate falls by a cosine to `final` in the second half of `samples`. rho is the momentum of the
    average per sample; `noise_half_life` that of the measured noise, in samples.
    """

    count: int = 1_000
    sigma: float = 10.0
    samples: int = 8_192
    final: float = 0.05
    rho: float = 0.999
    noise_half_life: float = 512.0

    @property
    def schedule(self) -> Schedule:
        """The learning-rate schedule."""
        return Schedule(self.samples / 3600.0, 0.0, self.samples / 7200.0, self.final)


@dataclass(frozen=True)
class Trace:
    """A run: samples on the clock, and mean and average of the parameter, after each step.

    Attributes:
        consumed: samples consumed, more than on the clock with AdaScale.
        loss: mean loss at the end.
        batch: last batch.
    """

    optimizer: str
    name: str
    clock_T: Array
    mean_T: Array
    average_T: Array
    consumed: float
    loss: float
    batch: float


def plans(problem: Problem, optimizer: str) -> dict[str, ScalingPlan]:
    """The runs, by name; the first is the reference."""
    group, schedule = OPTIMIZERS[optimizer][1], problem.schedule
    half_life = math.log(0.5) / math.log(problem.rho)
    noise = NoiseAverage(problem.noise_half_life)

    def plan(batches: BatchSchedule, rule: Any = "full", *, rescale: bool = False) -> ScalingPlan:
        reference = ReferenceOptimizer(optimizer, group, rule=rule, rescale_moments=rescale)
        counted: Any = "gained" if rule == "adascale" else "actual"
        steps = StepAudio.nominal(batches, 1.0)
        return ScalingPlan(steps, reference, schedule, half_life, counted, noise)

    with_decay = double_with_decay(BatchSchedule(4.0), schedule, 64.0)
    by_need = BatchSchedule(1.0, growth=BatchGrowth(0.9, 64.0))
    return {
        "kappa 1": plan(BatchSchedule(1.0)),
        "kappa 64": plan(BatchSchedule(64.0)),
        "kappa 64, AdaScale": plan(BatchSchedule(64.0), "adascale"),
        "kappa 4": plan(BatchSchedule(4.0)),
        "kappa 4, doubled with the decay": plan(with_decay),
        "the same, moments rescaled": plan(with_decay, rescale=True),
        "kappa 1, doubled by need": plan(by_need),
        "by need, moments rescaled": plan(by_need, rescale=True),
    }


def descend(problem: Problem, optimizer: str, name: str, seed: int) -> Trace:
    """One run. Each step's noise is measured from two halves of its batch."""
    draw, plan = torch.Generator().manual_seed(seed), plans(problem, optimizer)[name]
    theta = torch.ones(problem.count, requires_grad=True)
    made = OPTIMIZERS[optimizer][0]([theta], **OPTIMIZERS[optimizer][1])
    clock, consumed, gain, z = 0.0, 0.0, 1.0, 1.0
    states = [(0.0, 1.0, 1.0)]
    while clock < problem.samples:
        batch = plan.steps.seconds(clock / 3600.0)
        now = plan.at(clock / 3600.0)
        rescale_optimizer_state(made, gain, now.gain, second_moments=plan.optimizer.rescale_moments)
        gain = now.gain
        made.param_groups[0].update(now.param_group)
        theta.grad, noise = _gradient(theta.detach(), problem.sigma / math.sqrt(batch), draw)
        made.step()
        consumed += batch
        clock += now.progress * batch
        mean = float(theta.detach().mean())
        z += (1.0 - now.rho) * (mean - z)
        states.append((clock, mean, z))
        plan = plan.observe(noise, now.kappa, clock / 3600.0)
    clock_T, mean_T, average_T = np.array(states).T
    loss = float(theta.detach().double().square().mean()) / 2.0
    return Trace(
        optimizer, name, clock_T, mean_T, average_T, consumed, loss, plan.steps.batches.seconds(math.inf)
    )


def _gradient(
    theta: torch.Tensor, sigma: float, draw: torch.Generator
) -> tuple[torch.Tensor, GradientNoise | None]:
    """The gradient of a batch with noise sigma, and its noise from two halves of the batch."""
    halves = [theta + math.sqrt(2.0) * sigma * torch.randn(theta.shape, generator=draw) for _ in range(2)]
    gradient = (halves[0] + halves[1]) / 2.0
    parts = [(float((half / 2.0).square().sum()), 1) for half in halves]
    return gradient, estimate_noise(parts, float(gradient.square().sum()))


def traces(problem: Problem, optimizer: str, seed: int) -> list[Trace]:
    """All runs of an optimizer, each with its own noise; the reference first."""
    return [descend(problem, optimizer, name, seed + i) for i, name in enumerate(plans(problem, optimizer))]


def schedule_rows(runs: Sequence[Trace]) -> list[dict[str, Any]]:
    """Largest deviations of the mean parameter and of its average from the first run, at equal clocks."""
    first, rows = runs[0], []
    for run in runs:
        row = {
            "optimizer": run.optimizer,
            "name": run.name,
            "steps": len(run.clock_T) - 1,
            "batch": run.batch,
        }
        row |= {"samples": run.consumed, "loss": run.loss}
        for key in ("mean_T", "average_T"):
            expected = np.interp(run.clock_T, first.clock_T, getattr(first, key))
            row[key] = float(np.abs(getattr(run, key) - expected).max())
        rows.append(row)
    return rows

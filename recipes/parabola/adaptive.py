"""torch's Adam and Adagrad on many noisy quadratics at kappa samples per step.

The square-root rule of Malladi et al. (2022) for Adam, and the rule for Adagrad, hold where noise dominates
the gradient: a sample's gradient is theta plus much larger noise. Runs are compared by the mean over the
quadratics at equal numbers of samples. The moving average is linear, so the mean of the averages is the
average of the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from noisy_parabola import Array, average, largest_error

from asr_emapl.scaling import scale_hyperparameters, scale_momentum

Group = dict[str, Any]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adagrad": torch.optim.Adagrad,
}


@dataclass(frozen=True)
class Quadratics:
    """Losses theta ** 2 / 2, starting at theta = 1; sigma is the noise of a sample's gradient theta."""

    count: int = 1_000  # even, because quadratics share noise in pairs
    sigma: float = 10.0
    samples: int = 40_000
    rho: float = 0.9999


def reference(quadratics: Quadratics, name: str) -> Group:
    """Hyper-parameters at one sample per step, scaled with sigma so that it does not change the drift."""
    sigma = quadratics.sigma
    if name == "adam":
        return {"lr": 2e-5 * sigma, "betas": (0.99, 0.999), "eps": 1e-8}
    # The initial accumulator corresponds to 100 samples, so that its scaling matters.
    return {"lr": 0.02 * sigma, "eps": 1e-8, "initial_accumulator_value": 100.0 * sigma**2}


def modes(name: str, base: Group, kappa: int) -> dict[str, Group]:
    """Ways to scale an optimizer's hyper-parameters to kappa; the first is the rule."""
    rule = scale_hyperparameters(name, base, kappa)
    groups = {"rule": rule}
    if name == "adam":
        groups["rule, betas linear"] = scale_hyperparameters(name, base, kappa, beta_form="linear")
        groups["rule, but betas kept"] = rule | {"betas": base["betas"]}
    else:
        groups["rule, but lr sqrt(kappa)"] = rule | {"lr": base["lr"] * math.sqrt(kappa)}
    groups["rule, but lr kappa"] = rule | {"lr": base["lr"] * kappa}
    return groups | {"nothing scaled": dict(base)}


def descend(quadratics: Quadratics, name: str, group: Mapping[str, Any], kappa: int, seed: int) -> Array:
    """Mean and variance over the quadratics, [T + 1, 2].

    Noise is drawn for pairs of quadratics with opposite signs (antithetic sampling). Its effect on their mean
    cancels to first order, which reduces the variance of the mean.
    """
    draw = torch.Generator().manual_seed(seed)
    theta = torch.ones(quadratics.count, requires_grad=True)
    theta.grad = torch.empty_like(theta)
    half = quadratics.count // 2
    optimizer = OPTIMIZERS[name]([theta], fused=True, **group)
    steps, sigma = quadratics.samples // kappa, quadratics.sigma / math.sqrt(kappa)
    states = torch.zeros(steps + 1, 2)
    states[0, 0] = 1.0
    with torch.no_grad():
        noise = torch.empty_like(theta)
        for t in range(steps):
            noise[:half].normal_(0.0, sigma, generator=draw)
            torch.neg(noise[:half], out=noise[half:])
            torch.add(theta, noise, out=theta.grad)
            optimizer.step()
            states[t + 1, 1], states[t + 1, 0] = torch.var_mean(theta)
    return states.double().numpy()


@dataclass(frozen=True)
class Curve:
    """A run's mean and variance over the quadratics at every step."""

    optimizer: str
    kappa: int
    mode: str
    states_T2: Array


def curves(quadratics: Quadratics, name: str, kappas: Sequence[int], seed: int) -> list[Curve]:
    """All runs of an optimizer, starting with kappa = 1."""
    base = reference(quadratics, name)
    runs = [Curve(name, 1, "reference", descend(quadratics, name, base, 1, seed))]
    for kappa in kappas:
        for mode, group in modes(name, base, kappa).items():
            # Another seed, because the same draws would belong to other samples.
            runs.append(Curve(name, kappa, mode, descend(quadratics, name, group, kappa, seed + kappa)))
    return runs


def deviation_rows(quadratics: Quadratics, runs: Sequence[Curve]) -> list[dict[str, Any]]:
    """Largest deviations of the mean student and the mean average from kappa = 1, which is the first run.

    The variance ratio is taken over the last quarter of the run. One row per other run.
    """
    base = runs[0].states_T2
    base_z = average(base[:, 0], quadratics.rho)
    rows: list[dict[str, Any]] = []
    for run in runs[1:]:
        kappa, mean = run.kappa, run.states_T2[:, 0]
        momenta = {"average": scale_momentum(quadratics.rho, kappa), "average_unscaled": quadratics.rho}
        late = slice(3 * len(mean) // 4, None)
        row: dict[str, Any] = {"optimizer": run.optimizer, "kappa": kappa, "mode": run.mode}
        row["student"] = float(largest_error(mean, base[:, 0], kappa))
        for key, rho in momenta.items():
            row[key] = float(largest_error(average(mean, rho), base_z, kappa))
        row["variance_ratio"] = float(run.states_T2[late, 1].mean() / base[::kappa][late, 1].mean())
        rows.append(row)
    return rows

"""SGD on a noisy parabola and the moving average of its iterates, at kappa samples per step.

There is one parameter with loss a theta ** 2 / 2. The gradient of a sample is g = a theta plus noise of
variance b g ** 2 + c (a similar problem is in section 3.1 of Busbridge et al. 2023; the constants are ours).
The noise of a batch is the mean noise of its samples, so runs at all kappas use the same samples in the same
order and differ only in the batch.

Axes: T steps, R independent runs, C candidates. Arrays of states have T + 1 rows, starting with the initial
state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr_emapl.scaling import scale_hyperparameters, scale_momentum

Array = NDArray[np.float64]
ORDERS = ("pre", "midpoint", "post")


@dataclass(frozen=True)
class Parabola:
    """The problem, and the optimizer at one sample per step."""

    curvature: float = 1.0
    relative_noise: float = 100.0  # b: factor of the squared gradient in the variance
    noise: float = 10.0  # c: the variance at the minimum
    start: float = 1.0
    samples: int = 65_536
    lr: float = 1e-4
    rho: float = 0.9999


def scaled_lr(parabola: Parabola, kappa: int) -> float:
    """The learning rate at kappa: lr kappa, by the rule for SGD."""
    return float(scale_hyperparameters("sgd", {"lr": parabola.lr}, kappa)["lr"])


def sample_noise(parabola: Parabola, runs: int, seed: int) -> Array:
    """Unit noise of every sample, [samples, R]."""
    return np.random.default_rng(seed).standard_normal((parabola.samples, runs))


def batch_noise(noise: Array, kappa: int) -> Array:
    """The mean over each batch of kappa samples, [T, R]; its variance is 1 / kappa."""
    return noise.reshape(-1, kappa, noise.shape[1]).mean(axis=1)


def student(parabola: Parabola, kappa: int, noise: Array | None = None) -> Array:
    """Iterates of SGD, [T + 1, R], given the noise of each sample; without noise, R = 1."""
    lr, a = scaled_lr(parabola, kappa), parabola.curvature
    steps = parabola.samples // kappa
    xi = np.zeros((steps, 1)) if noise is None else batch_noise(noise, kappa)
    theta = np.empty((steps + 1, xi.shape[1]))
    theta[0] = parabola.start
    for t in range(steps):
        g = a * theta[t]
        theta[t + 1] = theta[t] - lr * (g + np.sqrt(parabola.relative_noise * g**2 + parabola.noise) * xi[t])
    return theta


def average(theta: Array, rho: float | Array, order: str = "post") -> Array:
    """z <- rho z + (1 - rho) theta along the first axis, starting at z = theta; rho may be an array.

    The order selects theta: "post" that after the step, "pre" that before it, "midpoint" (ours) the mean of
    both.
    """
    read = {"post": theta[1:], "pre": theta[:-1], "midpoint": 0.5 * (theta[1:] + theta[:-1])}[order]
    keep = np.asarray(rho)
    z = np.empty((len(theta), *np.broadcast_shapes(theta.shape[1:], keep.shape)))
    z[0] = theta[0]
    for t in range(len(read)):
        z[t + 1] = z[t] + (1.0 - keep) * (read[t] - z[t])
    return z


def largest_error(z: Array, reference: Array, kappa: int) -> Array:
    """max |z - reference| over the samples at which the run at kappa has a state, per column."""
    return np.abs(z - reference[::kappa]).max(axis=0)


def best_momentum(theta: Array, reference: Array, kappa: int, rho: float, order: str) -> tuple[float, float]:
    """The rho with the smallest `largest_error` for noise-free iterates `theta` [T + 1, 1], and that error.

    The iterates decrease, so z at any time increases with rho, and its error first falls, then rises; so does
    the largest error. A grid over 1 - rho, refined around its best point, therefore finds the minimum. If no
    rho is better than the given one, that one is returned.
    """
    low, high, points = (1.0 - rho) / 4.0, min(1.0, (1.0 - rho) * 4.0), 129
    given = float(largest_error(average(theta, rho, order), reference, kappa)[0])
    for _ in range(5):
        forget = np.geomspace(low, high, points)
        errors = largest_error(average(theta, 1.0 - forget, order), reference, kappa)
        best = int(errors.argmin())
        low, high = float(forget[max(best - 1, 0)]), float(forget[min(best + 1, points - 1)])
    return (1.0 - float(forget[best]), float(errors[best])) if errors[best] < given else (rho, given)


def trajectory_rows(parabola: Parabola, kappas: Sequence[int]) -> list[dict[str, float]]:
    """Without noise: errors of the rule in each order and of an unscaled rho, and the best rho, per kappa.

    To first order in kappa, with a lr = 1 - rho = h and time t in units of 1 / h samples (theta = exp(-t),
    z = (1 + t) exp(-t)), the student at kappa is ahead by t (kappa - 1) h / 2, which changes its average by
    (t ** 2 / 2) exp(-t). The average itself is (kappa - 1) / 2 samples late in "pre" order and as early in
    "post" order, which changes it by -+ t exp(-t). In "pre" order, the two errors have opposite signs; in
    "post" order, they add up. The largest is (kappa - 1) h / 2 times 0.231 (pre), 0.271 (midpoint) or 0.587
    (post).
    """
    theta_1 = student(parabola, 1)
    references = {order: average(theta_1, parabola.rho, order) for order in ORDERS}
    rows = []
    for kappa in kappas:
        theta, rho = student(parabola, kappa), scale_momentum(parabola.rho, kappa)
        row: dict[str, float] = {"kappa": kappa, "rho": rho}
        for order, reference in references.items():
            row[order] = float(largest_error(average(theta, rho, order), reference, kappa)[0])
            if order != "midpoint":
                best, error = best_momentum(theta, reference, kappa, rho, order)
                row |= {f"best_rho_{order}": best, f"best_error_{order}": error}
        unscaled = average(theta, parabola.rho)
        row["unscaled"] = float(largest_error(unscaled, references["post"], kappa)[0])
        rows.append(row)
    return rows


def noisy_rows(parabola: Parabola, kappas: Sequence[int], noise: Array) -> list[dict[str, float]]:
    """With noise: the largest error of the average in post order, mean over runs, one row per kappa."""
    reference = average(student(parabola, 1, noise), parabola.rho)
    rows = []
    for kappa in kappas:
        theta = student(parabola, kappa, noise)
        row: dict[str, float] = {"kappa": kappa}
        for name, rho in (("rule", scale_momentum(parabola.rho, kappa)), ("unscaled", parabola.rho)):
            row[name] = float(largest_error(average(theta, rho), reference, kappa).mean())
        rows.append(row)
    return rows


def stationary_variances(parabola: Parabola, kappa: int, rho: float) -> tuple[float, float]:
    """Stationary variances of theta and of its average, for additive noise of variance 1.

    With q = 1 - a lr kappa, theta <- q theta - lr kappa xi, Var xi = 1 / kappa, so
        v = q**2 v + (lr kappa)**2 / kappa           ->  v = kappa lr**2 / (1 - q**2).
    For z <- rho z + (1 - rho) theta (of the next step, "post"; "pre" is the same process one step later):
        E[z theta] = rho q E[z theta] + (1 - rho) v   ->  E[z theta] = (1 - rho) v / (1 - rho q)
        Var z = rho**2 Var z + (1 - rho)**2 v + 2 rho (1 - rho) q E[z theta]
            ->  Var z = v (1 - rho) / (1 + rho) (1 + rho q) / (1 - rho q).
    """
    q = 1.0 - parabola.curvature * scaled_lr(parabola, kappa)
    v = kappa * parabola.lr**2 / (1.0 - q**2)
    return v, v * (1.0 - rho) / (1.0 + rho) * (1.0 + rho * q) / (1.0 - rho * q)


def simulated_variances(
    parabola: Parabola, kappa: int, rhos: Sequence[float], runs: int, seed: int
) -> list[tuple[float, float]]:
    """Variances of theta and of its average for each rho, by simulation: (estimate, standard error).

    The first `parabola.samples` *steps* are discarded at every kappa, because the memory of an unscaled rho
    is constant in steps. The next ones are measured. The mean is 0, so squares are averaged over time, then
    over the independent runs.
    """
    draw, steps, lr = np.random.default_rng(seed), parabola.samples, scaled_lr(parabola, kappa)
    q, spread = 1.0 - parabola.curvature * lr, lr / np.sqrt(kappa)
    forget = 1.0 - np.asarray(rhos)[:, None]
    theta, z = np.zeros(runs), np.zeros((len(rhos), runs))
    squares, count = np.zeros((1 + len(rhos), runs)), 0
    stride = max(1, steps // 256)  # neighbouring steps are correlated
    for t in range(1, 2 * steps + 1):
        theta = q * theta - spread * draw.standard_normal(runs)
        z += forget * (theta - z)
        if t > steps and t % stride == 0:
            squares[0] += theta**2
            squares[1:] += z**2
            count += 1
    means = squares / count
    return [(float(row.mean()), float(row.std(ddof=1) / np.sqrt(runs))) for row in means]


def variance_rows(parabola: Parabola, kappas: Sequence[int], runs: int, seed: int) -> list[dict[str, float]]:
    """Stationary variances in closed form and simulated, with the rule and with an unscaled rho."""
    rows = []
    for kappa in kappas:
        momenta = {"rule": scale_momentum(parabola.rho, kappa), "unscaled": parabola.rho}
        found = simulated_variances(parabola, kappa, list(momenta.values()), runs, seed + kappa)
        row: dict[str, float] = {"kappa": kappa}
        row["theta"] = stationary_variances(parabola, kappa, parabola.rho)[0]
        row["theta_simulated"], row["theta_error"] = found[0]
        for (name, rho), (estimate, error) in zip(momenta.items(), found[1:], strict=True):
            row[name] = stationary_variances(parabola, kappa, rho)[1]
            row |= {f"{name}_simulated": estimate, f"{name}_error": error}
        rows.append(row)
    return rows

"""The noisy parabola with and without the EMA Scaling Rule: tables, results.json and figures.

python recipes/parabola/parabola.py --exp exp/parabola
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import adaptive
import figures
import noisy_parabola
import schedules
from adaptive import Quadratics
from noisy_parabola import Array, Parabola, average, sample_noise, scale_momentum, student
from schedules import Problem, Trace

from asr_emapl.processes import serve_parent
from asr_emapl.storage import write


@dataclass(frozen=True)
class Settings:
    """Problems, kappas and numbers of runs."""

    parabola: Parabola = field(default_factory=Parabola)
    quadratics: Quadratics = field(default_factory=Quadratics)
    kappas: tuple[int, ...] = (2, 8, 32, 128, 256, 512, 1024, 4096)
    shown: tuple[int, ...] = (8, 256)
    noisy_runs: int = 32
    variance_kappas: tuple[int, ...] = (1, 64, 1024)
    variance_runs: int = 512
    adaptive_kappas: tuple[int, ...] = (4, 16, 50)
    adaptive_shown: int = 16
    problem: Problem = field(default_factory=Problem)


def quick() -> Settings:
    """Settings for a test of the recipe, too small for conclusions."""
    return Settings(
        parabola=Parabola(samples=2048),
        quadratics=Quadratics(count=100, samples=800),
        kappas=(2, 8, 256),
        noisy_runs=4,
        variance_runs=16,
        problem=Problem(count=100, samples=1024),
    )


def trajectories(settings: Settings, seed: int) -> dict[int, dict[str, Array]]:
    """One noisy run at kappa = 1 and at the kappas shown in the figure."""
    parabola, noise = settings.parabola, sample_noise(settings.parabola, 1, seed)
    theta = student(parabola, 1, noise)
    runs = {1: {"student": theta, "average": average(theta, parabola.rho)}}
    for kappa in settings.shown:
        theta = student(parabola, kappa, noise)
        rule = average(theta, scale_momentum(parabola.rho, kappa))
        runs[kappa] = {"rule": rule, "unscaled": average(theta, parabola.rho)}
    return runs


def compute(
    settings: Settings, seed: int
) -> tuple[dict[str, Any], list[list[adaptive.Curve]], list[list[Trace]]]:
    """All tables, the runs with Adam and Adagrad, and those with batches that adapt.

    Uses two processes; the longest tasks start first.
    """
    parabola, quadratics = settings.parabola, settings.quadratics
    noise = sample_noise(parabola, settings.noisy_runs, seed)
    with ProcessPoolExecutor(2, initializer=serve_parent) as pool:
        descents = [
            pool.submit(adaptive.curves, quadratics, name, settings.adaptive_kappas, seed)
            for name in adaptive.OPTIMIZERS
        ]
        adapted = [
            pool.submit(schedules.traces, settings.problem, name, seed) for name in schedules.OPTIMIZERS
        ]
        variance = pool.submit(
            noisy_parabola.variance_rows, parabola, settings.variance_kappas, settings.variance_runs, seed
        )
        exact = pool.submit(noisy_parabola.trajectory_rows, parabola, settings.kappas)
        noisy = pool.submit(noisy_parabola.noisy_rows, parabola, settings.kappas, noise)
        runs = [descent.result() for descent in descents]
        tables = {"trajectory": exact.result(), "noisy": noisy.result(), "variance": variance.result()}
    rows = [row for curves in runs for row in adaptive.deviation_rows(quadratics, curves)]
    traces = [found.result() for found in adapted]
    tables |= {"schedules": [row for found in traces for row in schedules.schedule_rows(found)]}
    return tables | {"adaptive": rows}, runs, traces


Columns = Sequence[tuple[str, str, str]]
"""Header, key of a row, format."""


def table(title: str, rows: Sequence[Mapping[str, Any]], columns: Columns) -> str:
    """A Markdown table, aligned for a terminal."""
    cells = [[header for header, _, _ in columns]]
    cells += [[format(row[key], form) for _, key, form in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    return "\n".join([title, "", lines[0], "|" + "---|" * len(columns), *lines[1:], ""])


def report(tables: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    kappa = ("kappa", "kappa", "d")
    exact = [kappa, ("rho^kappa", "rho", ".5f")]
    exact += [(f"rule, {order}", order, ".1e") for order in noisy_parabola.ORDERS]
    exact += [("rho unscaled", "unscaled", ".3f")]
    for order in ("pre", "post"):
        exact += [(f"rho*, {order}", f"best_rho_{order}", ".5f"), ("error", f"best_error_{order}", ".1e")]
    noisy = [kappa, ("rule, post", "rule", ".1e"), ("rho unscaled", "unscaled", ".3f")]
    variance = [kappa]
    for name, key in (("student", "theta"), ("average, rule", "rule"), ("average, rho unscaled", "unscaled")):
        variance += [
            (name, key, ".2e"),
            ("simulated", f"{key}_simulated", ".2e"),
            ("+-", f"{key}_error", ".0e"),
        ]
    deviations = [
        ("optimizer", "optimizer", ""),
        kappa,
        ("scaling", "mode", ""),
        ("student", "student", ".3f"),
        ("average, rho^kappa", "average", ".3f"),
        ("average, rho unscaled", "average_unscaled", ".3f"),
        ("variance ratio", "variance_ratio", ".2f"),
    ]
    adapting = [
        ("optimizer", "optimizer", ""),
        ("batches", "name", ""),
        ("last batch", "batch", ".0f"),
        ("steps", "steps", "d"),
        ("samples", "samples", ".0f"),
        ("loss at the end", "loss", ".4f"),
        ("student", "mean_T", ".3f"),
        ("average", "average_T", ".3f"),
    ]
    parts = (
        ("Parabola without noise: max |z - z at kappa = 1|; rho* minimises it", "trajectory", exact),
        ("Parabola with noise: the same, mean over runs", "noisy", noisy),
        ("Stationary variances: closed form, and simulation +- standard error", "variance", variance),
        ("torch's Adam and Adagrad: max deviation of the mean from kappa = 1", "adaptive", deviations),
        (
            "Batches that adapt: max deviation of the mean from kappa = 1",
            "schedules",
            adapting,
        ),
    )
    return "\n".join(table(title, tables[key], columns) for title, key, columns in parts)


def main(arguments: Sequence[str]) -> None:
    """Run everything, print the tables, write results.json and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exp", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sigma", type=float, default=10.0)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    settings = quick() if options.quick else Settings()
    settings = replace(settings, quadratics=replace(settings.quadratics, sigma=options.sigma))
    exp: Path = options.exp
    tables, runs, traces = compute(settings, options.seed)
    content = {"seed": options.seed, "settings": asdict(settings)} | tables
    write(exp / "results.json", json.dumps(content, indent=1) + "\n")
    figures.draw_trajectories(exp / "trajectories", settings.parabola, trajectories(settings, options.seed))
    figures.draw_momentum(exp / "momentum", tables["trajectory"])
    figures.draw_variance(exp / "variance", settings.parabola, tables["variance"])
    figures.draw_adaptive(exp / "adaptive", runs, settings.adaptive_shown)
    figures.draw_schedules(exp / "schedules", traces)
    print(report(tables))


if __name__ == "__main__":
    main(sys.argv[1:])

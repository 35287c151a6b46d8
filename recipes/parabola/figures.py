"""Figures of the recipe as PNG and SVG. Lines also differ in dashes and markers, for greyscale print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from adaptive import Curve
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from noisy_parabola import Array, Parabola, scale_momentum, stationary_variances
from schedules import Trace

from asr_emapl.plotting import COLOURS, new_figure, write_plot

BLUE, ORANGE, GREEN, PINK = COLOURS[:4]
BASE: dict[str, Any] = {"color": "#c4c4c4", "linewidth": 6.0}
RULE: dict[str, Any] = {"color": ORANGE, "linestyle": (0, (3, 2)), "linewidth": 2.0}
UNSCALED: dict[str, Any] = {"color": BLUE, "linestyle": ":", "linewidth": 2.2}
_POINTS = 300  # points per trajectory, to keep the files small

Rows = Sequence[Mapping[str, Any]]


def draw_trajectories(out: Path, parabola: Parabola, runs: Mapping[int, Mapping[str, Array]]) -> None:
    """One noisy run: runs[kappa] has its "rule" and "unscaled"; runs[1] the "student" and its "average"."""
    shown = [kappa for kappa in runs if kappa > 1]
    with _panels(len(shown), sharey=True) as (figure, panels):
        for panel, kappa in zip(panels, shown, strict=True):
            _trace(panel, runs[1]["student"], 1, color="#000000", linewidth=0.9, label="student")
            _trace(panel, runs[1]["average"], 1, label="average, $\\kappa$ = 1", **BASE)
            _trace(panel, runs[kappa]["rule"], kappa, label="$\\rho^\\kappa$ (the rule)", **RULE)
            _trace(panel, runs[kappa]["unscaled"], kappa, label="$\\rho$ unscaled", **UNSCALED)
            panel.set_xlim(0.0, parabola.samples / 1000)
            panel.set(title=f"$\\kappa$ = {kappa}", xlabel="samples consumed (thousands)")
        panels[0].set_ylabel("parameter")
        _legend(figure, panels[0])
        _write(figure, out)


def draw_momentum(out: Path, rows: Rows) -> None:
    """Left: rho ** kappa and the best rho; right: the largest errors. Both over kappa."""
    kappas = [row["kappa"] for row in rows]
    rhos: dict[str, dict[str, Any]] = {
        "rho": {"label": "$\\rho^\\kappa$ (the rule)", **RULE},
        "best_rho_post": {"label": "$\\rho^*$, post", "color": GREEN, "marker": "o", "linestyle": "none"},
        "best_rho_pre": {"label": "$\\rho^*$, pre", "color": PINK, "marker": "^", "linestyle": "none"},
    }
    errors: dict[str, dict[str, Any]] = {
        "unscaled": {"label": "$\\rho$ unscaled", "marker": "s", **UNSCALED},
        "post": {"label": "rule, post", "marker": "o", **RULE},
        "midpoint": {"label": "rule, midpoint", "color": "#606060", "linewidth": 1.2},
        "pre": {"label": "rule, pre", "color": PINK, "linestyle": "-.", "marker": "^"},
        "best_error_post": {"label": "$\\rho^*$, post", "color": GREEN, "linestyle": "--"},
    }
    with _panels(2) as (figure, panels):
        for panel, lines in zip(panels, (rhos, errors), strict=True):
            for key, look in lines.items():
                panel.plot(kappas, [row[key] for row in rows], **look)
            _kappa_axis(panel, kappas)
            panel.legend(frameon=False, fontsize=11)
        panels[0].set(title="momentum", ylabel="$\\rho$")
        panels[1].set(title="largest error of the average", yscale="log")
        _write(figure, out)


def draw_variance(out: Path, parabola: Parabola, rows: Rows) -> None:
    """Stationary variances: lines in closed form, markers by simulation +- 2 standard errors."""
    most = int(max(row["kappa"] for row in rows))
    kappas = [2**power for power in range(most.bit_length())]
    looks: dict[str, tuple[str, dict[str, Any], str]] = {
        "theta": ("student", {"color": "#808080"}, "D"),
        "rule": ("average, $\\rho^\\kappa$ (the rule)", RULE, "o"),
        "unscaled": ("average, $\\rho$ unscaled", UNSCALED, "s"),
    }
    with _panels(1) as (figure, (panel,)):
        for key, (label, look, marker) in looks.items():
            momenta = [parabola.rho if key == "unscaled" else scale_momentum(parabola.rho, k) for k in kappas]
            which = 0 if key == "theta" else 1
            lines = [
                stationary_variances(parabola, k, r)[which] for k, r in zip(kappas, momenta, strict=True)
            ]
            panel.plot(kappas, lines, label=label, **look)
            panel.errorbar(
                [row["kappa"] for row in rows],
                [row[f"{key}_simulated"] for row in rows],
                yerr=[2 * row[f"{key}_error"] for row in rows],
                color=look["color"],
                marker=marker,
                linestyle="none",
            )
        _kappa_axis(panel, [row["kappa"] for row in rows])
        panel.set(title="stationary variance", yscale="log")
        panel.legend(frameon=False, fontsize=11)
        _write(figure, out)


def draw_adaptive(out: Path, runs: Sequence[Sequence[Curve]], kappa: int) -> None:
    """The mean student over samples at one kappa: one panel per optimizer, one line per mode."""
    looks: tuple[dict[str, Any], ...] = (
        RULE,
        {"color": GREEN, "linestyle": "-.", "linewidth": 1.6},
        {"color": PINK, "linewidth": 1.2},
        UNSCALED,
    )
    with _panels(len(runs)) as (figure, panels):
        for panel, curves in zip(panels, runs, strict=True):
            _trace(panel, curves[0].states_T2[:, 0], 1, label="$\\kappa$ = 1", **BASE)
            # The linear form of the betas gives the same line as the rule.
            shown = [c for c in curves if c.kappa == kappa and c.mode != "rule, betas linear"]
            for curve, look in zip(shown, looks, strict=True):
                _trace(panel, curve.states_T2[:, 0], kappa, label=curve.mode, **look)
            panel.set(title=f"{curves[0].optimizer.capitalize()}, $\\kappa$ = {kappa}")
            panel.set_xlabel("samples consumed (thousands)")
            # Up to where kappa = 1 falls below 0.05, if it does.
            (low,) = (curves[0].states_T2[:, 0] < 0.05).nonzero()
            panel.set_xlim(0.0, (low[0] if len(low) else len(curves[0].states_T2) - 1) / 1000)
            panel.legend(frameon=False, fontsize=11)
        panels[0].set_ylabel("mean parameter")
        _write(figure, out)


def draw_schedules(out: Path, traces: Sequence[Sequence[Trace]]) -> None:
    """Deviation of the mean parameter from the first run over the clock, one panel per optimizer."""
    looks = {
        "kappa 64": {"color": BLUE, "linestyle": ":", "linewidth": 2.2},
        "kappa 64, AdaScale": {"color": ORANGE, "linestyle": (0, (3, 2)), "linewidth": 2.0},
        "kappa 1, doubled by need": {"color": GREEN, "linestyle": "-.", "linewidth": 1.6},
        "by need, moments rescaled": {"color": PINK, "linestyle": "-", "linewidth": 1.2},
    }
    with _panels(len(traces), sharey=True) as (figure, panels):
        for panel, runs in zip(panels, traces, strict=True):
            first = runs[0]
            for run in runs:
                if run.name in looks:
                    expected = np.interp(run.clock_T, first.clock_T, first.mean_T)
                    stride = max(1, len(run.clock_T) // _POINTS)
                    deviation = (run.mean_T - expected)[::stride]
                    panel.plot(run.clock_T[::stride] / 1000, deviation, label=run.name, **looks[run.name])
            panel.set(title=first.optimizer, xlabel="samples on the clock (thousands)")
        panels[0].set_ylabel("mean parameter, less that at kappa 1")
        _legend(figure, panels[0])
        _write(figure, out)


@contextmanager
def _panels(count: int, sharey: bool = False) -> Iterator[tuple[Figure, list[Axes]]]:
    with new_figure(0.6 + 5.0 * count, 4.2, text_parse_math=True) as figure:
        axes = list(figure.subplots(1, count, sharey=sharey, squeeze=False)[0])
        for panel in axes:
            panel.grid(color="#e4e4e4", linewidth=0.8)
            panel.set_axisbelow(True)
            panel.spines[["top", "right"]].set_visible(False)
        yield figure, axes


def _trace(panel: Axes, states: Array, kappa: int, **look: Any) -> None:
    """Plot the states over thousands of samples, with fewer points."""
    stride = max(1, len(states) // _POINTS)
    thousands = [kappa * t / 1000 for t in range(0, len(states), stride)]
    panel.plot(thousands, states[::stride], **look)


def _kappa_axis(panel: Axes, kappas: Sequence[float]) -> None:
    panel.set_xscale("log", base=2)
    panel.set_xticks(kappas, [f"{kappa:.0f}" for kappa in kappas], fontsize=10)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xlabel("$\\kappa$ (samples per step)")


def _legend(figure: Figure, panel: Axes) -> None:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(handles), frameon=False)


def _write(figure: Figure, out: Path) -> None:
    for ending in (".png", ".svg"):
        write_plot(figure, out.with_suffix(ending), dpi=100)

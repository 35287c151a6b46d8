"""Plot the scan: one column per mode, one row per split, one colour per kappa, and kappa 1 as a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from distance import at, mean_curve

from asr_emapl.plotting import COLOURS, new_figure, write_plot
from asr_emapl.runs.curves import Curve, read_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "full": "full rule",
    "optimizer": "optimizer's rule alone",
    "nothing": "nothing scaled",
    "progressive": "progressive",
}
_INCHES = 2.9


def draw_scan(references: Sequence[Path], kinds: Mapping[str, Sequence[Path]], out: Path) -> None:
    """Plot the runs of one system to `out` (PNG or SVG); `kinds`: "MODE-kappaK" or "progressive" -> runs.

    Teachers are solid lines, students dashed, each the mean over the runs of its kind. The grey bands are the
    range over the references' seeds: dark for the teacher, light for the student.
    """
    base = [read_curves(run) for run in references]
    curves = {kind: [read_curves(run) for run in runs] for kind, runs in kinds.items()}
    splits = list(dict.fromkeys(name.partition("/")[2] for name in base[0]))
    modes = [mode for mode in TITLES if any(_mode(kind) == mode for kind in kinds)]
    colours = dict(zip(dict.fromkeys(_label(kind) for kind in kinds), COLOURS * 4, strict=False))
    width, height = 1.0 + _INCHES * len(modes), 0.6 + _INCHES * len(splits)
    with new_figure(width, height, font_size=11) as figure:
        grid = figure.subplots(len(splits), len(modes), sharex=True, sharey="row", squeeze=False)
        for row, split in zip(grid, splits, strict=True):
            row[0].set_ylabel(f"{split} WER (%)")
            for panel, mode in zip(row, modes, strict=True):
                _draw_bands(panel, base, split)
                for kind, runs in curves.items():
                    if _mode(kind) == mode:
                        _draw_kind(panel, runs, split, colours[_label(kind)])
                panel.grid(color="#e4e4e4", linewidth=0.8)
                panel.spines[["top", "right"]].set_visible(False)
            row[0].set_ylim(bottom=0.0)
        for panel, mode in zip(grid[0], modes, strict=True):
            panel.set_title(TITLES[mode], fontsize=11)
        for panel in grid[-1]:
            panel.set_xlabel("audio consumed (hours)")
        first = grid[0][0]
        handles = [first.plot([], [], color=c, linewidth=2.2, label=kind)[0] for kind, c in colours.items()]
        handles += [
            first.plot([], [], style, color="#444444", linewidth=1.6, label=name)[0]
            for name, style in (("teacher", "-"), ("student", "--"))
        ]
        handles.append(first.fill_between([], [], color="#bbbbbb", label=f"kappa 1, {len(base)} seeds"))
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
        write_plot(figure, out, dpi=130)


def _mode(kind: str) -> str:
    return kind.partition("-")[0]


def _label(kind: str) -> str:
    return kind.partition("-")[2].replace("kappa", "kappa ") or kind


def _draw_bands(panel: Axes, references: Sequence[Mapping[str, Curve]], split: str) -> None:
    for model, colour in (("student", "#e6e6e6"), ("teacher", "#bbbbbb")):
        curves = [run[f"{model}/{split}"] for run in references]
        hours = [h for h, _ in curves[0]]
        rates = [at(curve, hours) for curve in curves]
        lowest, highest = np.min(rates, axis=0), np.max(rates, axis=0)
        panel.fill_between(hours, lowest, highest, color=colour, linewidth=0.0, zorder=1.0)


def _draw_kind(panel: Axes, runs: Sequence[Mapping[str, Curve]], split: str, colour: str) -> None:
    for model, style, width in (("student", "--", 1.0), ("teacher", "-", 2.0)):
        hours, rates = zip(*mean_curve([run[f"{model}/{split}"] for run in runs]), strict=True)
        panel.plot(hours, rates, style, color=colour, linewidth=width, zorder=3.0)

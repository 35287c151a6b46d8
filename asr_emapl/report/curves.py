"""Plot WER over hours of audio consumed. Does not import torch; matplotlib only to plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asr_emapl.errors import UserError
from asr_emapl.plotting import COLOURS, check_ending, new_figure, write_plot
from asr_emapl.report.seed import with_seed
from asr_emapl.runs.curves import Curve, read_curves
from asr_emapl.runs.reader import read_run_config

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panels = dict[str, dict[int, dict[str, Curve]]]
"""Split -> run index -> model (teacher, student) -> curve."""

MARKS = (("", ""), ("o", "\u25cf "), ("s", "\u25a0 "), ("^", "\u25b2 "))
"""(marker, symbol) pairs; each time the palette repeats, the next is used on curves and before labels."""

_STYLES = {"teacher": "-", "student": "--"}
_SPARSE = 12  # maximum number of points drawn with markers
_PANEL_INCHES = 3.6
_CHARACTER_INCHES = 0.11
_COLUMNS = 2
_LINE_SHARE = 0.065  # height of a label line as a fraction of the panel height


def draw_curves(runs: Sequence[tuple[str, Path]], out: Path) -> None:
    """Plot runs, given as (label, run directory), in one figure: PNG or SVG by the extension of `out`.

    One panel per split, two panels per row, and one colour per run; teacher lines are solid, student lines
    dashed. The number beside a run is its last WER: the teacher's, or the student's if there is no teacher.
    Values above 100 % at the start of a curve are clipped.

    Raises:
        UserError: the extension is not .png or .svg, there are no runs, a run has no log or validation
            results, or the file cannot be written.
    """
    check_ending(out)
    if not runs:
        raise UserError("there are no runs to plot; pass at least one run directory")
    panels = _panels([with_seed(read_curves(path), path, read_run_config(path)) for _, path in runs])
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)

    # Label each run only in its last panel; all panels have the same width, regardless of label lengths.
    last_of = {run: split for split, curves in panels.items() for run in curves}
    labels = {split: {r: runs[r][0] for r in panels[split] if last_of[r] == split} for split in panels}
    characters = [8 + max(map(len, named.values()), default=0) for named in labels.values()]
    width = 1.0 + _PANEL_INCHES * columns
    width += _CHARACTER_INCHES * sum(max(characters[i::columns]) for i in range(columns))

    with new_figure(width, 0.8 + _PANEL_INCHES * rows) as figure:
        places = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for unused in places.flat[len(panels) :]:
            unused.remove()
        places[0, 0].set_ylim(0.0, highest(curve for _, curve in _curves(panels)))
        for axes in places[:, 0]:
            axes.set_ylabel("WER (%)")
        for panel, (split, curves) in zip(places.flat, panels.items(), strict=False):
            _draw_panel(panel, split, curves)
            _label_ends(panel, curves, labels[split])
        _add_legend(figure, places[0, 0], panels)
        write_plot(figure, out)


def _panels(runs: Iterable[Mapping[str, Curve]]) -> Panels:
    panels: Panels = {}
    for run, curves in enumerate(runs):
        for name, curve in curves.items():
            model, _, split = name.partition("/")
            panels.setdefault(split, {}).setdefault(run, {})[model] = curve
    return panels


def _curves(panels: Panels) -> Iterator[tuple[str, Curve]]:
    return (
        (model, curve) for runs in panels.values() for run in runs.values() for model, curve in run.items()
    )


def highest(curves: Iterable[Curve]) -> float:
    """Return the upper y limit: the highest WER, but not above 100 % just because of first hours."""
    finite = [[rate for _, rate in curve if math.isfinite(rate)] for curve in curves]
    least = max((min(rates) for rates in finite if rates), default=0.0)
    most = max((max(rates) for rates in finite if rates), default=0.0)
    return 1.04 * max(min(most, max(100.0, 1.2 * least)), 1.0)


def hours_shown(curves: Iterable[Curve]) -> tuple[float, float]:
    """Return the limits of the x axis: from 0 h, or from the first point if all curves start late."""
    ends = [(curve[0][0], curve[-1][0]) for curve in curves]
    first, last = min(start for start, _ in ends), max(end for _, end in ends)
    start = first - 0.04 * (last - first) if 0.15 * last <= first < last else 0.0
    return start, last + 0.02 * (last - start) or 1.0


def look(run: int) -> tuple[str, str, str]:
    """Return the colour and marker of a run, and the marker as a text symbol."""
    marker, letter = MARKS[run // len(COLOURS) % len(MARKS)]
    return COLOURS[run % len(COLOURS)], marker, letter


def _draw_panel(panel: Axes, split: str, curves: Mapping[int, Mapping[str, Curve]]) -> None:
    for run, models in curves.items():
        colour, marker, _ = look(run)
        for model, curve in models.items():
            dots = marker or ("o" if len(curve) <= _SPARSE else "")
            hours, rates = zip(*curve, strict=True)
            style = _STYLES.get(model, ":")
            # Draw the teacher on top of the student.
            width, order = (2.2, 3.0) if model == "teacher" else (1.5, 2.5)
            panel.plot(
                hours, rates, style, color=colour, marker=dots, markersize=4.0, linewidth=width, zorder=order
            )
    panel.set_xlim(*hours_shown(curve for models in curves.values() for curve in models.values()))
    panel.set_xlabel("audio consumed (hours)")
    panel.set_title(split)
    panel.grid(color="#e4e4e4", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _label_ends(panel: Axes, curves: Mapping[int, Mapping[str, Curve]], labels: Mapping[int, str]) -> None:
    """Write the last WER of each run, and its label if any, to the right of the panel."""
    top = panel.get_ylim()[1]
    ends = {
        run: (models.get("teacher") or next(iter(models.values())))[-1][1] for run, models in curves.items()
    }
    order = sorted(ends, key=lambda run: ends[run])
    heights = _spread([min(ends[run] / top, 1.0) for run in order])
    for run, height in zip(order, heights, strict=True):
        colour, _, letter = look(run)
        text = f"{ends[run]:.1f}" + (f"  {letter}{labels[run]}" if run in labels else "")
        panel.annotate(
            text,
            (1.015, height),
            xycoords="axes fraction",
            color=colour,
            fontsize=12,
            fontweight="bold",
            verticalalignment="center",
            annotation_clip=False,
        )


def _spread(heights: Sequence[float]) -> list[float]:
    """Spread ascending label heights by the minimum needed to avoid overlap."""
    # After subtracting i line heights from the i-th value, non-overlap means ascending order: isotonic
    # regression, by pooling adjacent violators.
    pools: list[tuple[float, int]] = []
    for i, height in enumerate(heights):
        mean, count = height - i * _LINE_SHARE, 1
        while pools and pools[-1][0] > mean:
            before, size = pools.pop()
            mean, count = (mean * count + before * size) / (count + size), count + size
        pools.append((mean, count))
    highest = 1.0 - (len(heights) - 1) * _LINE_SHARE
    pooled = [min(max(mean, 0.0), highest) for mean, count in pools for _ in range(count)]
    return [height + i * _LINE_SHARE for i, height in enumerate(pooled)]


def _add_legend(figure: Figure, panel: Axes, panels: Panels) -> None:
    """Add a legend for teacher and student line styles; runs are labelled at the end of their curves."""
    models = {model for model, _ in _curves(panels)}
    names = [name for name in _STYLES if name in models] + sorted(models - _STYLES.keys())
    handles = [
        panel.plot([], [], _STYLES.get(name, ":"), color="#444444", linewidth=2.0, label=name)[0]
        for name in names
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False)

"""WER over hours of audio consumed, from the logs of runs. Imports no torch; matplotlib only to draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_emapl.errors import UserError
from asr_emapl.plotting import COLOURS, check_ending, new_figure, write_plot
from asr_emapl.runs.reader import read_log
from asr_emapl.storage import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = list[tuple[float, float]]
"""(hours of audio consumed, WER in percent), in the order of the log."""

Panels = dict[str, dict[int, dict[str, Curve]]]
"""Split -> number of the run -> model (teacher, student) -> curve."""

MARKS = (("", ""), ("o", "\u25cf "), ("s", "\u25a0 "), ("^", "\u25b2 "))
"""Each time the palette begins anew, the next of these goes with it, on curves and before labels."""

_STYLES = {"teacher": "-", "student": "--"}
_SPARSE = 12  # largest number of points that are drawn as dots
_PANEL_INCHES = 3.6
_LETTER_INCHES = 0.11
_LINE_SHARE = 0.065  # of a panel's height: what a label's line takes


def read_curves(run: Path) -> dict[str, Curve]:
    """The validations of a run, which may still be going on: "teacher/dev-clean" -> [(hours, WER in %)].

    Raises:
        UserError: the run directory has no log.jsonl, a line of it is broken, or it has no validation.
    """
    path = run / "log.jsonl"
    curves = curves_of(read_log(path))
    if not curves:
        raise UserError(
            f"{path}: has no validation yet; name splits in data.validation, and wait for the first "
            "after validation.every_hours"
        )
    return curves


def curves_of(records: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    """The validations among the records of `read_log`, as `read_curves`; empty if there is none yet."""
    curves: dict[str, Curve] = {}
    for record in records:
        if record.get("event") == "validation":
            for name, rate in record["wer"].items():
                curves.setdefault(name, []).append((float(record["hours"]), number(rate) or 0.0))
    return curves


def draw_curves(runs: Sequence[tuple[str, Path]], out: Path) -> None:
    """Draw the runs, each (label, run directory), into one picture: PNG or SVG by the ending of `out`.

    A panel a split; a colour a run; the teacher's line solid, the student's dashed. The number beside a run
    is its last WER: the teacher's, or the student's where there is no teacher. What a curve has above 100 %
    on its way down is cut off.

    Raises:
        UserError: another ending; no runs; a run without log or validations; the picture cannot be written.
    """
    check_ending(out)
    if not runs:
        raise UserError("there are no runs to draw: name run directories")
    panels = _panels([read_curves(path) for _, path in runs])

    # A run is named in the last of its panels only, and a panel is as wide as the others, whatever the names.
    last_of = {run: split for split, curves in panels.items() for run in curves}
    labels = {split: {r: runs[r][0] for r in panels[split] if last_of[r] == split} for split in panels}
    letters = sum(8 + max(map(len, named.values()), default=0) for named in labels.values())
    width = 1.0 + _PANEL_INCHES * len(panels) + _LETTER_INCHES * letters

    with new_figure(width, 4.4) as figure:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        axes[0].set_ylim(0.0, highest(curve for _, curve in _curves(panels)))
        axes[0].set_ylabel("WER (%)")
        for panel, (split, curves) in zip(axes, panels.items(), strict=True):
            _draw_panel(panel, split, curves)
            _label_ends(panel, curves, labels[split])
        _add_legend(figure, axes[0], panels)
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
    """Where a panel ends: at the highest WER, but not above 100 % for the sake of a run's first hours."""
    finite = [[rate for _, rate in curve if math.isfinite(rate)] for curve in curves]
    least = max((min(rates) for rates in finite if rates), default=0.0)
    most = max((max(rates) for rates in finite if rates), default=0.0)
    return 1.04 * max(min(most, max(100.0, 1.2 * least)), 1.0)


def look(run: int) -> tuple[str, str, str]:
    """Colour and marker of a run, and the marker as a letter."""
    marker, letter = MARKS[run // len(COLOURS) % len(MARKS)]
    return COLOURS[run % len(COLOURS)], marker, letter


def _draw_panel(panel: Axes, split: str, curves: Mapping[int, Mapping[str, Curve]]) -> None:
    for run, models in curves.items():
        colour, marker, _ = look(run)
        for model, curve in models.items():
            dots = marker or ("o" if len(curve) <= _SPARSE else "")
            hours, rates = zip(*curve, strict=True)
            style = _STYLES.get(model, ":")
            # Where they meet, the teacher lies over the student.
            width, order = (2.2, 3.0) if model == "teacher" else (1.5, 2.5)
            panel.plot(
                hours, rates, style, color=colour, marker=dots, markersize=4.0, linewidth=width, zorder=order
            )
    last = max(hours for models in curves.values() for curve in models.values() for hours, _ in curve)
    panel.set_xlim(0.0, 1.01 * last if last > 0.0 else 1.0)
    panel.set_xlabel("audio consumed (hours)")
    panel.set_title(split)
    panel.grid(color="#e4e4e4", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _label_ends(panel: Axes, curves: Mapping[int, Mapping[str, Curve]], labels: Mapping[int, str]) -> None:
    """The last WER of each run, and its label if there is one, right of the panel near its curve's end."""
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
    """Ascending heights in a panel, moved apart as little as it takes for labels there not to overlap."""
    # With i lines taken off the i-th, "apart" is "ascending": isotonic regression, by pooling neighbours.
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
    """Which line is the teacher's and which the student's; the runs are named at their ends."""
    models = {model for model, _ in _curves(panels)}
    names = [name for name in _STYLES if name in models] + sorted(models - _STYLES.keys())
    handles = [
        panel.plot([], [], _STYLES.get(name, ":"), color="#444444", linewidth=2.0, label=name)[0]
        for name in names
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False)

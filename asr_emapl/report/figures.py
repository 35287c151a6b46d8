"""The charts of a report as figures for papers: a PNG and an SVG file per group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asr_emapl.plotting import new_figure, write_plot
from asr_emapl.report.chart import draw_line, dress
from asr_emapl.report.charts import ChartGroup, chart_groups
from asr_emapl.report.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ENDINGS = (".svg", ".png")
_COLUMNS = 3
_CHART_INCHES = (3.8, 2.9)
_LEGEND_LINE_INCHES = 0.25


def write_figures(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Draw the logged values of runs on white, one file per group of charts: wer.svg, wer.png, and so on.

    The same runs give the same SVG files.

    Returns:
        The files.

    Raises:
        UserError: the folder cannot be written to.
    """
    written = []
    for group in chart_groups(runs):
        with new_figure(*_size(group), font_size=10.5, salt=group.name) as figure:
            _draw(figure, group)
            for ending in _ENDINGS:
                written.append(folder / (group.name + ending))
                write_plot(figure, written[-1])
    return written


def figure_files(runs: Sequence[Run], folder: Path) -> list[Path]:
    """The files that `write_figures` writes."""
    return [folder / (group.name + ending) for group in chart_groups(runs) for ending in _ENDINGS]


def _grid(group: ChartGroup) -> tuple[int, int]:
    """Return the number of rows and columns of the chart grid."""
    columns = min(_COLUMNS, len(group.charts))
    return -(-len(group.charts) // columns), columns


def _names(group: ChartGroup) -> list[str]:
    """Return the names of the lines."""
    return list(dict.fromkeys(line.name for chart in group.charts for line in chart.lines))


def _size(group: ChartGroup) -> tuple[float, float]:
    """Width and height in inches, with the legend."""
    rows, columns = _grid(group)
    legend = _LEGEND_LINE_INCHES * (2 + len(_names(group)) // columns)
    return columns * _CHART_INCHES[0], rows * _CHART_INCHES[1] + legend


def _draw(figure: Figure, group: ChartGroup) -> None:
    """Draw the charts in a grid with a legend below."""
    rows, columns = _grid(group)
    figure.suptitle(group.title)
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in places[len(group.charts) :]:
        axes.remove()
    for axes, chart in zip(places, group.charts, strict=False):
        dress(axes, chart)
        axes.set_title(chart.heading)
        for number, line in enumerate(chart.lines):
            draw_line(axes, chart, line, f"points-{number}")
    shown = {
        handle.get_label(): handle for axes in figure.axes for handle in axes.get_legend_handles_labels()[0]
    }
    handles = [shown[name] for name in _names(group) if name in shown]
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, frameon=False)

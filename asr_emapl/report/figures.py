"""A report's charts as pictures for papers: a PNG and an SVG file for each group of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asr_emapl.picture import write_picture
from asr_emapl.report.chart import draw_line, dress
from asr_emapl.report.charts import ChartGroup, chart_groups
from asr_emapl.report.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3
_CHART_INCHES = (3.8, 2.9)
_LEGEND_LINE_INCHES = 0.25


def write_figures(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Draw what these runs have logged, on white, a file a group of charts: wer.svg, wer.png, and so on.

    The same runs give the same SVG files.

    Returns:
        The files.

    Raises:
        UserError: the folder cannot be written to.
    """
    from matplotlib import rc_context

    written = []
    for group in chart_groups(runs):
        with rc_context({"font.size": 10.5, "svg.hashsalt": group.name, "text.parse_math": False}):
            figure = _draw(group)
            for ending in (".svg", ".png"):
                written.append(folder / (group.name + ending))
                write_picture(figure, written[-1])
    return written


def _draw(group: ChartGroup) -> Figure:
    """The charts in rows, and below them which line is whose."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(group.charts))
    rows = -(-len(group.charts) // columns)
    names = list(dict.fromkeys(line.name for chart in group.charts for line in chart.lines))
    width, height = columns * _CHART_INCHES[0], rows * _CHART_INCHES[1]
    figure = Figure(
        figsize=(width, height + _LEGEND_LINE_INCHES * (2 + len(names) // columns)),
        layout="constrained",
        facecolor="white",
    )
    FigureCanvasAgg(figure)
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
    handles = [shown[name] for name in names if name in shown]
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, frameon=False)
    return figure

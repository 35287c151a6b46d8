"""One chart as an SVG element that uses the colours of the page."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from asr_emapl.plotting import COLOURS, new_figure
from asr_emapl.report.curves import hours_shown, look
from asr_emapl.runs.curves import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_INK, _GRID = "#444444", "#e4e4e4"
# Colours that are replaced by CSS variables of the page, so that they adapt to dark mode.
_VARIABLES = {_INK: "--ink-2", _GRID: "--grid"} | {c.lower(): f"--run-{i}" for i, c in enumerate(COLOURS)}
# Width and height in inches, font size in points. Small charts are shown 17 to 25 rem wide, large ones up to
# 40 rem.
_SMALL, _LARGE = (3.8, 2.4, 11.5), (4.8, 3.1, 10.5)
_SPARSE = 40  # maximum number of points drawn with value labels


@dataclass(frozen=True)
class Line:
    """A curve with its name and the index of its run, which determines the colour."""

    name: str
    run: int
    points: Curve
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over hours of audio.

    Attributes:
        title: the plotted quantity.
        unit: unit of the values, or "" if they have none.
        lines: in the order in which they are drawn, the last on top.
        ceiling: upper limit of the y axis; larger values are clipped. None: determined by the data.
        from_zero: whether the axis begins at 0.
        logarithmic: whether the y axis is logarithmic; non-positive values are then omitted.
        marked: whether points are shown with their values if there are at most 40; makes the chart larger.
    """

    title: str
    lines: Sequence[Line]
    unit: str = ""
    ceiling: float | None = None
    from_zero: bool = False
    logarithmic: bool = False
    marked: bool = False

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def is_constant(self) -> bool:
        """Whether all lines are constant."""
        return all(len({value for _, value in line.points}) == 1 for line in self.lines)

    def summary(self) -> str:
        """Return alternative text for the chart: the last value of each line."""
        ends = [f"{line.name}: {_told(*line.points[-1], self.unit)}" for line in self.lines]
        return f"{self.title} over hours of audio. At the end, " + "; ".join(ends)


def draw(chart: Chart) -> str:
    """Render the chart as an `<svg>` element. The output is deterministic."""
    width, height, letters = _LARGE if chart.marked else _SMALL
    # Keep text as text, so that it uses the page's font and is searchable.
    with new_figure(width, height, font_size=letters, salt=chart.title, svg_fonttype="none") as figure:
        axes = figure.subplots()
        dress(axes, chart)
        titles: dict[str, list[str]] = {}
        for number, line in enumerate(chart.lines):
            titles |= draw_line(axes, chart, line, f"points-{number}")
        return _inline(figure, chart, titles)


def dress(axes: Axes, chart: Chart) -> None:
    """Style the axes, ticks and grid."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    axes.set_xlabel("audio consumed (hours)", color=_INK)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.tick_params(colors=_INK, which="both")
    values = [value for line in chart.lines for _, value in line.points if math.isfinite(value)]
    if chart.logarithmic:
        positive = [value for value in values if value > 0.0]
        axes.set_yscale("log")
        # A curve that spans less than two decades may cross only one power of ten.
        narrow = bool(positive) and max(positive) < 100.0 * min(positive)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if narrow else (1.0,)))
        axes.yaxis.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.set_xlim(*hours_shown(line.points for line in chart.lines))
    axes.margins(y=0.06)
    if chart.ceiling is not None:
        axes.set_ylim(0.0, chart.ceiling)
    elif chart.from_zero:
        axes.set_ylim(0.0, 1.06 * max([0.0, *values]) or 1.0)


def draw_line(axes: Axes, chart: Chart, line: Line, group: str) -> dict[str, list[str]]:
    """Draw the line with its name as label. Returns the tooltips of its points, keyed by SVG group id."""
    colour, marker, _ = look(line.run)
    shown = [p for p in line.points if math.isfinite(p[1]) and (p[1] > 0.0 or not chart.logarithmic)]
    if not shown:
        return {}
    hours, values = zip(*shown, strict=True)
    style, width = ("--", 1.3) if line.dashed else ("-", 1.9)
    axes.plot(hours, values, style, color=colour, linewidth=width, solid_joinstyle="round", label=line.name)
    seen = [p for p in shown if chart.ceiling is None or p[1] <= chart.ceiling]
    few = chart.marked and len(seen) <= _SPARSE
    if not seen or not (few or marker):
        return {}
    # On long curves, only a few points get the marker that distinguishes runs of the same colour.
    seen = seen if few else seen[:: max(1, len(seen) // 8)]
    hours, values = zip(*seen, strict=True)
    axes.plot(hours, values, linestyle="none", marker=marker or "o", markersize=4.5, color=colour, gid=group)
    return {group: [f"{line.name}: {_told(*point, chart.unit)}" for point in seen]}


def _told(hours: float, value: float, unit: str) -> str:
    return f"{value:.4g}{' ' + unit if unit else ''} at {hours:.4g} h"


def _inline(figure: Figure, chart: Chart, titles: dict[str, list[str]]) -> str:
    """Return the figure as SVG for embedding in a page, without group ids and without its own style sheet."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # matplotlib's <style> would apply to the whole page.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for group in root.iter(f"{{{_SVG}}}g"):
        points = titles.get(group.get("id", ""), [])
        for use, text in zip(group.iter(f"{{{_SVG}}}use"), points, strict=False):
            ElementTree.SubElement(use, f"{{{_SVG}}}title").text = text
        group.attrib.pop("id", None)
    for element in root.iter():
        if "style" in element.attrib:
            element.set("style", _themed(element.attrib["style"]))
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", chart.summary())
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _themed(style: str) -> str:
    """Replace colours by the page's CSS variables."""
    for colour, variable in _VARIABLES.items():
        style = style.replace(colour, f"var({variable})")
    return style

"""One chart as an SVG element that uses the colours of the page."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from asr_emapl.plotting import COLOURS, new_figure
from asr_emapl.report.curves import Curve, hours_shown, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_INK, _GRID = "#444444", "#e4e4e4"
# What is drawn in them takes the page's variables, which have other values on a dark screen.
_VARIABLES = {_INK: "--ink-2", _GRID: "--grid"} | {c.lower(): f"--run-{i}" for i, c in enumerate(COLOURS)}
# Width and height in inches, letters in points: shown 17 to 25 rem wide, and up to 40.
_SMALL, _LARGE = (3.8, 2.4, 11.5), (4.8, 3.1, 10.5)
_SPARSE = 40  # largest number of points that are drawn with their values


@dataclass(frozen=True)
class Line:
    """A curve: of which run (by number, which gives its colour), and what it is called."""

    name: str
    run: int
    points: Curve
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over hours of audio.

    Attributes:
        title: what is drawn.
        unit: of the values; "" if they have none.
        lines: in the order in which they are drawn, the last on top.
        ceiling: where the axis ends, what is above being cut off; None: as the values have it.
        from_zero: whether the axis begins at 0.
        logarithmic: whether it is logarithmic; then values that are not positive are left out.
        marked: whether points are shown with their values, where they are few; such a chart is larger.
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
        """Whether no line changes."""
        return all(len({value for _, value in line.points}) == 1 for line in self.lines)

    def summary(self) -> str:
        """Text alternative of the chart: where each line ends."""
        ends = [f"{line.name}: {_told(*line.points[-1], self.unit)}" for line in self.lines]
        return f"{self.title} over hours of audio. At the end, " + "; ".join(ends)


def draw(chart: Chart) -> str:
    """The chart as one `<svg>` element; the same chart gives the same text."""
    width, height, letters = _LARGE if chart.marked else _SMALL
    # Letters as text: drawn in the page's font, and found by a search.
    with new_figure(width, height, font_size=letters, salt=chart.title, svg_fonttype="none") as figure:
        axes = figure.subplots()
        dress(axes, chart)
        titles: dict[str, list[str]] = {}
        for number, line in enumerate(chart.lines):
            titles |= draw_line(axes, chart, line, f"points-{number}")
        return _inline(figure, chart, titles)


def dress(axes: Axes, chart: Chart) -> None:
    """Axes, ticks and grid."""
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
        # A curve that stays within a decade or two may meet but one power of ten.
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
    """Draw it, under its name; returns what is to be said of its points, by the group that will hold them."""
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
    # Of a long curve, a few points carry the marker that tells its run from another of the same colour.
    seen = seen if few else seen[:: max(1, len(seen) // 8)]
    hours, values = zip(*seen, strict=True)
    axes.plot(hours, values, linestyle="none", marker=marker or "o", markersize=4.5, color=colour, gid=group)
    return {group: [f"{line.name}: {_told(*point, chart.unit)}" for point in seen]}


def _told(hours: float, value: float, unit: str) -> str:
    return f"{value:.4g}{' ' + unit if unit else ''} at {hours:.4g} h"


def _inline(figure: Figure, chart: Chart, titles: dict[str, list[str]]) -> str:
    """The figure as markup for within a page: no ids but those it refers to, no style of its own."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # matplotlib's <style> would hold for the whole page.
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
    """Colours by the page's variables."""
    for colour, variable in _VARIABLES.items():
        style = style.replace(colour, f"var({variable})")
    return style

"""Print an inspection as tables and a numbered list, and plot the lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asr_emapl.checks.inspection_result import Contents, Finding, Inspection
from asr_emapl.plotting import COLOURS, check_ending, new_figure, write_plot
from asr_emapl.terminal import plain

if TYPE_CHECKING:
    from rich.console import Console

_BAR_LETTERS = 40


def print_inspection(inspection: Inspection, console: Console) -> None:
    """Print the contents, the length histogram, and the findings with remedies."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for contents in inspection.contents:
        table.add_column(plain(contents.manifest), justify="right", overflow="fold")
    for row in zip(*(_rows(c, inspection.batch_seconds) for c in inspection.contents), strict=True):
        table.add_row(row[0][0], *(plain(value) for _, value in row))
    console.print(table)
    for contents in inspection.contents:
        title = "lengths" if len(inspection.contents) == 1 else f"lengths in {contents.manifest}"
        console.print()
        console.print(plain(title))
        for line in _histogram(contents.histogram, inspection.bin_seconds):
            console.print(plain(line))
    console.print()
    for line in _what_to_fix(inspection.findings):
        console.print(plain(line), soft_wrap=True)


def draw_lengths(inspection: Inspection, out: Path) -> None:
    """Plot a histogram of utterance durations, one panel per manifest.

    The extension of `out` selects PNG or SVG.

    Raises:
        UserError: unsupported extension, or the file cannot be written.
    """
    check_ending(out)
    panels = len(inspection.contents)
    with new_figure(7.5, 0.6 + 2.9 * panels) as figure:
        column = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
        for i, (axes, contents) in enumerate(zip(column, inspection.contents, strict=True)):
            width = inspection.bin_seconds
            edges = [width * k for k in range(len(contents.histogram) + 1)]
            axes.stairs(contents.histogram, edges, fill=True, color=COLOURS[i % len(COLOURS)])
            axes.axvline(contents.median_seconds, color="#444444", linestyle="--", linewidth=1.5)
            hours = f"{contents.hours:.2f} h, median {contents.median_seconds:.1f} s"
            axes.set_title(f"{Path(contents.manifest).name}: {hours}")
            axes.set_xlim(0.0, edges[-1])
            axes.set_ylabel("utterances")
            axes.grid(color="#e4e4e4", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        column[-1].set_xlabel("length (seconds)")
        write_plot(figure, out)


def _rows(contents: Contents, batch_seconds: float) -> Iterator[tuple[str, str]]:
    yield "hours", f"{contents.hours:,.2f}"
    yield "utterances", f"{contents.utterances:,}"
    yield "with a transcript", f"{contents.with_text:,}"
    yield "shortest, median, longest (s)", "{:.2f}, {:.2f}, {:.2f}".format(*_lengths(contents))
    yield "speakers", f"{contents.speakers:,}" if contents.speakers else "unknown"
    yield "speaker with the most audio (h)", _speaker(contents.most)
    yield "speaker with the least audio (h)", _speaker(contents.least)
    yield f"steps per epoch, at {batch_seconds:g} s", f"{contents.steps:,}"
    yield "padding in the steps", f"{100 * contents.padding:.2f} %"


def _lengths(contents: Contents) -> tuple[float, float, float]:
    return contents.shortest_seconds, contents.median_seconds, contents.longest_seconds


def _speaker(ranked: tuple[str, float] | None) -> str:
    return "" if ranked is None else f"{ranked[0]} ({ranked[1]:.2f})"


def _histogram(counts: Sequence[int], bin_seconds: float) -> Iterator[str]:
    """Yield one line per bin, without empty bins at both ends. Bars are scaled to the fullest bin."""
    width = len(f"{len(counts) * bin_seconds:g}")
    most = max(counts)
    filled = [i for i, count in enumerate(counts) if count]
    for i in range(filled[0], filled[-1] + 1):
        count = counts[i]
        low, high = i * bin_seconds, (i + 1) * bin_seconds
        bar = "\u2588" * -(-count * _BAR_LETTERS // most)
        yield f"{low:>{width}g} to {high:>{width}g} s {bar:{_BAR_LETTERS}} {count:,}"


def _what_to_fix(findings: Sequence[Finding]) -> Iterator[str]:
    """Print faults first, then notes."""
    faults, facts = ([f for f in findings if f.is_fault is kind] for kind in (True, False))
    if not faults:
        yield "nothing to fix"
    for title, listed in (("what to fix", faults), ("worth knowing", facts)):
        if listed:
            yield title
            yield from _numbered(listed)


def _numbered(findings: Sequence[Finding]) -> Iterator[str]:
    for number, finding in enumerate(findings, start=1):
        yield f"{number}. {finding.problem}"
        if finding.examples:
            yield f"   for example: {', '.join(finding.examples)}"
        yield f"   remedy: {finding.remedy}"

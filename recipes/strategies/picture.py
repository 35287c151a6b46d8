"""Plot the strategies: one panel per amount of labelled audio, one row per system, one dot per seed."""

from __future__ import annotations

import statistics
from pathlib import Path

from comparison import Table

from asr_emapl.plotting import COLOURS, new_figure, write_plot

_PANEL_INCHES, _ROW_INCHES, _TITLE_INCHES = 3.4, 0.34, 3.0


def draw_strategies(table: Table, out: Path) -> None:
    """Plot the WER of the teacher on the last part to `out`; without runs, nothing."""
    found, amounts, part = table.runs, table.amounts, table.parts[-1]
    names = [name for name in table.titles if any(run.system == name for run in found)]
    if not names:
        return
    size = (_TITLE_INCHES + _PANEL_INCHES * len(amounts), 1.0 + _ROW_INCHES * len(names))
    with new_figure(*size, font_size=11) as figure:
        panels = figure.subplots(1, len(amounts), sharey=True, squeeze=False)[0]
        for panel, amount in zip(panels, amounts, strict=True):
            for row, name in enumerate(names):
                rates = [r.wer[part] for r in found if r.amount == amount and r.system == name]
                colour = COLOURS[6] if name in ("baseline", "oracle") else COLOURS[0]
                panel.plot(rates, [row] * len(rates), "o", color=colour, alpha=0.5, markersize=5)
                if rates:
                    panel.plot(
                        statistics.mean(rates), row, "|", color=colour, markersize=16, markeredgewidth=2.5
                    )
            panel.set_title(f"{amount} {table.unit} labelled", fontsize=11)
            panel.set_xlabel(f"{part} WER (%), teacher")
            panel.grid(axis="x", color="#e4e4e4", linewidth=0.8)
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].set_yticks(range(len(names)), [table.titles[name] for name in names])
        panels[0].invert_yaxis()
        write_plot(figure, out, dpi=130)

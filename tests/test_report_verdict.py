"""What is said of runs whose error rates are useless, or that pseudo-labels made worse."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import call
from support.logged_runs import write_run

from asr_emapl.report.page import render
from asr_emapl.report.run import Run, read_runs
from asr_emapl.report.verdict import verdict


def strategy(name: str, seed: Path | None = None) -> str:
    init = "null" if seed is None else str(seed)
    return f"pseudo_labels: {{strategy: {name}}}\ninit: {{checkpoint: {init}, keep: run}}\n"


def runs(tmp_path: Path, **curves: tuple[str, list[float]]) -> list[Run]:
    """Runs from `seed`, if there is one: name=(strategy, WER of the teacher)."""
    seed = tmp_path / "seed"
    for name, (how, wer) in curves.items():
        start = seed if name != "seed" and "seed" in curves else None
        write_run(tmp_path / name, wer, config=strategy(how, start))
    return read_runs([(name, tmp_path / name) for name in curves])


def test_good_runs_have_none(tmp_path):
    found = runs(tmp_path, seed=("none", [40.0]), baseline=("none", [30.0]), ema=("ema", [25.0, 20.0]))
    assert verdict(found) == []
    assert verdict(runs(tmp_path / "x", ema=("ema", [99.0, 20.0]))) == []


def test_at_100_percent_nothing_else_is_said(tmp_path):
    (line,) = verdict(runs(tmp_path, seed=("none", [98.0]), ema=("ema", [97.0, 100.0])))
    assert line.startswith("the runs recognise almost nothing: the lowest WER is 97 %")
    assert "2 h of audio; raise hours" in line


@pytest.mark.parametrize(("seed", "cause"), [(60.0, "too weak to label (60 %"), (30.0, "min_confidence")])
def test_labels_that_made_it_worse_than_the_seed(tmp_path, seed, cause):
    (line,) = verdict(runs(tmp_path, seed=("none", [seed]), ema=("ema", [25.0, seed + 5.0])))
    assert f"rose from {seed:.1f} % at the start to {seed + 5.0:.1f} %" in line
    assert cause in line
    assert verdict(runs(tmp_path / "x", seed=("none", [seed]), oracle=("oracle", [seed + 5.0]))) == []


def test_labels_that_made_it_worse_than_the_supervised_run_from_the_same_seed(tmp_path):
    found = runs(tmp_path, seed=("none", [40.0]), baseline=("none", [20.0]), ema=("ema", [25.0]))
    (line,) = verdict(found)
    assert "WER on dev is 25.0 %, that of baseline (20.0 %)" in line


def test_it_is_printed_and_on_the_page(tmp_path):
    found = runs(tmp_path, ema=("ema", [99.0, 98.0]))
    assert "almost nothing" in render(found, None, 5)
    page = tmp_path / "page.html"
    assert "warning: the run recognises almost nothing" in call("report", tmp_path / "ema", "--out", page).out

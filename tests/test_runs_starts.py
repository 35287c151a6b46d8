"""The record of a run's starts, which the report shows."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import version

from support.logged_runs import write_run
from support.tiny import make_corpus, tiny_config

from asr_emapl import __version__
from asr_emapl.report.page import render
from asr_emapl.report.run import read_runs
from asr_emapl.runs.starts import read_starts
from asr_emapl.training.trainer import train


def test_each_start_is_recorded_and_shown(tmp_path, monkeypatch):
    make_corpus(tmp_path)
    monkeypatch.setattr("sys.argv", ["asr-emapl", "train", "a <b>"])
    train(tiny_config(tmp_path, "hours=0.004", "validation.every_hours=null"))
    train(tiny_config(tmp_path, "hours=0.008", "validation.every_hours=null"))
    first, second = read_starts(tmp_path / "run")
    assert (first.hours, first.device, first.torch) == ("0.000", "1 x CPU", version("torch"))
    assert 0.004 <= float(second.hours) < 0.008
    assert shlex.split(second.command) == ["asr-emapl", "train", "a <b>"]
    assert second.version == __version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", second.date)
    page = render(read_runs([("mine", tmp_path / "run")]), None, 0)
    assert "mine: 2 starts, the last at 0.00" in page
    assert "asr-emapl train &#39;a &lt;b&gt;&#39;" in page


def test_broken_lines_are_left_out(tmp_path):
    run = write_run(tmp_path / "run", [30.0])
    assert read_starts(run) == []
    (run / "starts.jsonl").write_bytes(b'{"date": "x"}\n\xff\n[1]\n{"date"')
    assert read_starts(run) == []

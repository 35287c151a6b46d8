"""The record of a run's starts, which the report shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from importlib.metadata import version

import pytest
import torch
from support.logged_runs import write_run
from support.tiny import make_corpus, tiny_config

from asr_emapl import __version__
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError
from asr_emapl.report.page import render
from asr_emapl.report.run import read_runs
from asr_emapl.runs.reader import read_starts
from asr_emapl.runs.starts import record_start
from asr_emapl.training.trainer import train


def test_each_start_is_recorded_and_shown(tmp_path, monkeypatch):
    make_corpus(tmp_path)
    monkeypatch.setattr("sys.argv", ["asr-emapl", "train", "a <b>"])
    train(tiny_config(tmp_path, "hours=0.004", "validation.every_hours=null"))
    train(tiny_config(tmp_path, "hours=0.008", "validation.every_hours=null"))
    first, second = read_starts(tmp_path / "run" / "starts.jsonl")
    assert (first["hours"], first["device"], first["torch"]) == (0.0, "1 x CPU", version("torch"))
    assert 1 <= first["cores"] <= (os.cpu_count() or 1)
    assert 0.004 <= second["hours"] < 0.008
    assert shlex.split(second["command"]) == ["asr-emapl", "train", "a <b>"]
    assert second["version"] == __version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", second["date"])
    page = render(read_runs([("mine", tmp_path / "run")]), None, 0)
    assert "mine: 2 starts, the last at 0.00" in page
    assert "asr-emapl train &#39;a &lt;b&gt;&#39;" in page


def test_a_run_without_the_record_has_no_starts_and_a_wrong_one_is_named(tmp_path):
    run = write_run(tmp_path / "run", [30.0])
    assert read_runs([("old", run)])[0].starts == []
    (run / "starts.jsonl").write_text('{"date": "x"}\n')
    with pytest.raises(UserError, match=r"starts\.jsonl:1: .*'hours' is missing"):
        read_runs([("mine", run)])


def test_the_commit_is_that_of_the_checkout_with_the_code(tmp_path, monkeypatch):
    monkeypatch.setattr("asr_emapl.runs.starts._ROOT", tmp_path)
    record_start(tmp_path, ProcessGroup(0, 1, torch.device("cpu")), 0.0)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(
        ["git", "-C", str(tmp_path), *identity, "commit", "-q", "--allow-empty", "-m", "x"], check=True
    )
    record_start(tmp_path, ProcessGroup(0, 1, torch.device("cpu")), 0.0)
    without, with_commit = read_starts(tmp_path / "starts.jsonl")
    assert without["commit"] == ""
    assert re.fullmatch(r"[0-9a-f]{7,}", with_commit["commit"])

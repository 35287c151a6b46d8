"""The pseudo-labels of a run and its files."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support.runs import finish, launch, read_log
from support.tiny import tiny_config

from asr_emapl.training.trainer import train

EMA = ("pseudo_labels.strategy=ema", "pseudo_labels.start_hours=0.005", "validation.every_hours=null")


def test_a_sample_that_cannot_be_written_is_a_warning(corpus, tmp_path, capsys):
    (tmp_path / "label_samples.jsonl").mkdir()
    assert train(tiny_config(corpus, f"run_dir={tmp_path}", *EMA, "hours=0.015")) is not None
    assert "warning: " + str(tmp_path / "label_samples.jsonl") in capsys.readouterr().out


def test_kill_9_and_resume_leave_the_labels_of_an_uninterrupted_run(corpus, tmp_path):
    overrides = (*EMA, "hours=0.05", "checkpoint.every_hours=0.01")
    train(tiny_config(corpus, f"run_dir={tmp_path / 'whole'}", *overrides))
    cut = launch(corpus, tmp_path / "cut", *overrides)
    checkpoints, deadline = tmp_path / "cut" / "checkpoints", time.monotonic() + 120
    while len(list(checkpoints.glob("step-*.pt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    cut.send_signal(signal.SIGKILL)
    cut.communicate()
    assert "from 0.000 h" not in finish(launch(corpus, tmp_path / "cut", *overrides))
    for name in ("label_samples.jsonl", "log.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert _samples(tmp_path / "whole")


def test_two_processes_follow_and_sample_the_labels_that_one_does(corpus, tmp_path):
    batch = ("batch.seconds=12", "batch.reference_seconds=12", "data.max_seconds=4", "device.max_seconds=12")
    overrides = (*EMA, *batch, "hours=0.05", "optimizer.lr=1e-3", "checkpoint.every_hours=null")
    several = launch(corpus, tmp_path / "two", *overrides, "device.max_seconds=5", processes=2)
    train(tiny_config(corpus, f"run_dir={tmp_path / 'one'}", *overrides))
    finish(several)
    one, two = (_labels(tmp_path / name) for name in ("one", "two"))
    assert [record["utterances"] for record in one] == [record["utterances"] for record in two]
    assert sum(record["utterances"] for record in one) > 20
    for first, second in zip(one, two, strict=True):
        assert sum(first["audio_hours"].values()) == pytest.approx(sum(second["audio_hours"].values()))
        followed = [[(label["id"], label["step"]) for label in of["followed"]] for of in (first, second)]
        assert followed[0] == followed[1] != []
    assert _samples(tmp_path / "one") == _samples(tmp_path / "two")


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("pseudo_labels.strategy=ema", "pseudo_labels.start_hours=0.01"), 1),
        (("pseudo_labels.strategy=ema", "pseudo_labels.start_hours=0.03"), 0),
        (("pseudo_labels.strategy=from_the_start",), 0),
        (("pseudo_labels.strategy=oracle", "pseudo_labels.start_hours=0.01"), 0),
    ],
)
def test_one_warning_that_the_labeller_is_weak(corpus, tmp_path, capsys, options, count):
    train(tiny_config(corpus, f"run_dir={tmp_path}", *options, "optimizer.lr=1e-6"))
    assert capsys.readouterr().out.count("WER (teacher/dev); above about 50 %") == count


def _labels(run: Path) -> list[dict[str, Any]]:
    return [record for record in read_log(run) if record["event"] == "labels"]


def _samples(run: Path) -> list[tuple[str, str, int]]:
    lines = [json.loads(line) for line in (run / "label_samples.jsonl").read_text().splitlines()]
    return [(line["reason"], line["id"], line["step"]) for line in lines]

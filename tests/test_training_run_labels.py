"""The pseudo-labels of a run and its files."""

from __future__ import annotations

from support.tiny import tiny_config

from asr_emapl.training.trainer import train

EMA = ("pseudo_labels.strategy=ema", "pseudo_labels.start_hours=0.005", "validation.every_hours=null")


def test_a_sample_that_cannot_be_written_is_a_warning(corpus, tmp_path, capsys):
    (tmp_path / "label_samples.jsonl").mkdir()
    assert train(tiny_config(corpus, f"run_dir={tmp_path}", *EMA, "hours=0.015")) is not None
    assert "warning: " + str(tmp_path / "label_samples.jsonl") in capsys.readouterr().out

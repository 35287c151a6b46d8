"""Curves of a run that starts from a checkpoint start with the WER of that checkpoint."""

from __future__ import annotations

import shutil

import pytest
from support.logged_runs import write_run

from asr_emapl.report.curves import draw_curves
from asr_emapl.report.run import read_runs

CONFIG = "hours: 4.0\nrun_dir: runs/ema\ninit: {{checkpoint: {checkpoint}, keep: {keep}}}\n"


def first_point(folder, checkpoint, keep="run"):
    run = write_run(folder / "runs/ema", [30.0, 20.0], config=CONFIG.format(checkpoint=checkpoint, keep=keep))
    (found,) = read_runs([("ema", run)])
    assert found.wer["teacher/dev"] == [(1.0, 30.0), (2.0, 20.0)]
    return found.wer_from_seed["teacher/dev"][0]


@pytest.mark.parametrize(
    ("checkpoint", "keep", "first"),
    [
        ("runs/seed", "run", (3.0, 50.0)),
        ("runs/seed/checkpoints", "run", (3.0, 50.0)),
        ("runs/seed/checkpoints/step-000000004.pt", "run", (2.0, 60.0)),
        ("runs/seed", "weights", (0.0, 50.0)),
        # What is not known is not shown.
        ("runs/seed/checkpoints/best.pt", "run", (1.0, 30.0)),
        ("runs/absent", "run", (1.0, 30.0)),
        ("null", "run", (1.0, 30.0)),
    ],
)
def test_where_a_run_starts(tmp_path, checkpoint, keep, first):
    write_run(tmp_path / "runs/seed", [70.0, 60.0, 50.0])
    assert first_point(tmp_path, checkpoint, keep) == first


def test_a_folder_that_was_moved_keeps_its_seed(tmp_path):
    write_run(tmp_path / "old/runs/seed", [70.0])
    first_point(tmp_path / "old", "runs/seed")
    shutil.move(tmp_path / "old", tmp_path / "new")
    (found,) = read_runs([("ema", tmp_path / "new/runs/ema")])
    assert found.wer_from_seed["student/dev"][0] == (1.0, 71.0)


def test_a_broken_log_of_the_seed_does_not_stop_the_report(tmp_path):
    (tmp_path / "runs/seed").mkdir(parents=True)
    (tmp_path / "runs/seed/log.jsonl").write_text("[]\n{}\n")
    assert first_point(tmp_path, "runs/seed") == (1.0, 30.0)


def test_plot_draws_the_seed_too(tmp_path):
    write_run(tmp_path / "runs/seed", [70.0])
    pictures = []
    for checkpoint in ("null", "runs/seed"):
        folder = tmp_path / "runs/ema"
        first_point(tmp_path, checkpoint)
        draw_curves([("ema", folder)], tmp_path / "out.svg")
        pictures.append((tmp_path / "out.svg").read_text())
        shutil.rmtree(folder)
    assert pictures[0] != pictures[1]


def test_absolute_paths(tmp_path):
    seed = write_run(tmp_path / "seed", [70.0])
    config = f"run_dir: {tmp_path / 'ema'}\ninit: {{checkpoint: {seed}, keep: run}}\n"
    (found,) = read_runs([("ema", write_run(tmp_path / "ema", [30.0], config=config))])
    assert found.wer_from_seed["teacher/dev"] == [(1.0, 70.0), (1.0, 30.0)]

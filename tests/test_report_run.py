"""A run as a report reads it: what its directory holds, and curves of what its steps say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.logged_runs import STEP, UNLABELLED, write_lines, write_run

from asr_emapl.errors import UserError
from asr_emapl.report import run as run_module
from asr_emapl.report.run import Run, read_runs


def test_what_is_in_the_directory(tmp_path):
    (run,) = read_runs([("mine", write_run(tmp_path / "run", [40.0, 30.0]))])
    assert run.label == "mine"
    assert [step["step"] for step in run.steps] == [1, 2, 3, 4]
    assert run.wer == {"student/dev": [(1.0, 41.0), (2.0, 31.0)], "teacher/dev": [(1.0, 40.0), (2.0, 30.0)]}
    assert run.speed == [(1.0, 72.0), (2.0, 72.0)]
    assert run.config is not None
    assert run.config["hours"] == 2.0
    assert run.usage is None
    assert run.hours == 2.0


def test_a_log_alone_will_do(tmp_path):
    write_lines(tmp_path / "log.jsonl", [{**STEP, "step": 1, "hours": 0.5}])
    (run,) = read_runs([("bare", tmp_path)])
    assert (run.wer, run.speed, run.config, run.hours) == ({}, [], None, 0.5)


def test_an_empty_log_has_had_no_audio(tmp_path):
    write_lines(tmp_path / "log.jsonl", [])
    assert read_runs([("new", tmp_path)])[0].hours == 0.0


def test_what_the_time_went_to_where_it_was_measured(tmp_path):
    folder = write_run(tmp_path / "run", [40.0])
    phases = ("data", "features", "teacher", "student", "communication", "optimizer")
    times = {**dict.fromkeys(phases, 1.0), "audio": 60.0, "padded": 80.0}
    with (folder / "speed.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2, "hours": 1.0, "ranks": [times]}) + "\n")
    (run,) = read_runs([("run", folder)])
    assert run.usage is not None
    assert run.usage.speed == pytest.approx(10.0)
    assert run.usage.dropped == {"empty": 1}


def test_runs_are_told_apart_by_their_labels(tmp_path):
    run = write_run(tmp_path / "run", [40.0])
    with pytest.raises(UserError, match=r"2 runs are called 'run': name them with LABEL=DIRECTORY"):
        read_runs([("run", run), ("other", run), ("run", tmp_path / "absent")])
    with pytest.raises(UserError, match="no runs"):
        read_runs([])


@pytest.mark.parametrize("config", ["[1, 2", "- 1\n- 2\n", "just words"])
def test_a_config_that_is_none_is_named(tmp_path, config):
    with pytest.raises(UserError, match=r"run.config\.yaml: "):
        read_runs([("run", write_run(tmp_path / "run", [40.0], config=config))])


def test_no_run_directory(tmp_path):
    with pytest.raises(UserError, match=r"is .*absent a run directory"):
        read_runs([("run", tmp_path / "absent")])


def test_curves_are_of_one_kind_of_step_and_of_numbers(tmp_path):
    steps = [
        {**STEP, "hours": 1.0, "loss": 1.0},
        {**UNLABELLED, "hours": 2.0, "loss": 5.0},
        {**STEP, "hours": 3.0, "loss": None},
        {**STEP, "hours": 4.0, "loss": float("inf")},
        {**STEP, "hours": 5.0, "loss": 2.0},
    ]
    run = Run("run", tmp_path, steps)
    assert run.curve(lambda step: step["loss"], "labelled") == [(1.0, 1.0), (5.0, 2.0)]
    assert run.curve(lambda step: step["loss"], "unlabelled") == [(2.0, 5.0)]
    assert len(run.curve(lambda step: step["loss"])) == 3


def test_dropped_pseudo_labels_by_reason(tmp_path):
    steps = [
        {**STEP, "hours": 1.0, "dropped": {"unalignable": 9}},
        {**UNLABELLED, "hours": 2.0},
        {**UNLABELLED, "hours": 3.0, "dropped": {"empty": 2, "low_confidence": 1}},
        {key: value for key, value in UNLABELLED.items() if key != "dropped"},
    ]
    assert Run("run", tmp_path, steps).dropped() == (9, Counter(empty=3, low_confidence=1))


numbers = st.floats(-1e3, 1e3)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1e3), numbers), min_size=1, max_size=400))
def test_bins_keep_order_range_and_what_is_few(points):
    points.sort()
    binned = run_module._binned(points)
    assert 1 <= len(binned) <= run_module._BINS
    assert [hours for hours, _ in binned] == sorted(hours for hours, _ in binned)
    values = [value for _, value in points]
    assert all(min(values) - 1e-6 <= value <= max(values) + 1e-6 for _, value in binned)
    if len(points) <= run_module._BINS:
        assert binned == points


def test_a_bin_is_the_mean_of_what_is_in_it():
    binned = run_module._binned([(i / 100, float(i)) for i in range(1600)])
    assert len(binned) == 160
    assert binned[0] == pytest.approx((0.045, 4.5))
    assert binned[-1][1] == pytest.approx(1594.5, abs=0.6)


def test_reading_runs_loads_neither_torch_nor_matplotlib(tmp_path):
    run = write_run(tmp_path / "run", [40.0])
    code = (
        "import sys; from pathlib import Path; from asr_emapl.report.run import read_runs;"
        f"read_runs([('run', Path({str(run)!r}))]); assert not {{'torch', 'matplotlib'}} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

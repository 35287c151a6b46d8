"""Reading the WER curves of runs."""

from __future__ import annotations

import json

import pytest
from support.logged_runs import write_validated_run

from asr_emapl.errors import UserError
from asr_emapl.runs.curves import read_curves


def test_read_curves(tmp_path) -> None:
    assert read_curves(write_validated_run(tmp_path / "run", [90.0, 45.5])) == {
        "student/dev-clean": [(1.0, 91.0), (2.0, 46.5)],
        "teacher/dev-clean": [(1.0, 90.0), (2.0, 45.5)],
        "student/dev-other": [(1.0, 101.0), (2.0, 56.5)],
        "teacher/dev-other": [(1.0, 100.0), (2.0, 55.5)],
    }


def test_a_split_that_joined_later(tmp_path) -> None:
    run = write_validated_run(tmp_path / "run", [90.0], splits=("dev-clean",))
    with (run / "log.jsonl").open("a") as file:
        file.write(
            json.dumps({"event": "validation", "step": 2, "hours": 2.0, "wer": {"teacher/new": 5}}) + "\n"
        )
    assert read_curves(run)["teacher/new"] == [(2.0, 5.0)]


def test_a_line_half_written_is_passed_over(tmp_path) -> None:
    run = write_validated_run(tmp_path / "run", [90.0])
    with (run / "log.jsonl").open("a") as file:
        file.write('{"event": "validation", "step": 2, "hou')
    assert len(read_curves(run)["teacher/dev-clean"]) == 1


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "3",
        "[]",
        "{}",
        '{"event": "validation"}',
        '{"event": "validation", "hours": 1, "wer": {"a/b": null}}',
    ],
)
def test_a_broken_line_is_named(tmp_path, line) -> None:
    run = write_validated_run(tmp_path / "run", [90.0])
    with (run / "log.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=r"log.jsonl:4: not a line of a run's log"):
        read_curves(run)


def test_no_log_and_no_validation(tmp_path) -> None:
    with pytest.raises(UserError, match=r"nowhere.log.jsonl: cannot be read .*is .*nowhere a run directory"):
        read_curves(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"run.log.jsonl: no validation results yet; .*data.validation"):
        read_curves(write_validated_run(tmp_path / "run", []))
    (tmp_path / "run" / "log.jsonl").write_text("")
    with pytest.raises(UserError, match="no validation results yet"):
        read_curves(tmp_path / "run")

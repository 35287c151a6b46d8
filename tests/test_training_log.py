"""The log: exact, strict JSON, cut back on resume; the terminal line; silence on all processes but one."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from asr_emapl.checkpoints.async_save import Saved
from asr_emapl.objectives.step_result import StepResult
from asr_emapl.scaling import StepHyperparameters
from asr_emapl.training import log as log_module
from asr_emapl.training.log import RunLog, SkippedSteps


def strict(line: str) -> dict:
    """JSON as the standard has it: Python's own reader would let NaN and Infinity pass."""

    def refuse(constant):
        raise AssertionError(f"{constant} in {line}")

    return json.loads(line, parse_constant=refuse)


def lines(folder: Path) -> list[dict]:
    return [strict(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def result(loss: float = 2.0, **fields) -> StepResult:
    return StepResult(fields.pop("utterances", 4), 20, loss=loss, gradient_norm=0.5, **fields)


def used(lr=1e-3, rho=0.9, kappa=1.0, half_life_hours=1.0) -> StepHyperparameters:
    return StepHyperparameters(kappa, kappa, 1.0, {"lr": lr}, None, 1.0, 0.0, 3600.0 * half_life_hours, rho)


class Clock:
    """A wall clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(log_module, "time", made)
    return made


def test_every_metric_of_a_step_is_in_its_line(tmp_path):
    log = RunLog(tmp_path, total_hours=1.0)
    log.step(1, 0.25, True, result(dropped=Counter(unalignable=2)), used(lr=1e-3, rho=0.5))
    log.step(2, 0.5, False, result(confidence=0.75, nonempty=0.5, taken=False), used(lr=1e-3))
    log.validation(2, 0.5, {"student/dev": 31.25, "teacher/dev": 30.0})
    log.close()
    assert lines(tmp_path) == [
        {
            "event": "step",
            "step": 1,
            "hours": 0.25,
            "kind": "labelled",
            "loss": 2.0,
            "gradient_norm": 0.5,
            "utterances": 4,
            "tokens": 20,
            "taken": True,
            "lr": 1e-3,
            "rho": 0.5,
            "kappa": 1.0,
            "gain": 1.0,
            "half_life_hours": 1.0,
            "dropped": {"unalignable": 2},
        },
        {
            "event": "step",
            "step": 2,
            "hours": 0.5,
            "kind": "unlabelled",
            "loss": 2.0,
            "gradient_norm": 0.5,
            "utterances": 4,
            "tokens": 20,
            "taken": False,
            "lr": 1e-3,
            "rho": 0.9,
            "kappa": 1.0,
            "gain": 1.0,
            "half_life_hours": 1.0,
            "confidence": 0.75,
            "nonempty": 0.5,
        },
        {
            "event": "validation",
            "step": 2,
            "hours": 0.5,
            "wer": {"student/dev": 31.25, "teacher/dev": 30.0},
        },
    ]
    assert log.lines == 3


def test_floats_come_back_digit_for_digit(tmp_path):
    log = RunLog(tmp_path)
    values = [1 / 3, 1e-300, 123456789.12345678]
    for i, value in enumerate(values):
        log.step(i, value, True, result(value), used())
    log.close()
    assert [line["loss"] for line in lines(tmp_path)] == values


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_does_not_have_becomes_null(tmp_path, value):
    log = RunLog(tmp_path)
    broken = StepResult(1, 1, loss=value, gradient_norm=value, confidence=value, nonempty=0.5, taken=False)
    log.step(1, 0.1, False, broken, used(lr=value))
    log.validation(1, 0.1, {"student/dev": value, "teacher/dev": 5.0})
    log.close()
    step, validation = lines(tmp_path)
    assert [step[k] for k in ("loss", "gradient_norm", "confidence", "lr")] == [None] * 4
    assert step["nonempty"] == 0.5
    assert validation["wer"] == {"student/dev": None, "teacher/dev": 5.0}


def _write(folder: Path, steps: range, *, lines: int = 0) -> RunLog:
    log = RunLog(folder, lines=lines)
    for step in steps:
        log.step(step, step / 10, True, result(float(step)), used())
    return log


@pytest.mark.parametrize("keep", [1, 3, 5])
def test_resume_cuts_off_what_came_after_the_checkpoint(tmp_path, keep):
    _write(tmp_path, range(5)).close()
    whole = (tmp_path / "log.jsonl").read_text()
    log = _write(tmp_path, range(keep, 5), lines=keep)
    assert log.lines == 5
    log.close()
    assert (tmp_path / "log.jsonl").read_text() == whole


def test_resume_cuts_off_half_a_line(tmp_path):
    """As a process killed in the middle of writing leaves one."""
    _write(tmp_path, range(3)).close()
    whole = (tmp_path / "log.jsonl").read_text()
    (tmp_path / "log.jsonl").write_text(whole + '{"event": "st')
    _write(tmp_path, range(3, 3), lines=3).close()
    assert (tmp_path / "log.jsonl").read_text() == whole


def test_a_new_run_starts_a_new_log(tmp_path):
    _write(tmp_path, range(5)).close()
    log = _write(tmp_path, range(1))
    log.close()
    assert [line["step"] for line in lines(tmp_path)] == [0]
    assert log.lines == 1


def test_flush_puts_every_line_on_the_disk(tmp_path):
    log = _write(tmp_path, range(3))
    log.flush()
    assert len(lines(tmp_path)) == log.lines == 3
    log.close()


def test_an_inactive_log_writes_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    log = RunLog(folder, active=False, every_seconds=0.0)
    for step in range(3):
        log.step(step, step / 10, False, result(confidence=0.5, nonempty=0.5), used(lr=1.0))
    log.validation(3, 0.3, {"student/dev": 1.0})
    log.say("hello")
    log.flush()
    log.close()
    assert not folder.exists()
    assert capsys.readouterr().out == ""
    assert log.lines == 0


# The lines to read.


def test_the_terminal_line(tmp_path, capsys, clock):
    """0.05 h of audio in 20 s of time: 9 times real time; 0.9 h are left: 6 minutes."""
    log = RunLog(tmp_path, total_hours=1.0, every_seconds=0.0)
    log.step(1, 0.05, True, result(3.0), used(lr=0.5))
    assert capsys.readouterr().out == ""  # of one step, no speed can be told
    clock.now += 20.0
    log.step(2, 0.1, False, result(4.0, nonempty=0.25, confidence=1.0), used(lr=0.25))
    log.close()
    assert capsys.readouterr().out == (
        "  0.100/1 h,     9 x real time, ETA 0:06:00, labelled loss 3.00, "
        "unlabelled loss 4.00, non-empty labels 25 %\n"
    )
    (speed,) = map(strict, (tmp_path / "speed.jsonl").read_text().splitlines())
    assert speed == {"step": 2, "hours": 0.1, "hours_per_second": pytest.approx(0.05 / 20)}


def test_on_a_real_clock_every_figure_is_there(tmp_path, capsys):
    log = RunLog(tmp_path, total_hours=2.0, every_seconds=0.0)
    log.step(1, 0.5, True, result(3.0), used())
    time.sleep(0.01)
    log.step(2, 1.0, False, result(4.0, nonempty=1.0, confidence=1.0), used())
    log.close()
    pattern = (
        r" +1\.000/2 h, +\d+ x real time, ETA 0:00:\d\d, labelled loss 3\.00, "
        r"unlabelled loss 4\.00, non-empty labels 100 %\n"
    )
    assert re.fullmatch(pattern, capsys.readouterr().out)


def test_the_lines_come_at_intervals_and_tell_of_the_steps_between(tmp_path, capsys, clock):
    """Losses are means over utterances, and no step is told of twice."""
    log = RunLog(tmp_path, total_hours=10.0, every_seconds=10.0)
    hours = 0.0
    for second, loss, utterances in ((0, 1.0, 1), (4, 2.0, 3), (10, 4.0, 4), (15, 8.0, 1), (20, 9.0, 1)):
        clock.now = 1000.0 + second
        hours += 0.1
        log.step(second, hours, True, result(loss, utterances=utterances), used())
    log.close()
    told = re.findall(r"labelled loss (\S+)", capsys.readouterr().out)
    assert told == [f"{(1 + 6 + 16) / 8:.2f}", "8.50"]


def test_a_run_that_stands_still_has_no_time_left_to_tell(tmp_path, capsys, clock):
    log = RunLog(tmp_path, total_hours=1.0, every_seconds=0.0)
    log.step(1, 0.5, True, result(), used())
    clock.now += 1.0
    log.step(2, 0.5, True, result(), used())
    log.close()
    assert "ETA ?" in capsys.readouterr().out


def test_validation_is_told_and_left_out_of_the_speed(tmp_path, capsys, clock):
    """An hour of validation between two steps: the speed is that of the steps after it."""
    log = RunLog(tmp_path, total_hours=1.0, every_seconds=0.0)
    log.step(1, 0.1, True, result(), used())
    clock.now += 3600.0
    log.validation(1, 0.1, {"student/dev": 31.25, "teacher/dev": 29.0})
    assert capsys.readouterr().out == "  0.100/1 h  WER student/dev 31.2, teacher/dev 29.0\n"
    log.step(2, 0.2, True, result(), used())
    assert capsys.readouterr().out == ""
    clock.now += 36.0
    log.step(3, 0.3, True, result(), used())
    log.close()
    assert "   10 x real time" in capsys.readouterr().out


def test_nothing_in_the_log_depends_on_the_clock_on_the_wall(tmp_path, clock):
    contents = []
    for name, pace in (("slow", 100.0), ("fast", 0.001)):
        log = RunLog(tmp_path / name, total_hours=1.0, every_seconds=1.0)
        for step in range(1, 6):
            clock.now += pace
            log.step(step, step / 10, step % 2 == 0, result(nonempty=0.5, confidence=0.5), used(lr=0.1))
        log.validation(5, 0.5, {"student/dev": 3.0})
        log.close()
        contents.append((tmp_path / name / "log.jsonl").read_bytes())
    assert contents[0] == contents[1]
    speeds = [(tmp_path / name / "speed.jsonl").read_text() for name in ("slow", "fast")]
    assert speeds[0].count("\n") == 4
    assert speeds[1] == ""


def test_tensorboard_has_losses_pseudo_labels_and_word_error_rates(tmp_path, clock):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, total_hours=1.0, every_seconds=0.0)
    in_force = {"lr": 0.5, "rho": 0.75, "kappa": 2.0, "gain": 2.0, "half_life_hours": 0.125}
    for step in (1, 2):
        clock.now += 10.0
        dropped = Counter(empty=1, low_confidence=3)
        told = result(float(step), nonempty=0.5, confidence=0.25 * step, dropped=dropped)
        log.step(step, step / 10, False, told, used(0.5, 0.75, 2.0, 0.125))
    log.validation(2, 0.2, {"teacher/dev": 12.5})
    log.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = {name: board.Scalars(name)[-1] for name in board.Tags()["scalars"]}
    assert scalars["loss/unlabelled"].value == 1.5
    assert {name: s.value for name, s in scalars.items() if name.startswith("pseudo_labels")} == {
        "pseudo_labels/nonempty": 0.5,
        "pseudo_labels/confidence": 0.375,
        "pseudo_labels/used": 0.5,
        "pseudo_labels/dropped/empty": 0.125,
        "pseudo_labels/dropped/low_confidence": 0.375,
        "pseudo_labels/tokens_per_utterance": 5.0,
    }
    assert {name: scalars[f"schedule/{name}"].value for name in in_force} == in_force
    assert scalars["wer/teacher/dev"].value == 12.5
    assert {scalar.step for scalar in scalars.values()} == {2}


# Skipped steps.

GOOD = StepResult(4, 20, loss=1.0, gradient_norm=1.0)
BROKEN = StepResult(4, 20, loss=1.0, gradient_norm=float("nan"), taken=False)
BARREN = StepResult(0, 0, Counter(empty=3, low_confidence=1), taken=False)


def test_a_line_says_why_a_step_was_skipped():
    steps = SkippedSteps(every_seconds=10.0)
    assert steps.step(1, True, GOOD, now=0.0) is None
    assert steps.total() is None
    said = steps.step(2, False, BARREN, now=1.0)
    assert said is not None
    assert "step 2 was skipped: all 4 unlabelled" in said
    assert "(3 empty, 1 low_confidence)" in said
    alone = StepResult(0, 0, Counter(empty=1), taken=False)
    assert "its only unlabelled utterance was dropped" in (SkippedSteps(0.0).step(1, False, alone, 0.0) or "")
    said = steps.step(3, True, BROKEN, now=11.0)
    assert said == "warning: step 3 was skipped: its gradient is not finite"


def test_many_skipped_steps_are_few_lines_and_one_total():
    steps = SkippedSteps(every_seconds=10.0)
    said = [steps.step(number, True, BROKEN, now=float(number)) for number in range(100)]
    lines = [line for line in said if line is not None]
    assert len(lines) == 10
    assert all("(9 other steps since the last warning)" in line for line in lines[1:])
    steps.step(100, True, GOOD, now=100.0)
    assert "100 of 101 steps were skipped" in (steps.total() or "")


def test_without_tensorboard_all_else_is_written_and_the_package_is_named_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    log = RunLog(tmp_path, total_hours=1.0, every_seconds=0.0)
    for step in (1, 2):
        log.step(step, step / 10, True, result(), used())
    log.validation(2, 0.2, {"teacher/dev": 12.5})
    log.close()
    assert len(lines(tmp_path)) == 3
    assert not (tmp_path / "tensorboard").exists()
    assert capsys.readouterr().out.count("pip install '.[tensorboard]'") == 1


def test_tensorboard_has_shares_of_the_audio_and_followed_labels(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path)
    followed = [{"id": "u1", "step": 7, "text": "ONE TWO", "confidence": 0.5}]
    hours = {"kept": 0.3, "loop": 0.1}
    log.labels(10, 1.0, {"utterances": 4, "entropy": 2.5, "audio_hours": hours, "followed": followed})
    log.labels(20, 2.0, {"utterances": 0, "audio_hours": hours})
    log.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    values = {name: board.Tensors(name) for name in board.Tags()["tensors"]}
    assert [(one.step, one.tensor_proto.string_val) for one in values["pseudo_labels/u1/text_summary"]] == [
        (7, [b"ONE TWO"])
    ]
    scalars = {name: board.Scalars(name)[-1].value for name in board.Tags()["scalars"]}
    assert scalars == pytest.approx(
        {"pseudo_labels/entropy": 2.5, "pseudo_labels/audio/kept": 0.75, "pseudo_labels/audio/loop": 0.25}
    )


def test_checkpoints_in_quick_succession_are_reported_once_but_failures_always(tmp_path, clock, capsys):
    log = RunLog(tmp_path, every_seconds=10.0)
    for step, now, failure in (
        (1, 0.0, None),
        (2, 1.0, None),
        (3, 2.0, OSError(28, "No space")),
        (4, 11.0, None),
    ):
        clock.now = 1000.0 + now
        log.saved(Saved(step, bytes=10**6, write_s=0.1, failure=failure))
    log.close()
    told = re.findall(r"checkpoint of step (\d)", capsys.readouterr().out)
    assert told == ["1", "3", "4"]
    assert len((tmp_path / "speed.jsonl").read_text().splitlines()) == 3

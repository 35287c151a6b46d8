"""What a run's time went to: from the lines that a run writes to the one that says what to change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.logged_runs import STEP

from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.filters import REASONS
from asr_emapl.report.run import read_runs
from asr_emapl.report.usage import Usage, as_record, read_usage, table
from asr_emapl.runs.phases import PHASES


def times(audio: float = 90.0, padded: float = 100.0, **seconds: float) -> dict[str, float]:
    return {**dict.fromkeys(PHASES, 0.0), **seconds, "steps": 50.0, "audio": audio, "padded": padded}


def run(folder: Path, ranks: list[list[dict[str, float]]], dropped: dict[str, int] | None = None) -> Path:
    """Logs with these times, interval by interval, and a step of 10 utterances for each."""
    steps = [{**STEP, "hours": 1.0, "utterances": 10, "dropped": dropped or {}} for _ in ranks]
    told = [{"step": 1, "hours": 0.1, "hours_per_second": 0.5}]
    (folder / "log.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
    lines = [*told, *({"step": 50, "hours": 1.0, "ranks": of} for of in ranks)]
    (folder / "speed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def usage(**fields) -> Usage:
    shares = {**dict.fromkeys(PHASES, 0.0), "student": 0.8, "teacher": 0.1, **fields.pop("shares", {})}
    even = {"seconds": 10.0, "speed": 9.0, "processes": 1, "imbalance": 1.0, "slowest": 0, "padding": 0.01}
    return Usage(**{**even, "shares": shares, "utterances": 100, **fields})


def test_one_process(tmp_path):
    interval = times(data=1.0, teacher=2.0, student=6.0, optimizer=1.0)
    found = read_usage(run(tmp_path, [[interval], [interval]], {"empty": 3, "low_confidence": 1}))
    assert found.seconds == pytest.approx(20.0)
    assert found.speed == pytest.approx(9.0)
    wanted = {
        "data": 0.1,
        "features": 0,
        "teacher": 0.2,
        "student": 0.6,
        "communication": 0,
        "optimizer": 0.1,
    }
    assert found.shares == pytest.approx(wanted)
    assert (found.processes, found.imbalance) == (1, 1.0)
    assert found.padding == pytest.approx(0.1)
    assert (found.utterances, found.dropped) == (20, {"empty": 6, "low_confidence": 2})
    assert found.dropped_share == pytest.approx(8 / 28)


def test_the_slowest_of_several_processes(tmp_path):
    """Both take as long: the quick one waits for the other, which is no work."""
    quick, slow = times(student=2.0, communication=4.0), times(student=6.0)
    found = read_usage(run(tmp_path, [[quick, slow]]))
    assert found.imbalance == pytest.approx(1.5)
    assert (found.slowest, found.processes) == (1, 2)
    assert found.seconds == pytest.approx(6.0)
    assert found.speed == pytest.approx(180.0 / 6.0)
    assert found.shares["communication"] == pytest.approx(4.0 / 12.0)


def test_a_run_that_went_on_with_fewer_processes(tmp_path):
    one = times(student=2.0)
    found = read_usage(run(tmp_path, [[one, one], [one]]))
    assert found.seconds == pytest.approx(4.0)
    assert found.imbalance == pytest.approx(1.0)
    assert found.processes == 1


@pytest.mark.parametrize("lines", ["", '{"step": 1, "hours": 1, "hours_per_second": 1}\n', '{"step": 1, "ra'])
def test_a_run_without_times_yet(tmp_path, lines):
    (tmp_path / "log.jsonl").write_text("")
    (tmp_path / "speed.jsonl").write_text(lines)
    with pytest.raises(UserError, match="has no times yet"):
        read_usage(tmp_path)


def test_no_run_directory(tmp_path):
    with pytest.raises(UserError, match="a run directory"):
        read_usage(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({"shares": {"data": 0.2}}, "data.workers"),
        ({"shares": {"data": 0.2}, "cores_are_used": True}, "shard --codec flac); all cores are in use"),
        ({"imbalance": 1.5, "slowest": 3}, "process 3 is the slowest"),
        ({"shares": {"communication": 0.4}}, "batch.seconds"),
        ({"padding": 0.3}, "batch.shuffle_padding"),
        ({"shares": {"teacher": 0.6, "student": 0.3}}, "device.precision=bf16"),
        ({"shares": {"optimizer": 0.5}}, "batch.seconds"),
        *(({"dropped": {reason: 100}}, entry.remedy) for reason, entry in REASONS.items()),
        ({"steps": 100, "broken_steps": 20}, "optimizer.lr"),
        ({}, "skipped steps are normal"),
        ({"shares": {"data": 0.05}, "padding": 0.05, "dropped": {"empty": 5}}, "skipped steps are normal"),
        # The largest loss comes first.
        ({"shares": {"data": 0.1}, "padding": 0.3}, "batch.shuffle_padding"),
        # Who waits for the slowest is told of the slowest.
        ({"imbalance": 1.5, "shares": {"communication": 0.33}}, "is the slowest"),
    ],
)
def test_what_to_change_first(fields, remedy):
    assert remedy in usage(**fields).advice()


def test_skipped_steps_are_counted_by_what_was_wrong(tmp_path):
    always = {"event": "step", "step": 1, "hours": 0.1, "kind": "labelled", "loss": 1.0, "tokens": 9}
    outcomes = [
        {"utterances": 10, "taken": True},
        {"utterances": 10, "taken": False},
        {"utterances": 0, "taken": False, "dropped": {"unalignable": 10}},
        {"utterances": 0, "taken": False, "dropped": {"undecodable": 10}},
    ]
    steps = [always | outcome for outcome in outcomes]
    folder = run(tmp_path, [[times(student=1.0)]])
    (folder / "log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    found = read_usage(folder)
    assert (found.steps, found.barren_steps, found.broken_steps) == (4, 2, 1)
    rows = dict(table({"a": found})[1])
    assert rows["steps"] == "4"
    assert rows["skipped: all dropped"] == "2"
    assert rows["skipped: not finite"] == "1"


def test_the_table_has_a_column_a_run_and_a_row_a_reason():
    head, rows = table({"a": usage(dropped={"empty": 1}), "b": usage(dropped={"low_confidence": 2})})
    assert head == ["", "a", "b"]
    assert all(len(row) == 3 for row in rows)
    assert ["dropped: empty", "1", "0"] in rows
    assert ["dropped: low_confidence", "0", "2"] in rows


def test_the_record_is_json():
    record = json.loads(json.dumps(as_record(usage(dropped={"empty": 100}))))
    assert record["dropped_share"] == 0.5
    assert record["shares"]["student"] == 0.8
    assert "empty" in record["advice"]


@pytest.mark.parametrize(("cores", "workers", "are_used"), [(2, 1, True), (2, 0, False), (None, 1, False)])
def test_workers_are_not_recommended_without_cores_for_them(tmp_path, cores, workers, are_used):
    folder = run(tmp_path, [[times(data=5.0, student=5.0)]])
    (folder / "config.yaml").write_text(f"data: {{workers: {workers}}}\n")
    texts = dict.fromkeys(("date", "command", "version", "commit", "torch", "device"), "x")
    (folder / "starts.jsonl").write_text(json.dumps({**texts, "hours": 0.0, "cores": cores}) + "\n")
    (found,) = read_runs([("a", folder)])
    assert found.usage is not None
    assert found.usage.cores_are_used is are_used
    assert ("raise data.workers" in found.usage.advice()) is not are_used

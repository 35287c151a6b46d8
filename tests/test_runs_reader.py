"""A run's logs are read as they were written, and an invalid line is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.logged_runs import STEP, UNLABELLED, write_lines, write_run

from asr_emapl.errors import UserError
from asr_emapl.report.run import read_runs
from asr_emapl.runs.reader import PHASES, read_log, read_skipped, read_speed, run_files

GOOD = {**UNLABELLED, "step": 1, "hours": 1.0}
TIMES = dict.fromkeys((*PHASES, "audio", "padded"), 1.0)


def test_what_runs_write_is_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [50.0])
    assert len(read_log(run / "log.jsonl")) == 3
    assert len(read_speed(run / "speed.jsonl")) == 2
    # null stands for NaN.
    write_lines(run / "log.jsonl", [{**GOOD, "loss": None, "gradient_norm": None}])
    assert len(read_log(run / "log.jsonl")) == 1
    (run / "skipped.jsonl").write_text('{"id": "a", "why": "b"}\n{"id": "half')
    assert [record["id"] for record in read_skipped(run / "skipped.jsonl")] == ["a"]


@pytest.mark.parametrize("name", ["hours", "kind", "loss", "utterances", "tokens"])
def test_a_step_without_what_each_step_has(tmp_path: Path, name: str) -> None:
    write_lines(tmp_path / "log.jsonl", [GOOD, {k: v for k, v in GOOD.items() if k != name}])
    with pytest.raises(UserError, match=f"log.jsonl:2: .*'{name}' is missing"):
        read_log(tmp_path / "log.jsonl")


@pytest.mark.parametrize("value", [True, "x", [], {}, [1], {"a": []}, 10**400])
@pytest.mark.parametrize("name", [*STEP, "hours", "step", "dropped", "confidence", "gradient_noise", "wer"])
def test_an_entry_of_another_kind(tmp_path: Path, name: str, value: Any) -> None:
    """Whatever is read can be reported on; all else is refused."""
    write_lines(tmp_path / "log.jsonl", [GOOD, {**GOOD, name: value}])
    said = ""
    try:
        read_runs([("run", tmp_path)])
    except UserError as error:
        said = str(error)
    assert not said or ("log.jsonl:2: " in said and f"'{name}' is" in said)


@pytest.mark.parametrize(
    "record",
    [
        {"hours_per_second": 1.0},
        {"hours_per_second": "x", "hours": 1.0},
        {"ranks": []},
        {"ranks": {}},
        {"ranks": [{}]},
        {"ranks": [TIMES, {**TIMES, "data": None}]},
        {"ranks": [{**TIMES, "audio": 10**400}]},
    ],
)
def test_times_of_another_kind(tmp_path: Path, record: dict[str, Any]) -> None:
    write_lines(tmp_path / "speed.jsonl", [{"hours": 1.0, "ranks": [TIMES]}, record])
    with pytest.raises(UserError, match=r"speed\.jsonl:2"):
        read_speed(tmp_path / "speed.jsonl")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\n", b"[" * 100_000 + b"\n", b'{"event": "\\ud800"}\n', b"1\n"]
)
def test_lines_that_are_no_records(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log.jsonl").write_bytes(json.dumps(GOOD).encode() + b"\n" + content)
    with pytest.raises(UserError, match=r"log\.jsonl:2"):
        read_log(tmp_path / "log.jsonl")


def test_the_files_of_a_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-1.pt").write_text("")
    assert {path.name for path in run_files(tmp_path)} >= {"log.jsonl", "config.yaml", "step-1.pt"}
    assert run_files(tmp_path / "checkpoints" / "step-1.pt") == [tmp_path / "checkpoints" / "step-1.pt"]

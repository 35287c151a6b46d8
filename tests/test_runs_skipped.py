"""The list of skipped audio: one line per utterance, continued on resume, with a limit."""

from __future__ import annotations

import json
import os

import pytest
import torch

from asr_emapl.data.step_batch import Skipped
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError
from asr_emapl.runs.skipped import ALWAYS_ADMITTED, WINDOW, SkippedList

ALONE = ProcessGroup(0, 1, torch.device("cpu"))


def one(name: str, epoch: int = 0) -> Skipped:
    return Skipped(name, f"{name}.flac", f"{name}.flac: not decodable", epoch)


def counts(learned: int, skipped: int = 0, low_confidence: int = 0) -> dict[str, int]:
    return {"read": learned + skipped + low_confidence, "skipped": skipped}


def listed(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]


def test_an_utterance_is_listed_when_it_is_skipped_for_the_first_time(tmp_path, caplog):
    skipped = SkippedList(tmp_path, ALONE, 0.01, keep=False)
    skipped.step([], **counts(5))
    assert not (tmp_path / "skipped.jsonl").exists()
    skipped.step([one("a"), one("b")], **counts(5, 2))
    skipped.step([one("c", 1), one("a", 1)], **counts(5, 2))
    assert listed(tmp_path) == [vars(one("a")), vars(one("b")), vars(one("c", 1))]
    assert len(caplog.records) == 1


def test_a_resumed_run_goes_on_with_the_list_and_a_new_one_begins_anew(tmp_path):
    SkippedList(tmp_path, ALONE, 0.01, keep=False).step([one("a")], **counts(5, 1))
    with (tmp_path / "skipped.jsonl").open("a") as file:
        file.write('{"id": "in pie')  # killed there
    again = SkippedList(tmp_path, ALONE, 0.01, keep=True)
    again.step([one("a", 3), one("b", 3)], **counts(5, 2))
    assert [line["id"] for line in listed(tmp_path)] == ["a", "b"]
    SkippedList(tmp_path, ALONE, 0.01, keep=False)
    assert not (tmp_path / "skipped.jsonl").exists()


def test_more_than_the_share_stops_the_run_with_the_list(tmp_path):
    skipped = SkippedList(tmp_path, ALONE, 0.1, keep=False)
    for i in range(30):
        skipped.step([one(f"u{i}")], **counts(9, 1))
    with pytest.raises(UserError) as caught:
        skipped.step([one("u30")], **counts(5, 1))
    said = str(caught.value)
    assert "data.max_skipped_share=0.1" in said
    assert "skipped.jsonl" in said
    assert "u30.flac" in said
    assert len(listed(tmp_path)) == 31


def test_a_few_are_always_admitted(tmp_path):
    skipped = SkippedList(tmp_path, ALONE, 0.0, keep=False)
    for i in range(ALWAYS_ADMITTED):
        skipped.step([one(f"u{i}")], **counts(0, 1))
    with pytest.raises(UserError, match="21 of the last 21"):
        skipped.step([one("last")], **counts(0, 1))


def test_utterances_dropped_for_another_reason_were_read(tmp_path):
    skipped = SkippedList(tmp_path, ALONE, 0.1, keep=False)
    for i in range(30):
        skipped.step([one(f"u{i}")], **counts(1, 1, low_confidence=8))


def test_what_was_read_long_ago_does_not_excuse_what_fails_now(tmp_path):
    """A disk that fails after a million utterances."""
    skipped = SkippedList(tmp_path, ALONE, 0.01, keep=False)
    for _ in range(100):
        skipped.step([], **counts(WINDOW))
    for i in range(10):
        skipped.step([one(f"u{i}")], **counts(0, 10))
    with pytest.raises(UserError, match="of the last"):
        skipped.step([one("last")], **counts(0, 10))


def test_what_failed_long_ago_is_forgotten(tmp_path):
    skipped = SkippedList(tmp_path, ALONE, 0.01, keep=False)
    for _ in range(30):
        skipped.step([one("a")], **counts(WINDOW // 5, 20))
        skipped.step([], **counts(WINDOW))


def test_a_pipe_under_its_name_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "skipped.jsonl")
    for keep in (False, True):
        with pytest.raises(OSError, match="not a regular file"):
            SkippedList(tmp_path, ALONE, 0.01, keep=keep)

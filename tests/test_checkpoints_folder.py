"""Which checkpoints stay: the newest, the best, and those for good; over restarts and failures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.checkpoints import folder as checkpoint_folder
from asr_emapl.checkpoints.files import load, save
from asr_emapl.checkpoints.folder import CheckpointConfig, CheckpointFolder


def state(step: int) -> dict:
    return {
        "student": {},
        "teacher": {"module": {}, "audio": 0.0},
        "tokenizer": {},
        "config": {"model": {"target": "a:B", "options": {}}, "optimizer": {"name": "sgd"}},
        "weight": torch.ones(3),
        "step": step,
    }


def steps(folder: Path) -> list[int]:
    return sorted(int(path.stem[5:]) for path in folder.glob("step-*.pt"))


def best(folder: Path) -> int:
    return load(folder / "best.pt")["step"]


def test_the_best_and_those_for_good_outlive_the_newest(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for step, rate in ((1, 50.0), (2, 30.0), (3, None), (4, 40.0), (5, 30.0)):
        folder.write(step, state(step), rate=rate, for_good=step == 1)
    assert steps(tmp_path) == [1, 2, 4, 5]
    assert best(tmp_path) == 2
    folder.write(6, state(6), rate=10.0)
    assert steps(tmp_path) == [1, 5, 6]
    assert best(tmp_path) == 6


def test_what_stays_is_known_after_a_restart(tmp_path):
    first = CheckpointFolder(tmp_path, keep=1)
    for step, rate in ((1, 20.0), (2, None), (3, 90.0)):
        first.write(step, state(step), rate=rate, for_good=step == 2)
    again = CheckpointFolder(tmp_path, keep=1)
    found = again.newest()
    assert found is not None
    again.go_on_from(found[1])
    assert not again.record_if_best(20.0)
    again.write(4, state(4), rate=20.0)
    assert steps(tmp_path) == [1, 2, 4]
    assert again.record_if_best(19.0)


def test_a_torn_one_passed_over_does_not_push_out_the_good_one(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=1)
    for step in (5, 9):
        folder.keep = 2
        folder.write(step, state(step))
    folder.path(9).write_bytes(folder.path(9).read_bytes()[:300])
    again = CheckpointFolder(tmp_path, keep=1)
    found = again.newest()
    assert found is not None
    again.go_on_from(found[1])
    again.write(7, state(7))
    assert steps(tmp_path) == [7]


def test_one_that_turns_out_to_be_the_best_takes_the_place_of_the_best_before(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.write(1, state(1), rate=50.0)
    folder.write(2, state(2))
    assert steps(tmp_path) == [1, 2]
    folder.choose(2, 40.0)
    assert (steps(tmp_path), best(tmp_path)) == ([2], 2)
    # That is stored in the next one only; one that was removed as no longer the best is none.
    again = CheckpointFolder(tmp_path, keep=1)
    found = again.newest()
    assert found is not None
    again.go_on_from(found[1])
    assert again.record_if_best(45.0)
    again.choose(2, 45.0)
    again.write(3, state(3))
    assert load(tmp_path / "step-000000003.pt")["kept"] == {"best": 2, "rate": 45.0, "for_good": []}
    assert (steps(tmp_path), best(tmp_path)) == ([2, 3], 2)


@pytest.mark.parametrize(
    ("best_by", "rate"),
    [("mean", 20.0), ("clean", 10.0), ("other", 30.0), ("lost", None), (None, None)],
)
def test_what_decides_is_the_teachers(best_by, rate):
    rates = {"student/clean": 1.0, "teacher/clean": 10.0, "student/other": 1.0, "teacher/other": 30.0}
    config = CheckpointConfig(best_by=best_by)
    assert config.selection_wer(rates, ["clean", "other"]) == rate


def test_a_mean_over_fewer_splits_decides_nothing():
    config = CheckpointConfig()
    assert config.selection_wer({"teacher/clean": 10.0}, ["clean", "other"]) is None
    assert config.selection_wer({}, []) is None


def test_a_failed_write_changes_nothing_and_leaves_nothing(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.write(1, state(1), rate=50.0)
    before = sorted(tmp_path.iterdir())

    def full(path, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_folder, "save", full)
        with pytest.raises(OSError, match="No space"):
            folder.write(2, state(2), rate=10.0, for_good=True)
    assert sorted(tmp_path.iterdir()) == before
    folder.write(3, state(3), rate=40.0)
    assert (steps(tmp_path), best(tmp_path)) == ([3], 3)


def test_a_killed_writers_leftovers_go(tmp_path):
    (tmp_path / f".step-000000001.pt.{'7' * 32}.partial").write_bytes(b"half")
    CheckpointFolder(tmp_path, 1).write(2, state(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000002.pt"]


OTHERS = (
    "step-final.pt",
    "step-000000004-average.pt",
    "step-00000004.pt",
    "step-0000000\u0664\u0664.pt",
    "step-000000099.pt.bak",
    "step--00000001.pt",
    "astep-000000099.pt",
)


def test_what_only_looks_like_a_checkpoint_is_neither_taken_nor_deleted(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.write(3, state(3))
    for name in OTHERS:
        save(tmp_path / name, state(99))
    (tmp_path / "step-000000098.pt").mkdir()
    (tmp_path / "step-000000097.pt").symlink_to(tmp_path / "nowhere.pt")
    found = CheckpointFolder(tmp_path, keep=1).newest()
    assert found is not None
    assert found[1]["step"] == 3
    before = {path.name for path in tmp_path.iterdir()}
    for step in (4, 5, 6):
        folder.write(step, state(step))
    assert {path.name for path in tmp_path.iterdir()} == before - {"step-000000003.pt"} | {
        "step-000000006.pt"
    }


def test_steps_are_in_the_order_of_numbers(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=9)
    for step in (10**9 - 1, 10**10, 7):
        save(folder.path(step), state(step))
    assert [path.name for path in folder.paths()] == [
        "step-000000007.pt",
        "step-999999999.pt",
        "step-10000000000.pt",
    ]


@given(st.lists(st.floats(), max_size=20))
def test_lowest_is_each_strictly_lower_number_and_never_nan(rates):
    folder, least = CheckpointFolder(Path("unused"), 1), math.inf
    for rate in rates:
        assert folder.record_if_best(rate) == (rate < least)
        least = rate if rate < least else least
    assert not folder.record_if_best(None)

"""The newest checkpoints, the best, and those for good are kept, over restarts and failures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.checkpoints import manager as module
from asr_emapl.checkpoints.files import checkpoint_path, checkpoint_paths, load, newest_checkpoint, save
from asr_emapl.checkpoints.manager import CheckpointConfig, CheckpointManager
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError

ALONE = ProcessGroup(0, 1, torch.device("cpu"))


def manager(folder: Path, keep: int) -> CheckpointManager:
    return CheckpointManager(folder, CheckpointConfig(keep=keep), ["dev"], ALONE, lambda saved: None)


def write(saving: CheckpointManager, step: int, rate: float | None = None, *, for_good: bool = False) -> Path:
    """Save, and wait until the checkpoint is written."""
    saving.save(step, state(step), rate, for_good=for_good)
    path = saving.last()
    assert path is not None
    return path


def choose(saving: CheckpointManager, step: int, rate: float) -> None:
    """Validate after the checkpoint of the step was written."""
    saving.keep_best(step, {"teacher/dev": rate}, lambda rate: pytest.fail("is there"))


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
    folder = manager(tmp_path, keep=2)
    for step, rate in ((1, 50.0), (2, 30.0), (3, None), (4, 40.0), (5, 30.0)):
        write(folder, step, rate=rate, for_good=step == 1)
    assert steps(tmp_path) == [1, 2, 4, 5]
    assert best(tmp_path) == 2
    write(folder, 6, rate=10.0)
    assert steps(tmp_path) == [1, 5, 6]
    assert best(tmp_path) == 6


def test_what_stays_is_known_after_a_restart(tmp_path):
    first = manager(tmp_path, keep=1)
    for step, rate in ((1, 20.0), (2, None), (3, 90.0)):
        write(first, step, rate=rate, for_good=step == 2)
    again = manager(tmp_path, keep=1)
    assert again.restore() is not None
    assert not again.record_if_best(20.0)
    write(again, 4, rate=20.0)
    assert steps(tmp_path) == [1, 2, 4]
    assert again.record_if_best(19.0)


def test_a_torn_one_passed_over_does_not_push_out_the_good_one(tmp_path):
    folder = manager(tmp_path, keep=2)
    for step in (5, 9):
        write(folder, step)
    checkpoint_path(tmp_path, 9).write_bytes(checkpoint_path(tmp_path, 9).read_bytes()[:300])
    again = manager(tmp_path, keep=1)
    assert again.restore() is not None
    write(again, 7)
    assert steps(tmp_path) == [7]


def test_one_that_turns_out_to_be_the_best_takes_the_place_of_the_best_before(tmp_path):
    folder = manager(tmp_path, keep=1)
    write(folder, 1, rate=50.0)
    write(folder, 2)
    assert steps(tmp_path) == [1, 2]
    choose(folder, 2, 40.0)
    assert (steps(tmp_path), best(tmp_path)) == ([2], 2)
    # That is stored in the next one only; one that was removed as no longer the best is none.
    again = manager(tmp_path, keep=1)
    assert again.restore() is not None
    choose(again, 2, 45.0)
    write(again, 3)
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
    folder = manager(tmp_path, keep=1)
    write(folder, 1, rate=50.0)
    before = sorted(tmp_path.iterdir())

    def full(path, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "save", full)
        with pytest.raises(UserError, match="No space"):
            write(folder, 2, rate=10.0, for_good=True)
    assert sorted(tmp_path.iterdir()) == before
    write(folder, 3, rate=40.0)
    assert (steps(tmp_path), best(tmp_path)) == ([3], 3)


def test_a_killed_writers_leftovers_go(tmp_path):
    (tmp_path / f".step-000000001.pt.{'7' * 32}.partial").write_bytes(b"half")
    write(manager(tmp_path, 1), 2)
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
    folder = manager(tmp_path, keep=1)
    write(folder, 3)
    for name in OTHERS:
        save(tmp_path / name, state(99))
    (tmp_path / "step-000000098.pt").mkdir()
    (tmp_path / "step-000000097.pt").symlink_to(tmp_path / "nowhere.pt")
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["step"] == 3
    before = {path.name for path in tmp_path.iterdir()}
    for step in (4, 5, 6):
        write(folder, step)
    assert {path.name for path in tmp_path.iterdir()} == before - {"step-000000003.pt"} | {
        "step-000000006.pt"
    }


def test_steps_are_in_the_order_of_numbers(tmp_path):
    folder = manager(tmp_path, keep=9)
    for step in (10**9 - 1, 10**10, 7):
        save(checkpoint_path(tmp_path, step), state(step))
    assert [path.name for path in checkpoint_paths(folder.folder)] == [
        "step-000000007.pt",
        "step-999999999.pt",
        "step-10000000000.pt",
    ]


@given(st.lists(st.floats(), max_size=20))
def test_lowest_is_each_strictly_lower_number_and_never_nan(rates):
    folder, least = manager(Path("unused"), 1), math.inf
    for rate in rates:
        assert folder.record_if_best(rate) == (rate < least)
        least = rate if rate < least else least
    assert not folder.record_if_best(None)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept(tmp_path):
    folder = manager(tmp_path / "deep" / "checkpoints", keep=2)
    written = [write(folder, step) for step in (5, 9, 10, 100)]
    assert checkpoint_paths(folder.folder) == written[-2:]
    assert names(folder.folder) == ["step-000000010.pt", "step-000000100.pt"]
    found = newest_checkpoint(folder.folder)
    assert found is not None
    path, newest, problems = found
    assert (path, newest["step"], problems) == (written[-1], 100, [])


@pytest.mark.parametrize("keep", [1, 0, -3])
def test_at_least_one_is_kept(tmp_path, keep):
    folder = manager(tmp_path, keep)
    write(folder, 1)
    write(folder, 2)
    assert names(tmp_path) == ["step-000000002.pt"]


def test_nothing_is_removed_before_the_new_one_is_whole(tmp_path, monkeypatch):
    folder = manager(tmp_path, keep=1)
    write(folder, 1)

    def broken(content, file):
        file.write(b"half of a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(UserError, match="No space"):
        write(folder, 2)
    assert names(tmp_path) == ["step-000000001.pt"]
    found = newest_checkpoint(folder.folder)
    assert found is not None
    assert found[1]["step"] == 1


def test_torn_ones_are_passed_over_and_named(tmp_path):
    folder = manager(tmp_path, keep=4)
    paths = [write(folder, step) for step in (1, 2, 3, 4)]
    paths[3].write_bytes(b"")  # as a power cut leaves one on some file systems
    paths[2].write_bytes(paths[2].read_bytes()[:700])
    found = newest_checkpoint(folder.folder)
    assert found is not None
    path, newest, problems = found
    assert (path, newest["step"]) == (paths[1], 2)
    assert len(problems) == 2
    assert str(paths[3]) in problems[0]
    assert str(paths[2]) in problems[1]
    assert all("\n" not in problem for problem in problems)


def test_of_none_there_is_no_newest(tmp_path):
    assert newest_checkpoint(tmp_path / "absent") is None
    (tmp_path / "notes.txt").write_text("no checkpoint")
    assert newest_checkpoint(tmp_path) is None


def test_if_all_are_torn_the_run_does_not_start_over(tmp_path):
    folder = manager(tmp_path, keep=2)
    for step in (1, 2):
        write(folder, step).write_bytes(b"torn to pieces")
    with pytest.raises(UserError, match="can be read") as caught:
        newest_checkpoint(folder.folder)
    message = str(caught.value)
    assert "step-000000001.pt" in message
    assert "step-000000002.pt" in message
    assert "\n" not in message

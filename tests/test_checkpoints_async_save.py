"""Saving in the background: the copy does not change, one write at a time, failures reported."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from asr_emapl.checkpoints.async_save import BackgroundSave, Saved, Snapshot
from asr_emapl.errors import UserError


def test_a_snapshot_holds_still_and_reuses_its_memory():
    weight = torch.arange(4.0)
    state = {"a": {"w": weight, "n": 3}, "b": [weight[:2], ("x", None)]}
    snapshot = Snapshot()
    first = snapshot.take(state)
    weight += 1
    assert first["a"]["w"].tolist() == [0, 1, 2, 3]
    assert first["b"][0].tolist() == [0, 1]
    assert first["b"][1] == ("x", None)
    assert first["a"]["n"] == 3
    memory = first["a"]["w"].data_ptr()
    second = snapshot.take(state)
    assert second["a"]["w"].data_ptr() == memory != weight.data_ptr()
    assert second["a"]["w"].tolist() == [1, 2, 3, 4]
    grown = snapshot.take({"a": {"w": torch.zeros(5), "n": 3}})
    assert grown["a"]["w"].tolist() == [0] * 5


@pytest.mark.gpu
def test_a_snapshot_of_a_gpu_is_on_the_host_and_whole():
    weight = torch.arange(1e6, device="cuda")
    copied = Snapshot().take({"w": weight})["w"]
    weight.zero_()
    assert copied.device.type == "cpu"
    assert torch.equal(copied, torch.arange(1e6))


class Disk:
    """Writes when it is let, and counts how many writes are under way."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.let = folder, threading.Event()
        self.now = self.most = 0
        self.error: BaseException | None = None

    def __call__(self, state: dict) -> Path:
        self.now += 1
        self.most = max(self.most, self.now)
        assert self.let.wait(10)
        self.now -= 1
        if self.error is not None:
            raise self.error
        path = self.folder / "written"
        path.write_bytes(bytes(state["w"].numpy()))
        return path


def test_training_goes_on_with_one_write_at_a_time(tmp_path):
    reports: list[Saved] = []
    saving, disk = BackgroundSave(reports.append), Disk(tmp_path)
    weight = torch.zeros(3, dtype=torch.uint8)
    saving.start(1, {"w": weight}, disk)
    weight += 1  # the next step; the write has not even begun
    saving.poll()
    assert reports == []
    threading.Timer(0.1, disk.let.set).start()
    saving.start(2, {"w": weight}, disk)
    assert [saved.step for saved in reports] == [1]
    assert saving.last() == tmp_path / "written"
    assert (tmp_path / "written").read_bytes() == b"\1\1\1"
    assert [(saved.step, saved.bytes) for saved in reports] == [(1, 3), (2, 3)]
    assert reports[1].wait_s > 0.05
    assert disk.most == 1


def test_the_copy_is_what_was_there_at_the_start(tmp_path):
    saving, disk = BackgroundSave(lambda saved: None), Disk(tmp_path)
    weight = torch.zeros(3, dtype=torch.uint8)
    saving.start(1, {"w": weight}, disk)
    weight += 1
    disk.let.set()
    saving.finish()
    assert (tmp_path / "written").read_bytes() == b"\0\0\0"


def test_a_full_disk_is_reported_and_only_matters_at_the_end(tmp_path):
    reports: list[Saved] = []
    saving, disk = BackgroundSave(reports.append), Disk(tmp_path)
    disk.let.set()
    disk.error = OSError(28, "No space left on device")
    saving.start(1, {"w": torch.zeros(1)}, disk)
    with pytest.raises(UserError, match=r"step 1, could not be written \(No space left on device\)"):
        saving.last()
    disk.error = None
    saving.start(2, {"w": torch.zeros(1)}, disk)
    assert saving.last().exists()
    assert [saved.failure is None for saved in reports] == [False, True]


def test_a_fault_of_our_own_is_raised(tmp_path):
    saving, disk = BackgroundSave(lambda saved: None), Disk(tmp_path)
    disk.let.set()
    disk.error = ZeroDivisionError()
    saving.start(1, {"w": torch.zeros(1)}, disk)
    with pytest.raises(ZeroDivisionError):
        saving.finish()

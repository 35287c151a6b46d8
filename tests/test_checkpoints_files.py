"""Checkpoint files are complete or absent, and each kind of damage is one line."""

from __future__ import annotations

import io
import os
import random
import resource
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from asr_emapl.checkpoints import files as checkpoint
from asr_emapl.checkpoints.files import find, load, newest_checkpoint, save
from asr_emapl.errors import UserError


def state(step: int = 1) -> checkpoint.State:
    return {
        "student": {"weight": torch.arange(50.0) + step},
        "teacher": {"module": {"weight": torch.arange(50.0)}, "audio": 12.5, "half_life": 3600.0},
        "tokenizer": {"kind": "characters"},
        "config": {
            "hours": 1.0,
            "data": {"labelled": ["a"]},
            "model": {"target": "asr_emapl.models.transformer:TransformerCtc", "options": {"dim": 8}},
            "optimizer": {"name": "adamw"},
        },
        "step": step,
    }


def serialised(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def refusal(path: Path) -> str:
    """What `load` says of a file that is not to be loaded: one line with its name, and nothing else."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with pytest.raises(UserError) as caught:
            load(path)
    assert heard == []  # torch muses on the pickle protocol of garbage
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "step-000000001.pt"


# Saving.


def test_what_is_saved_is_loaded(tmp_path):
    save(tmp_path / "a.pt", state(3))
    loaded = load(tmp_path / "a.pt")
    assert torch.equal(loaded["student"]["weight"], state(3)["student"]["weight"])
    assert {k: v for k, v in loaded.items() if k not in ("student", "teacher")} == {
        k: v for k, v in state(3).items() if k not in ("student", "teacher")
    }
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def _break_halfway(monkeypatch: pytest.MonkeyPatch, folder: Path, error: BaseException) -> list[Path]:
    """Have torch.save write a part and then fail; returns the names that were there at that time."""
    seen: list[Path] = []

    def broken(content, file):
        file.write(b"half of a checkpoint")
        file.flush()
        seen.extend(folder.iterdir())
        raise error

    monkeypatch.setattr(torch, "save", broken)
    return seen


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("x"), KeyboardInterrupt()]
)
def test_a_save_that_fails_leaves_the_old_file_and_no_part(tmp_path, monkeypatch, error):
    path = tmp_path / "a.pt"
    save(path, state(1))
    before = path.read_bytes()
    during = _break_halfway(monkeypatch, tmp_path, error)
    # Whatever it becomes: the failure is not swallowed.
    with pytest.raises((type(error), UserError)):
        save(path, state(2))
    assert len(during) == 2  # the old one, and the part under another name
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_appears_only_when_all_is_on_the_disk(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    synced: list[bool] = []
    sync = os.fsync

    def spy(descriptor):
        synced.append(path.exists())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    save(path, state())
    assert synced[0] is False
    load(path)


def test_a_part_in_the_folder_is_no_checkpoint(tmp_path):
    """As a process killed while it saved leaves one."""
    (tmp_path / f".step-000000009.pt.{'1' * 32}.partial").write_bytes(b"half")
    assert newest_checkpoint(tmp_path) is None


# Loading.


def test_an_absent_one_is_said_to_be_absent(tmp_path):
    assert "does not exist; specify a run directory" in refusal(tmp_path / "nowhere.pt")
    assert "does not exist" in refusal(tmp_path)


def test_cut_anywhere_it_is_refused(scratch):
    whole = serialised(state())
    for length in {0, 1, 2, 3, 4, 10, *range(20, len(whole), 97), len(whole) - 1}:
        scratch.write_bytes(whole[:length])
        refusal(scratch)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 1000,
        b"hello world",
        b"\x80",
        b"\x80\x02.",
        b"PK\x03\x04",
        b"fLaC\0\0\0\x22",
        b'{"id": "a", "text": "A"}\n',
        b"hours: 3\n",
        bytes(range(256)),
    ],
)
def test_what_is_no_checkpoint_at_all_is_refused(scratch, content):
    scratch.write_bytes(content)
    refusal(scratch)


@given(st.binary(max_size=60))
@example(b"Vx")
@example(b"\x80\xb5")
@example(b"\x80\x02X\x01\0\0\0\xff.")
def test_no_bytes_break_the_loader(scratch, content):
    scratch.write_bytes(content)
    refusal(scratch)


def same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return one == other


def test_a_changed_bit_is_refused_or_changes_nothing(scratch):
    """Every record has its checksum; between the records there is padding."""
    whole = serialised(state())
    draw = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        scratch.write_bytes(damaged)
        try:
            assert same(load(scratch), state())
        except UserError:
            refusal(scratch)
            refused += 1
    assert 0 < refused < 300


def test_a_copy_with_a_hole_is_refused(scratch):
    """As a copy under way leaves one, whose end is there before its middle."""
    whole = serialised(state() | {"student": {"weight": torch.randn(10_000)}})
    scratch.write_bytes(whole[:20_000] + bytes(4096) + whole[24_096:])
    refusal(scratch)


def test_a_write_that_fails_in_mid_file_is_an_os_error(tmp_path):
    """As on a full disk, through torch's own writer; a file size limit stands in for it."""
    path = tmp_path / "a.pt"
    save(path, state(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(path, state(2) | {"student": {"weight": torch.zeros(1_000_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_taken_by_a_pipe_is_refused_and_waits_for_nobody(tmp_path):
    os.mkfifo(tmp_path / "step-000000001.pt")
    with pytest.raises(OSError, match="not a regular file"):
        checkpoint.save(tmp_path / "step-000000001.pt", {})


def test_other_files_of_torch_are_refused(scratch):
    for content in ({"model": torch.zeros(2)}, [1, 2], torch.zeros(3), {1: 2}, None):
        scratch.write_bytes(serialised(content))
        assert "not an asr_emapl checkpoint" in refusal(scratch)


@pytest.mark.parametrize("key", ["student", "teacher", "tokenizer", "config"])
def test_a_checkpoint_lacks_nothing(scratch, key):
    scratch.write_bytes(serialised({k: v for k, v in state().items() if k != key}))
    assert "not an asr_emapl checkpoint" in refusal(scratch)


def test_a_zip_of_something_else_is_refused(scratch):
    with zipfile.ZipFile(scratch, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refusal(scratch)


class _Trap:
    """Pickled code: creates a folder when it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_inside_a_checkpoint_is_not_run(tmp_path):
    path, sprung = tmp_path / "a.pt", tmp_path / "sprung"
    path.write_bytes(serialised(state() | {"extra": _Trap(sprung)}))
    message = refusal(path)
    assert not sprung.exists()
    # torch advises to load without weights_only; nobody should.
    assert "weights_only" not in message
    # The trap works where it is allowed to.
    torch.load(path, weights_only=False)
    assert sprung.is_dir()


def test_a_run_its_checkpoints_and_a_file_are_found(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for step in (3, 12):
        save(checkpoint.checkpoint_path(folder, step), state(step))
    assert [find(path)[1]["step"] for path in (folder.parent, folder)] == [12, 12]
    assert find(checkpoint.checkpoint_path(folder, 3))[1]["step"] == 3
    (folder / "step-000000013.pt").write_bytes(b"broken")
    path, found, problems = find(folder.parent)
    assert (path.name, found["step"], len(problems)) == ("step-000000012.pt", 12, 1)
    with pytest.raises(UserError, match="has no checkpoint"):
        find(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        find(tmp_path / "nowhere")


def test_an_average_says_which_checkpoint_it_cannot_read(tmp_path, caplog):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    save(checkpoint.checkpoint_path(folder, 3), state(3))
    (folder / "step-000000013.pt").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"step-000000003\.pt has no running mean"):
        checkpoint.average(None, tmp_path, tmp_path / "out.pt")
    assert "step-000000013.pt cannot be read" in caplog.text

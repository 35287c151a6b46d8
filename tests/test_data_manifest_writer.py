"""Manifests are written whole or not at all, and only what can be read back."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.manifest_writer import write_manifest, write_manifests
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError


@pytest.mark.parametrize(
    ("utterances", "fault"),
    [
        ([], "there are no utterances to write"),
        ([Utterance("a", "/a", 1.0), Utterance("a", "/b", 1.0)], "utterance 'a': id is not unique"),
        ([Utterance("a", "/a", math.nan)], "utterance 'a': duration is nan"),
        ([Utterance("a", "/a", 0.0)], "utterance 'a': duration is 0.0"),
        ([Utterance("a", "/a\udcff", 1.0)], "utterance 'a': audio has an unpaired surrogate"),
        ([Utterance("", "/a", 1.0)], "utterance '': id is blank"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    tmp_path: Path, utterances: list[Utterance], fault: str
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("as it was")
    with pytest.raises(UserError) as error:
        write_manifest(path, utterances)
    assert str(error.value).startswith(f"{path}: {fault}")
    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]


def fail_after(times: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which from its call number `times` on finds the disk full."""
    calls = 0

    def failing(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls > times:
            raise OSError(28, "No space left on device", "disk")
        return function(*args, **kwargs)

    return failing


def test_a_failed_write_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    paths[0].write_text("as it was")
    monkeypatch.setattr("os.fsync", fail_after(1, lambda descriptor: None))
    with pytest.raises(UserError, match=r"two\.jsonl: cannot be written \(No space left"):
        write_manifests({path: [Utterance("a", "/a", 1.0)] for path in paths})
    assert paths[0].read_text() == "as it was"
    assert list(tmp_path.iterdir()) == paths[:1]


def test_a_folder_in_the_way_leaves_all_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "two.jsonl").mkdir()
    with pytest.raises(UserError, match=r"two\.jsonl: cannot be written \(Is a directory"):
        write_manifests({tmp_path / f"{name}.jsonl": [Utterance("a", "/a", 1.0)] for name in ("one", "two")})
    assert [path.name for path in tmp_path.iterdir()] == ["two.jsonl"]


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_manifest(tmp_path / "file" / "m.jsonl", [Utterance("a", "/a", 1.0)])


def test_a_manifest_with_the_same_content_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, [Utterance("a", "/a.flac", 1.0)])
    before = path.stat()
    write_manifest(path, [Utterance("a", "/a.flac", 1.0)])
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    write_manifest(path, [Utterance("b", "/a.flac", 1.0)])
    assert read_manifest(path)[0].id == "b"

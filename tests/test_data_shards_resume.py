"""Shards that are damaged, interrupted or incomplete."""

from __future__ import annotations

import itertools
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.packed_shards import SMALL, make_manifest, names, same_audio, waveform

from asr_emapl import storage
from asr_emapl.audio.decode import probe
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.shards import CODECS, ShardConfig, pack
from asr_emapl.data.utterance import Utterance
from asr_emapl.data.verify import verify
from asr_emapl.errors import UserError


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_manifest(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "absent"])
def test_what_is_not_what_was_packed_is_named(manifest: Path, tmp_path: Path, damage: str) -> None:
    after = read_manifest(pack(manifest, tmp_path, ShardConfig(mib=SMALL)).manifest)
    utterance = after[1]
    assert utterance.byte_range is not None
    shard = Path(utterance.audio)
    content = bytearray(shard.read_bytes())
    middle = utterance.byte_range.start + utterance.byte_range.length // 2
    content[middle] ^= 1
    if damage == "absent":
        shard.unlink()
    else:
        shard.write_bytes({"truncated": content[:middle], "changed": content, "empty": b""}[damage])
    for read in (waveform, lambda u: probe(u.source)):
        with pytest.raises(UserError) as caught:
            read(utterance)
        assert str(caught.value).startswith(f"{shard}: utterance u01: ")
        assert ("no such audio file" if damage == "absent" else "not those that were packed") in str(
            caught.value
        )
        assert str(caught.value).endswith(")")
    assert [line.split(":")[0] for line in verify(after[:2], None)][-1] == "u01"


def fail_at(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The disk is full at the `count`th file that is made durable."""
    fsync, calls = os.fsync, itertools.count(1)

    def full(descriptor: int) -> None:
        if next(calls) == count:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)


@pytest.mark.parametrize("count", range(1, 10, 2))
def test_a_full_disk_leaves_whole_shards_and_the_rest_follows(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    config = ShardConfig("flac", SMALL)
    whole = pack(manifest, tmp_path / "whole", config)
    with monkeypatch.context() as patched:
        fail_at(patched, count)
        with pytest.raises(UserError, match=r"cannot be written: .*No space left"):
            pack(manifest, tmp_path / "out", config)
    assert not (tmp_path / "out" / "train.jsonl").exists()
    left = {
        name: (tmp_path / "out" / name).stat().st_mtime_ns
        for name in names(tmp_path / "out")
        if name.endswith(".tar")
    }
    for name in left:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not [name for name in names(tmp_path / "out") if name.endswith(".partial")]
    said: list[str] = []
    pack(manifest, tmp_path / "out", config, said.append)
    assert names(tmp_path / "out") == names(tmp_path / "whole")
    for name in names(tmp_path / "whole"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    kept = [line for line in said if line.endswith("already exists")]
    assert len(said) == len(whole.shards)
    assert len(kept) == len([n for n, at in left.items() if (tmp_path / "out" / n).stat().st_mtime_ns == at])
    # Each shard is four: itself, its record, and the folder after each.
    assert len(kept) == min(count // 4, len(whole.shards))


@pytest.fixture
def interrupted(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A manifest, and a folder with a part of its shards."""
    shutil.copytree(manifest.parent, tmp_path / "corpus")
    source = tmp_path / "corpus" / "train.jsonl"
    with monkeypatch.context() as patched:
        fail_at(patched, 9)
        with pytest.raises(UserError):
            pack(source, tmp_path / "out", ShardConfig("flac", SMALL))
    assert len(list((tmp_path / "out").glob("*.tar"))) == 2
    return source, tmp_path / "out"


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("torn", [True, False])
def test_shards_that_are_not_whole_any_more_are_packed_again(
    interrupted: tuple[Path, Path], lost: int, torn: bool
) -> None:
    source, out = interrupted
    shard = out / f"train-{lost:06d}.tar"
    if torn:
        shard.write_bytes(shard.read_bytes()[:-512])
    else:
        shard.unlink()
    said: list[str] = []
    packed = pack(source, out, ShardConfig("flac", SMALL), said.append)
    assert sum(line.endswith("already exists") for line in said) == lost
    assert same_audio(read_manifest(source), read_manifest(packed.manifest))
    assert names(out) == sorted(storage.split(p)[1] for p in [*packed.shards, packed.manifest])


@pytest.mark.parametrize("change", ["codec", "mib", "utterance"])
def test_a_part_of_another_packing_is_left_alone(interrupted: tuple[Path, Path], change: str) -> None:
    source, out = interrupted
    before = {name: (out / name).read_bytes() for name in names(out)}
    utterances = read_manifest(source)
    config = ShardConfig("as-is" if change == "codec" else "flac", 1.0 if change == "mib" else SMALL)
    if change == "utterance":
        write_manifest(
            source, [replace(utterances[0], duration=utterances[0].duration - 0.1), *utterances[1:]]
        )
    with pytest.raises(UserError, match=r"train-000000\.tar: was packed from another manifest"):
        pack(source, out, config)
    assert {name: (out / name).read_bytes() for name in names(out)} == before


def test_audio_mended_behind_the_whole_shards_lets_it_go_on(manifest: Path, tmp_path: Path) -> None:
    shutil.copytree(manifest.parent, tmp_path / "corpus")
    source = tmp_path / "corpus" / "train.jsonl"
    bad = tmp_path / "bad.wav"
    good = [*read_manifest(source), Utterance("bad", str(bad), 0.5)]
    write_manifest(source, good)
    for content in (b"", b"RIFF and then nothing"):
        bad.write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.wav: (0 bytes|not decodable)"):
            pack(source, tmp_path / "out", ShardConfig(mib=SMALL))
        assert not (tmp_path / "out" / "train.jsonl").exists()
    write_manifest(source, good[:-1])
    said: list[str] = []
    pack(source, tmp_path / "out", ShardConfig(mib=SMALL), said.append)
    assert said[0].endswith("already exists")


@pytest.mark.parametrize("codec", CODECS)
def test_absent_audio_is_named(tmp_path: Path, codec: str) -> None:
    write_manifest(tmp_path / "m.jsonl", [Utterance("a", str(tmp_path / "absent.wav"), 1.0)])
    with pytest.raises(UserError, match=r"absent\.wav: (no such audio file|cannot be read)"):
        pack(tmp_path / "m.jsonl", tmp_path / "out", ShardConfig(codec))
    assert names(tmp_path / "out") == []


def test_a_finished_packing_is_left_alone(manifest: Path, tmp_path: Path) -> None:
    pack(manifest, tmp_path)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in names(tmp_path)}
    with pytest.raises(UserError, match=r"train\.jsonl: already exists"):
        pack(manifest, tmp_path, ShardConfig("flac"))
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in names(tmp_path)} == before
    with pytest.raises(UserError, match="already exists"):
        pack(manifest, manifest.parent)


@pytest.mark.parametrize(
    "config",
    [ShardConfig("mp3"), ShardConfig(mib=0), ShardConfig(mib=math.nan), ShardConfig(workers=0)],
)
def test_a_config_out_of_range_writes_nothing(manifest: Path, tmp_path: Path, config: ShardConfig) -> None:
    with pytest.raises(UserError):
        pack(manifest, tmp_path, config)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        pack(manifest, tmp_path / "file" / "out")

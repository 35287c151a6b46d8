"""Shards: any tar reads them, they give the same audio, and none that is not whole is taken for whole."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support.packed_shards import (
    SECOND,
    SMALL,
    batches,
    make_manifest,
    names,
    same_audio,
    same_step,
    waveform,
)

from asr_emapl import storage
from asr_emapl.audio.decode import probe, read_audio
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.shards import CODECS, ShardConfig, pack
from asr_emapl.data.utterance import Utterance
from asr_emapl.data.verify import verify
from asr_emapl.errors import UserError

# Some shards of a few files each.


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_manifest(tmp_path_factory.mktemp("corpus"))


# What is packed.


@pytest.mark.parametrize("codec", CODECS)
def test_all_but_the_place_stays(manifest: Path, tmp_path: Path, codec: str) -> None:
    packed = pack(manifest, tmp_path, ShardConfig(codec, SMALL))
    before, after = read_manifest(manifest), read_manifest(packed.manifest)
    assert packed.manifest == str(tmp_path / "train.jsonl")
    assert packed.utterances == len(before)
    assert len(packed.shards) > 1
    assert names(tmp_path) == ["train.jsonl" if i < 0 else Path(packed.shards[i]).name for i in
                               [*range(len(packed.shards)), -1]]  # fmt: skip
    for old, new in zip(before, after, strict=True):
        offset = old.offset if codec == "as-is" else 0.0
        assert replace(new, audio=old.audio, byte_range=None, offset=offset) == replace(old, offset=offset)
        assert len(waveform(new)) == len(waveform(old))
    assert verify(after, None) == []
    if codec != "opus":
        assert same_audio(before, after)


def test_any_tar_reads_them(manifest: Path, tmp_path: Path) -> None:
    packed = pack(manifest, tmp_path, ShardConfig(mib=SMALL))
    found = {}
    for shard in packed.shards:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                found[member.name] = (shard, member.offset_data, content.read())
    assert sorted(found) == sorted(
        [f"u{i:02d}.{'flac' if i % 2 else 'wav'}" for i in range(13)] + ["long_0.flac"]
    )
    for utterance in read_manifest(packed.manifest):
        assert utterance.byte_range is not None
        name = utterance.id if utterance.id.startswith("u") else "long_0"
        shard, start, content = next(value for key, value in found.items() if key.startswith(name))
        assert (utterance.audio, utterance.byte_range.start) == (shard, start)
        assert len(content) == utterance.byte_range.length


def test_a_recording_is_packed_once_as_it_is_and_cut_when_recoded(manifest: Path, tmp_path: Path) -> None:
    for codec, ranges in (("as-is", 1), ("flac", 3)):
        packed = pack(manifest, tmp_path / codec, ShardConfig(codec, SMALL))
        parts = [u for u in read_manifest(packed.manifest) if u.id.startswith("long")]
        assert len({(u.audio, u.byte_range) for u in parts}) == ranges
        assert [u.offset for u in parts] == ([0.0, 0.9, 1.8] if codec == "as-is" else [0.0] * 3)


def test_a_channel_is_kept_where_files_stay_whole_and_cut_out_when_recoded(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "call.wav", np.tile([0.25, -0.5], (16_000, 1)), 16_000)
    sides = [Utterance(f"u{c}", str(tmp_path / "call.wav"), 1.0, channel=c) for c in (0, 1)]
    write_manifest(tmp_path / "m.jsonl", sides)
    for codec, channels in (("as-is", [0, 1]), ("flac", [None, None])):
        packed = read_manifest(
            pack(str(tmp_path / "m.jsonl"), str(tmp_path / codec), ShardConfig(codec)).manifest
        )
        assert [u.channel for u in packed] == channels
        assert same_audio(sides, packed)


def test_a_shard_ends_with_the_file_that_fills_it(manifest: Path, tmp_path: Path) -> None:
    one = pack(manifest, tmp_path / "one")
    assert len(one.shards) == 1
    each = pack(manifest, tmp_path / "each", ShardConfig(mib=1e-6))
    assert len(each.shards) == 14
    assert same_audio(read_manifest(one.manifest), read_manifest(each.manifest))


def test_long_and_foreign_ids(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), SECOND)
    ids = ["x" * 300, "\u00e9\u6f22/../..", ".."]
    write_manifest(tmp_path / "m.jsonl", [Utterance(i, str(tmp_path / "a.wav"), 100 / SECOND) for i in ids])
    packed = pack(tmp_path / "m.jsonl", tmp_path / "out", ShardConfig("flac"))
    assert verify(read_manifest(packed.manifest), None) == []
    with tarfile.open(packed.shards[0]) as tar:
        assert tar.getnames() == [f"{i.replace('/', '_')}.flac" for i in ids]


def test_the_same_from_any_number_of_workers(manifest: Path, tmp_path: Path) -> None:
    content = set()
    for workers in (1, 5):
        packed = pack(manifest, tmp_path / str(workers), ShardConfig("flac", SMALL, workers))
        content.add(b"".join(Path(shard).read_bytes() for shard in packed.shards))
    assert len(content) == 1


def test_shards_are_packed_again(manifest: Path, tmp_path: Path) -> None:
    first = pack(manifest, tmp_path / "first", ShardConfig(mib=SMALL))
    second = pack(first.manifest, tmp_path / "second", ShardConfig("flac"))
    third = pack(second.manifest, tmp_path / "third", ShardConfig(mib=SMALL))
    assert same_audio(read_manifest(manifest), read_manifest(third.manifest))


def test_recoding_resamples_averages_and_says_what_it_cut_off(tmp_path: Path) -> None:
    time = np.arange(22_050) / 44_100
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone, tone], axis=1), 44_100)
    soundfile.write(tmp_path / "loud.wav", np.array([0.5, 1.5, -3.0, -1.0] * 2000), SECOND, subtype="FLOAT")
    made = [Utterance(n, str(tmp_path / f"{n}.wav"), 0.5) for n in ("stereo", "loud")]
    write_manifest(tmp_path / "m.jsonl", made)
    said: list[str] = []
    stereo, loud = read_manifest(
        pack(tmp_path / "m.jsonl", tmp_path / "out", ShardConfig("flac"), said.append).manifest
    )
    assert probe(stereo.source) == (0.5, SECOND, 1)
    torch.testing.assert_close(waveform(stereo), waveform(made[0]), atol=1 / 32768, rtol=0)
    assert waveform(loud)[:4].tolist() == [0.5, 32767 / 32768, -1.0, -1.0]
    (line,) = said
    assert line.endswith("1 of them clipped at -1..1")


@pytest.mark.parametrize("samples", [1, 2, 159, 160, 319, 321, 8000, 16_001])
def test_opus_keeps_the_length_and_the_place(tmp_path: Path, samples: int) -> None:
    time = np.arange(samples) / SECOND
    chirp = 0.3 * np.sin(2 * np.pi * (200 + 900 * time) * time)
    soundfile.write(tmp_path / "a.wav", chirp, SECOND)
    write_manifest(tmp_path / "m.jsonl", [Utterance("a", str(tmp_path / "a.wav"), samples / SECOND)])
    (after,) = read_manifest(pack(tmp_path / "m.jsonl", tmp_path / "out", ShardConfig("opus")).manifest)
    assert probe(after.source) == (samples / SECOND, SECOND, 1)
    decoded = read_audio(after.source).numpy()
    assert len(decoded) == samples
    if samples >= 8000:
        shifts = [float(np.dot(chirp[200:-200], np.roll(decoded, k)[200:-200])) for k in range(-100, 101)]
        assert int(np.argmax(shifts)) == 100


# Training.


@pytest.mark.parametrize("codec", ["as-is", "flac"])
def test_a_run_sees_the_same_steps(manifest: Path, tmp_path: Path, codec: str) -> None:
    expected = batches(read_manifest(manifest), 0)
    after = read_manifest(pack(manifest, tmp_path, ShardConfig(codec, SMALL)).manifest)
    for workers in (0, 2):
        found = batches(after, workers)
        assert all(map(same_step, expected, found))
        assert len(found) == len(expected)


# Reading.


def test_a_fork_and_a_pickle_read_the_same(manifest: Path, tmp_path: Path) -> None:
    after = read_manifest(pack(manifest, tmp_path, ShardConfig(mib=SMALL)).manifest)
    waveform(after[0])
    assert pickle.loads(pickle.dumps(after)) == after
    with multiprocessing.get_context("fork").Pool(2) as pool:
        sums = pool.map(_sum, after * 20)
    assert sums == [_sum(u) for u in after] * 20


def _sum(utterance: Utterance) -> float:
    samples, _ = soundfile.read(utterance.source.open(), dtype="int16")
    return float(samples.sum())


def test_files_kept_open_are_few(manifest: Path, tmp_path: Path) -> None:
    after = read_manifest(pack(manifest, tmp_path, ShardConfig(mib=1e-6)).manifest)
    storage.close_files()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for copy in range(20):
        shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-{copy}"))
        for u in read_manifest(tmp_path.with_name(f"{tmp_path.name}-{copy}") / "train.jsonl"):
            u.source.content()
    assert len({u.audio for u in after}) * 20 > 200
    assert len(os.listdir("/proc/self/fd")) - before <= 128  # noqa: PTH208
    storage.close_files()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_replaced_shard_is_opened_anew(manifest: Path, tmp_path: Path) -> None:
    config = ShardConfig(mib=SMALL)
    old = read_manifest(pack(manifest, tmp_path / "a", config).manifest)
    waveform(old[0])
    new = read_manifest(pack(manifest, tmp_path / "b", replace(config, codec="flac")).manifest)
    for u in {u.audio for u in new}:
        Path(u).replace(tmp_path / "a" / Path(u).name)
    moved = [replace(u, audio=str(tmp_path / "a" / Path(u.audio).name)) for u in new]
    assert same_audio(read_manifest(manifest), moved)


def test_long_recordings_are_sought_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(200 * SECOND)
    soundfile.write(tmp_path / "talk.wav", noise, SECOND)
    made = [Utterance(str(i), str(tmp_path / "talk.wav"), 2.0, offset=49.5 * i) for i in range(5)]
    write_manifest(tmp_path / "m.jsonl", made)
    after = read_manifest(pack(tmp_path / "m.jsonl", tmp_path / "out").manifest)
    read = storage.read
    lengths = []

    def counted(place: str, start: int = 0, length: int | None = None) -> bytes:
        content = read(place, start, length)
        lengths.append(len(content))
        return content

    monkeypatch.setattr(storage, "read", counted)
    assert same_audio(made, after)
    assert sum(lengths) < 5 * 2**20 < (tmp_path / "talk.wav").stat().st_size
    Path(after[0].audio).write_bytes(Path(after[0].audio).read_bytes()[: 100 * 2 * SECOND])
    with pytest.raises(UserError, match=r"m-000000\.tar: utterance 4: (ends|decoding failed)"):
        waveform(after[4])

"""Shards: any tar reads them, they give the same audio, and none that is not whole is taken for whole."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import pickle
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from asr_emapl import storage
from asr_emapl.audio.decode import probe, read_audio
from asr_emapl.audio.features import FrameCount
from asr_emapl.data.batch_plan import BatchPlan
from asr_emapl.data.corpus import Corpus
from asr_emapl.data.loader import StepBatch, StepDataset, steps
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.mixture import DataCursor, DataPlan, Mixture
from asr_emapl.data.shards import CODECS, ShardConfig, pack
from asr_emapl.data.utterance import Utterance
from asr_emapl.data.verify import verify
from asr_emapl.errors import UnreachableError, UserError

SECOND = 16_000
# Some shards of a few files each.
SMALL = 0.05


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen files of 0.3 to 0.9 s, and one of 3 s with three utterances in it, of which one comes late."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    made = []
    for i in range(13):
        samples = int(rng.integers(round(0.3 * SECOND), round(0.9 * SECOND)))
        path = folder / f"u{i:02d}.{'flac' if i % 2 else 'wav'}"
        soundfile.write(path, 0.1 * rng.standard_normal(samples), SECOND, subtype="PCM_16")
        made.append(Utterance(path.stem, str(path), samples / SECOND, f"TEXT {i}", speaker="s"))
    soundfile.write(folder / "long.flac", 0.1 * rng.standard_normal(3 * SECOND), SECOND)
    parts = [Utterance(f"long/{i}", str(folder / "long.flac"), 0.7, "LONG", offset=0.9 * i) for i in range(3)]
    write_manifest(folder / "train.jsonl", [*made[:4], *parts[:2], *made[4:], parts[2]])
    return folder / "train.jsonl"


def waveform(utterance: Utterance) -> torch.Tensor:
    return read_audio(utterance.source, offset=utterance.offset, duration=utterance.duration)


def same_audio(left: list[Utterance], right: list[Utterance]) -> bool:
    return all(torch.equal(waveform(a), waveform(b)) for a, b in zip(left, right, strict=True))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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


def batches(utterances: list[Utterance], workers: int) -> list[StepBatch]:
    corpus = Corpus(utterances, [[1 + i] for i in range(len(utterances))])
    one = BatchPlan(corpus.samples, 2 * SECOND, seed=1)
    dataset = StepDataset(
        corpus, Corpus(utterances, None), frames=FrameCount(window=400, hop=160), augment=None,
        max_samples=2 * SECOND, seed=5, rank=0, world_size=1,
    )  # fmt: skip
    mix = DataPlan(Mixture([one]), Mixture([BatchPlan(one.samples, one.batch_samples, seed=2)]))
    return list(itertools.islice(steps(dataset, mix, DataCursor(), workers=workers, pin_memory=False), 12))


def same_step(left: StepBatch, right: StepBatch) -> bool:
    return (left.labelled, left.samples, left.after) == (right.labelled, right.samples, right.after) and all(
        (a.ids, a.targets) == (b.ids, b.targets)
        and torch.equal(a.samples_B, b.samples_B)
        and torch.equal(a.waveforms_BN, b.waveforms_BN)
        for a, b in zip(left.micro_batches, right.micro_batches, strict=True)
    )


@pytest.mark.parametrize("codec", ["as-is", "flac"])
def test_a_run_sees_the_same_steps(manifest: Path, tmp_path: Path, codec: str) -> None:
    expected = batches(read_manifest(manifest), 0)
    after = read_manifest(pack(manifest, tmp_path, ShardConfig(codec, SMALL)).manifest)
    for workers in (0, 2):
        found = batches(after, workers)
        assert all(map(same_step, expected, found))
        assert len(found) == len(expected)


# Places.


def test_the_folder_can_be_moved(manifest: Path, tmp_path: Path) -> None:
    pack(manifest, tmp_path / "here", ShardConfig(mib=SMALL))
    (tmp_path / "here").rename(tmp_path / "there")
    moved = read_manifest(tmp_path / "there" / "train.jsonl")
    assert same_audio(read_manifest(manifest), moved)
    # A part of it, written elsewhere, still finds the shards.
    write_manifest(tmp_path / "part.jsonl", moved[:3])
    assert read_manifest(tmp_path / "part.jsonl") == moved[:3]


def test_a_relative_folder(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    packed = pack(manifest, "out", ShardConfig(mib=SMALL))
    assert packed.manifest == str(tmp_path / "out" / "train.jsonl")
    assert same_audio(read_manifest(manifest), read_manifest("out/train.jsonl"))


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder in fsspec's memory."""
    import fsspec

    yield "memory://bucket/corpus"
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize("workers", [0, 2])
def test_to_a_url_and_from_it(manifest: Path, memory: str, workers: int) -> None:
    packed = pack(manifest, memory, ShardConfig(mib=SMALL))
    assert packed.manifest == f"{memory}/train.jsonl"
    import fsspec

    found = fsspec.filesystem("memory").find("/bucket")
    assert found == sorted(
        storage.join("/bucket/corpus", storage.split(p)[1]) for p in [*packed.shards, packed.manifest]
    )
    after = read_manifest(packed.manifest)
    assert {storage.split(u.audio)[0] for u in after} == {memory}
    assert all(map(same_step, batches(read_manifest(manifest), 0), batches(after, workers)))


def test_from_a_url_to_another(manifest: Path, memory: str) -> None:
    """Audio that is a file for each utterance, at a URL."""
    import fsspec

    before = read_manifest(manifest)
    for place in {u.audio for u in before}:
        fsspec.filesystem("memory").put_file(place, f"/bucket/{Path(place).name}")
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    text = "\n".join(json.dumps({**line, "audio": Path(line["audio"]).name}) for line in lines)
    fsspec.filesystem("memory").pipe_file("/bucket/train.jsonl", text.encode())
    assert same_audio(before, read_manifest("memory://bucket/train.jsonl"))
    packed = pack("memory://bucket/train.jsonl", memory)
    assert same_audio(before, read_manifest(packed.manifest))


def test_a_url_that_is_not_there_or_not_known(memory: str) -> None:
    with pytest.raises(UserError, match=r"absent\.jsonl: cannot be read \(No such file"):
        read_manifest(f"{memory}/absent.jsonl")
    with pytest.raises(UserError, match=r"absent\.flac: no such audio file"):
        read_audio(f"{memory}/absent.flac")
    with pytest.raises(UserError, match=r"nothing://a: cannot be read.*[Pp]rotocol"):
        read_audio("nothing://a")


class Server(BaseHTTPRequestHandler):
    """Serves a folder by ranges of bytes, but cuts the first connections that ask for audio."""

    protocol_version = "HTTP/1.1"
    folder: Path
    cuts: int
    ranges: bool
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path, kind = self.folder / self.path.lstrip("/"), type(self)
        if not path.is_file():
            self.send_error(404)
            return
        content, asked = path.read_bytes(), self.headers.get("Range")
        if asked and kind.ranges:
            kind.asked.append(asked)
            first, last = asked.removeprefix("bytes=").split("-")
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            content = content[int(first) : int(last) + 1]
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes" if kind.ranges else "none")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body and asked and kind.cuts > 0:
            kind.cuts -= 1
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif with_body:
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def served(manifest: Path, tmp_path: Path) -> Iterator[tuple[str, type[Server]]]:
    """The URL of a folder of shards, and its server."""
    pytest.importorskip("aiohttp")
    pack(manifest, tmp_path / "www", ShardConfig("flac", SMALL))
    kind = type("OneServer", (Server,), {"folder": tmp_path / "www", "cuts": 0, "ranges": True, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", kind
    server.shutdown()
    server.server_close()


def test_over_http_by_ranges(served: tuple[str, type[Server]], manifest: Path) -> None:
    url, server = served
    after = read_manifest(f"{url}/train.jsonl")
    assert same_audio(read_manifest(manifest)[:5:2], after[:5:2])
    part = after[2].byte_range
    assert part is not None
    assert server.asked[1] == f"bytes={part.start}-{part.start + part.length - 1}"
    assert len(server.asked) == 3


def test_over_http_from_forked_processes(served: tuple[str, type[Server]], manifest: Path) -> None:
    """Whose parent has read over the same connections before."""
    after = read_manifest(f"{served[0]}/train.jsonl")
    waveform(after[0])
    assert all(map(same_step, batches(read_manifest(manifest), 0), batches(after, 2)))


def test_a_lost_connection_is_tried_again(
    served: tuple[str, type[Server]], manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, server = served
    monkeypatch.setattr("asr_emapl.storage.files._PAUSES_S", (0.01, 0.01))
    utterance = read_manifest(f"{url}/train.jsonl")[0]
    server.cuts = 2
    assert torch.equal(waveform(utterance), waveform(read_manifest(manifest)[0]))
    server.cuts = 3
    with pytest.raises(UnreachableError, match=r"train-000000\.tar: host 127\.0\.0\.1:\d+ fails to answer"):
        waveform(utterance)


def test_a_server_without_ranges_is_no_wrong_audio(served: tuple[str, type[Server]]) -> None:
    url, server = served
    utterance = read_manifest(f"{url}/train.jsonl")[1]
    server.ranges = False
    with pytest.raises(UserError, match="not those that were packed"):
        waveform(utterance)


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


# Damage.


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


# Interruptions.


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
    kept = [line for line in said if line.endswith("exists already")]
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
    assert sum(line.endswith("exists already") for line in said) == lost
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
    assert said[0].endswith("exists already")


@pytest.mark.parametrize("codec", CODECS)
def test_absent_audio_is_named(tmp_path: Path, codec: str) -> None:
    write_manifest(tmp_path / "m.jsonl", [Utterance("a", str(tmp_path / "absent.wav"), 1.0)])
    with pytest.raises(UserError, match=r"absent\.wav: (no such audio file|cannot be read)"):
        pack(tmp_path / "m.jsonl", tmp_path / "out", ShardConfig(codec))
    assert names(tmp_path / "out") == []


def test_a_finished_packing_is_left_alone(manifest: Path, tmp_path: Path) -> None:
    pack(manifest, tmp_path)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in names(tmp_path)}
    with pytest.raises(UserError, match=r"train\.jsonl: exists already"):
        pack(manifest, tmp_path, ShardConfig("flac"))
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in names(tmp_path)} == before
    with pytest.raises(UserError, match="exists already"):
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

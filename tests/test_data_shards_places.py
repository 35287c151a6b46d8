"""Shards that are moved, at URLs, and behind a server that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from support.packed_shards import SMALL, batches, make_manifest, same_audio, same_step, waveform

from asr_emapl import storage
from asr_emapl.audio.decode import read_audio
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.shards import ShardConfig, pack
from asr_emapl.errors import UnreachableError, UserError


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_manifest(tmp_path_factory.mktemp("corpus"))


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
    with pytest.raises(UnreachableError, match=r"train-000000\.tar: host 127\.0\.0\.1:\d+ does not respond"):
        waveform(utterance)


def test_a_server_without_ranges_is_no_wrong_audio(served: tuple[str, type[Server]]) -> None:
    url, server = served
    utterance = read_manifest(f"{url}/train.jsonl")[1]
    server.ranges = False
    with pytest.raises(UserError, match="not those that were packed"):
        waveform(utterance)

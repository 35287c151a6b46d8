"""Audio on a server: a missing file is missing audio, but a server that fails ends the command."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.commands import call
from support.loopback import Loopback, loopback
from support.runs import losses, read_log
from support.tiny import make_corpus, tiny_config

from asr_emapl.audio import source
from asr_emapl.audio.decode import probe, read_audio, read_blocks
from asr_emapl.errors import UnreachableError, UserError
from asr_emapl.training.trainer import train

pytest.importorskip("aiohttp")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    monkeypatch.setattr("asr_emapl.storage.files._PAUSES_S", (0.0, 0.0))
    with loopback() as running:
        yield running


@pytest.fixture
def remote(server: Loopback, tmp_path: Path) -> Path:
    """A folder with the tiny corpus, whose labelled and dev audio are on the server."""
    make_corpus(tmp_path)
    for path in tmp_path.glob("*.flac"):
        server.files[f"/{path.name}"] = path.read_bytes()
    for name in ("labelled", "dev"):
        manifest = tmp_path / f"{name}.jsonl"
        entries = [json.loads(line) for line in manifest.read_text().splitlines()]
        moved = [entry | {"audio": f"{server.url}/{Path(entry['audio']).name}"} for entry in entries]
        manifest.write_text("".join(f"{json.dumps(entry)}\n" for entry in moved))
    return tmp_path


@pytest.mark.parametrize("read", [probe, read_audio, lambda url: list(read_blocks(url))])
def test_a_failing_server_is_not_a_missing_file(server: Loopback, read) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UnreachableError, match=f"http://{host}/a.flac: host {host} does not respond"):
            read(f"http://{host}/a.flac")
    with pytest.raises(UserError, match=f"{server.url}/a.flac: no such audio file") as caught:
        read(f"{server.url}/a.flac")
    assert not isinstance(caught.value, UnreachableError)


@pytest.mark.parametrize("read", [read_audio, lambda url: list(read_blocks(url, block_seconds=0.5))])
def test_a_server_that_fails_within_a_file(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd, read
) -> None:
    """A long file, which libsndfile reads in parts."""
    monkeypatch.setattr(source, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(source, "_BUFFER_BYTES", 20_000)
    noise = np.random.default_rng(0).standard_normal(16_000 * 4)
    soundfile.write(tmp_path / "a.wav", 0.1 * noise, 16_000)
    server.files["/a.wav"] = (tmp_path / "a.wav").read_bytes()
    expected = read_audio(tmp_path / "a.wav")
    assert np.array_equal(np.concatenate([*read_blocks(f"{server.url}/a.wav")]), expected)
    asked = len(server.requests)
    assert asked > 4
    server.status_after = (asked + 3, 503)
    with pytest.raises(UnreachableError, match=r"a\.wav: host .*503"):
        read(f"{server.url}/a.wav")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_ends_with_one_line_when_its_server_fails(remote: Path, server: Loopback, workers: int) -> None:
    del server.files["/labelled-03.flac"]
    server.status_after = (100, 503)
    config = tiny_config(
        remote,
        "hours=1",
        "validation.every_hours=null",
        "checkpoint.every_hours=0.002",
        f"data.workers={workers}",
    )
    with pytest.raises(UnreachableError, match=f"{server.url}/labelled-.*: host .*503") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    steps = len(losses(remote / "run"))
    assert steps > 0
    # Only missing audio is skipped.
    assert (remote / "run" / "skipped.jsonl").read_text().count("\n") == 1
    server.status_after = None
    train(tiny_config(remote, "hours=0.012", f"data.workers={workers}"))
    assert len(losses(remote / "run")) > 0
    assert read_log(remote / "run")[-1]["event"] == "validation"


def test_a_server_that_fails_during_validation_ends_the_run(remote: Path, server: Loopback) -> None:
    for name, content in list(server.files.items()):
        if name.startswith("/labelled"):
            (remote / name[1:]).write_bytes(content)
    labelled = (remote / "labelled.jsonl").read_text().replace(server.url, str(remote))
    (remote / "labelled.jsonl").write_text(labelled)
    server.status_after = (2, 503)
    with pytest.raises(UnreachableError, match=r"dev-.*503"):
        train(tiny_config(remote, "hours=0.003"))
    # The run saved a checkpoint before.
    server.status_after = None
    train(tiny_config(remote, "hours=0.003"))
    assert [line["event"] for line in read_log(remote / "run")].count("validation") == 1


def test_decode_ends_with_one_line(remote: Path, server: Loopback) -> None:
    train(tiny_config(remote, "hours=0.002"))
    server.status_after = (len(server.requests) + 2, 503)
    common = ("decode", "--checkpoint", remote / "run", "--manifest", remote / "dev.jsonl")
    outcome = call(*common, "--out", remote / "hyp.jsonl")
    assert outcome.status == 2
    assert outcome.err.startswith(f"error: {server.url}/dev-")
    assert not (remote / "hyp.jsonl").exists()
    server.status_after = None
    del server.files["/dev-02.flac"]
    assert call(*common, "--out", remote / "hyp.jsonl").status == 1
    assert len((remote / "hyp.jsonl").read_text().splitlines()) == 3

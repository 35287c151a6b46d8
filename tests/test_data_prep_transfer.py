"""Downloads over HTTP: complete or missing, resumed if possible, and always verified."""

from __future__ import annotations

import errno
import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.loopback import Loopback, loopback

from asr_emapl.errors import UserError
from data_prep import transfer
from data_prep.transfer import fetch

CONTENT = bytes(range(256)) * 40
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    monkeypatch.setattr(transfer, "_FIRST_PAUSE_S", 0.0)
    with loopback() as running:
        running.files["/a.tar"] = CONTENT
        yield running


def starts(server: Loopback) -> list[int]:
    return [start for _, start in server.requests]


def test_a_complete_file(server: Loopback, tmp_path: Path) -> None:
    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", MD5)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
    # The file exists, so there is no other request.
    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", MD5)
    assert starts(server) == [0]


def test_cut_connections_are_resumed(server: Loopback, tmp_path: Path) -> None:
    server.cut_after = 3000
    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", MD5)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert starts(server) == [0, 3000, 6000, 9000]


def test_the_next_call_resumes_a_broken_transfer(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "a.tar.partial").write_bytes(CONTENT[:5000])
    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", MD5)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert starts(server) == [5000]


def test_a_server_without_ranges_starts_over(server: Loopback, tmp_path: Path) -> None:
    server.has_ranges = False
    (tmp_path / "a.tar.partial").write_bytes(CONTENT[:5000])
    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", MD5)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert starts(server) == [5000]


def test_a_server_without_ranges_that_always_breaks_off_is_given_up(server: Loopback, tmp_path: Path) -> None:
    server.has_ranges, server.cut_after = False, 3000
    with pytest.raises(UserError, match=r"connection was closed .*resumes after the 3000 bytes"):
        fetch(f"{server.url}/a.tar", tmp_path / "a.tar", MD5)
    assert len(server.requests) == 1 + transfer._ATTEMPTS
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.partial"]


@pytest.mark.parametrize("old", [b"of another version" * 100, CONTENT + b"more", CONTENT[:-1] + b"?"])
def test_wrong_old_bytes_are_downloaded_again(server: Loopback, tmp_path: Path, old: bytes) -> None:
    (tmp_path / "a.tar.partial").write_bytes(old)
    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", MD5)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert starts(server) == [len(old), 0]


def test_a_complete_partial_file_needs_no_byte_more(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "a.tar.partial").write_bytes(CONTENT)
    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", MD5)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_wrong_bytes_are_refused_and_removed(server: Loopback, tmp_path: Path) -> None:
    server.files["/a.tar"] = CONTENT[:-1] + b"?"
    with pytest.raises(UserError, match=rf"a\.tar: wrong MD5: expected {MD5}, got \w+"):
        fetch(f"{server.url}/a.tar", tmp_path / "a.tar", MD5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [CONTENT[:4000], b"nothing like it"])
def test_an_existing_wrong_file_is_named_and_replaced(
    server: Loopback, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", MD5)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert "a.tar: not the official file" in capsys.readouterr().err
    # A transfer resumes after half of the right file; other files are downloaded again.
    assert starts(server) == ([4000] if content == CONTENT[:4000] else [15, 0])


def test_only_a_busy_server_is_asked_again(server: Loopback, tmp_path: Path) -> None:
    server.first_statuses = [503, 429]
    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", MD5)
    assert len(server.requests) == 3
    with pytest.raises(UserError, match=r"b\.tar: download failed: HTTP Error 404"):
        fetch(f"{server.url}/b.tar", tmp_path / "b.tar", MD5)
    assert len(server.requests) == 4


@pytest.mark.parametrize("header", ["bytes 7-9/10", "10", "bytes */10240"])
def test_an_unrequested_range_is_not_written(server: Loopback, tmp_path: Path, header: str) -> None:
    server.range_header = header
    (tmp_path / "a.tar.partial").write_bytes(CONTENT[:5000])
    with pytest.raises(UserError, match="the server sent"):
        fetch(f"{server.url}/a.tar", tmp_path / "a.tar", MD5)
    assert (tmp_path / "a.tar.partial").read_bytes() == CONTENT[:5000]


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_FIRST_PAUSE_S", 0.0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
        with pytest.raises(UserError, match=r"download failed: .*check the network"):
            fetch(f"http://127.0.0.1:{closed.getsockname()[1]}/a.tar", tmp_path / "a.tar", MD5)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_what_has_come_and_is_no_success(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    class Full:
        """A file on a disk that takes 4,000 bytes."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, block: bytes) -> int:
            if self.file.tell() + len(block) > 4000:
                self.file.write(block[: 4000 - self.file.tell()])
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self.file.write(block))

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda path, mode="r", **options: Full(real(path, mode, **options)))
        with pytest.raises(OSError, match="No space left"):
            fetch(f"{server.url}/a.tar", tmp_path / "a.tar", MD5)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.partial"]
    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", MD5)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert starts(server) == [0, 4000]


def test_a_sha256_is_recognised_by_its_length(server: Loopback, tmp_path: Path) -> None:
    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", hashlib.sha256(CONTENT).hexdigest())
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    with pytest.raises(UserError, match="wrong SHA-256"):
        fetch(f"{server.url}/a.tar", tmp_path / "b.tar", 64 * "0")
    assert not (tmp_path / "b.tar").exists()

"""Paths and URLs are read in the same way, and published files appear complete or not at all."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.loopback import Loopback, loopback

from asr_emapl import storage
from asr_emapl.errors import UnreachableError

CONTENT = bytes(range(256)) * 4


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Path or URL of a folder."""
    if request.param == "local":
        yield str(tmp_path / "folder")
        return
    import fsspec

    yield "memory://bucket/folder"
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize(
    ("place", "verdict"),
    [
        ("https://host/a", True),
        ("s3://bucket/a", True),
        ("simplecache::https://host/a", True),
        ("/a/b://c", False),
        ("a/b", False),
        ("c:/a", False),
        (Path("https://host/a"), False),
    ],
)
def test_what_is_a_url(place: str | Path, verdict: bool) -> None:
    assert storage.is_url(place) == verdict


def test_places_are_joined_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage.join("https://host/a", "b/c") == "https://host/a/b/c"
    assert storage.join("https://host/a/", "b") == "https://host/a/b"
    assert storage.join("/a", "b/c") == "/a/b/c"
    assert storage.join("/a", "/b") == "/b"
    assert storage.join("/a", "s3://b/c") == "s3://b/c"
    assert storage.split("https://host/a/b") == ("https://host/a", "b")
    monkeypatch.chdir(tmp_path)
    assert storage.split("a/b") == (str(tmp_path / "a"), "b")


def test_written_read_sized_and_removed(folder: str) -> None:
    place = storage.join(folder, "a")
    assert storage.size(place) is None
    with storage.publish(place) as file:
        file.write(CONTENT)
        assert storage.size(place) is None
    assert storage.size(place) == len(CONTENT)
    assert storage.read(place) == CONTENT
    storage.remove(place)
    assert storage.size(place) is None
    with pytest.raises(FileNotFoundError):
        storage.read(place)


@given(start=st.integers(0, 1100), length=st.integers(0, 1100))
def test_ranges(tmp_path_factory: pytest.TempPathFactory, start: int, length: int) -> None:
    import fsspec

    path = tmp_path_factory.getbasetemp() / "ranges"
    path.write_bytes(CONTENT)
    fsspec.filesystem("memory").pipe_file("/ranges", CONTENT)
    for place in (str(path), "memory://ranges"):
        assert storage.read(place, start, length) == CONTENT[start : start + length]
        assert storage.read(place, start) == CONTENT[start:]


def test_an_error_leaves_what_was_there(folder: str) -> None:
    place = storage.join(folder, "a")
    with storage.publish(place) as file:
        file.write(CONTENT)

    def interrupted() -> None:
        with storage.publish(place) as file:
            file.write(b"half of")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert storage.read(place) == CONTENT
    if not storage.is_url(folder):
        assert os.listdir(folder) == ["a"]  # noqa: PTH208


def test_whatever_a_url_raises_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    class RefusedError(Exception):
        pass

    def refuse(*arguments: object, **options: object) -> bytes:
        calls.append(arguments)
        raise RefusedError("no")

    calls: list[object] = []
    pauses: list[float] = []
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", refuse)
    monkeypatch.setattr("time.sleep", pauses.append)
    with pytest.raises(UnreachableError, match="RefusedError: no"):
        storage.read("memory://a")
    assert (len(calls), pauses) == (5, [1.0, 5.0, 15.0, 45.0])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("asr_emapl.storage.files._PAUSES_S", (0.0, 0.0))
    with loopback() as running:
        running.files["/a"] = CONTENT
        yield running


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def ask(url: str, action: str) -> object:
    return storage.size(url) if action == "size" else storage.read(url)


@pytest.mark.parametrize("action", ["size", "read"])
@pytest.mark.parametrize("status", [404, 410])
def test_what_a_server_does_not_have_is_absent(server: Loopback, action: str, status: int) -> None:
    """At once: asking again would not help."""
    server.status_after = (0, status)
    if action == "size":
        assert storage.size(f"{server.url}/a") is None
    else:
        with pytest.raises(FileNotFoundError):
            storage.read(f"{server.url}/a")
    assert len(server.requests) == 1


@pytest.mark.parametrize("action", ["size", "read"])
@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_that_fails_is_asked_again_and_then_unreachable(
    server: Loopback, action: str, status: int
) -> None:
    server.first_statuses = [status, status]
    assert ask(f"{server.url}/a", action) in (CONTENT, len(CONTENT))
    assert len(server.requests) == 3
    server.status_after = (3, status)
    with pytest.raises(UnreachableError, match=f"{server.url}/a: host {server.url[7:]} .*{status}"):
        ask(f"{server.url}/a", action)
    assert len(server.requests) == 6


@pytest.mark.parametrize("action", ["size", "read"])
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_neither(server: Loopback, action: str, status: int) -> None:
    server.status_after = (0, status)
    with pytest.raises(OSError, match=f"the server answers {status}") as caught:
        ask(f"{server.url}/a", action)
    assert not isinstance(caught.value, UnreachableError | FileNotFoundError)
    assert len(server.requests) == 1


@pytest.mark.parametrize("action", ["size", "read"])
@pytest.mark.parametrize("host", ["127.0.0.1", "name.invalid"])
def test_nobody_who_answers_is_not_an_absent_file(server, closed_port: int, action: str, host: str) -> None:
    with pytest.raises(UnreachableError, match=f"host {host}:{closed_port} .*tried 3 times"):
        ask(f"http://user:secret@{host}:{closed_port}/a", action)


def test_a_range_far_beyond_the_end_takes_no_memory(tmp_path: Path) -> None:
    place = tmp_path / "a"
    place.write_bytes(CONTENT)
    assert storage.read(str(place), 1000, 2**62) == CONTENT[1000:]
    assert storage.read(str(place), 2**62, 2**62) == b""


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (str(tmp_path / "pipe"), "/dev/zero"):
        for length in (None, 5):
            with pytest.raises(OSError, match="not a file"):
                storage.read(place, 0, length)
    with pytest.raises(IsADirectoryError):
        storage.read(str(tmp_path))


@pytest.mark.parametrize("url", ["reference://a::{}", "reference://a::file://{}", "REFERENCE://a::{}"])
def test_files_of_references_are_refused(url: str, tmp_path: Path) -> None:
    """Their templates are code, in a file that a manifest from elsewhere may name."""
    (tmp_path / "refs.json").write_text('{"version": 1, "templates": {}, "gen": [], "refs": {"a": "hello"}}')
    with pytest.raises(OSError, match="reference:// is not supported"):
        storage.read(url.format(tmp_path / "refs.json"))

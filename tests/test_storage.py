"""Storage: a path and a URL read alike, and what is published appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl import storage

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
    with pytest.raises(OSError, match="RefusedError: no"):
        storage.read("memory://a")
    assert (len(calls), pauses) == (3, [1.0, 5.0])


@pytest.mark.parametrize("url", ["reference://a::{}", "reference://a::file://{}", "REFERENCE://a::{}"])
def test_files_of_references_are_refused(url: str, tmp_path: Path) -> None:
    """Their templates are code, in a file that a manifest from elsewhere may name."""
    (tmp_path / "refs.json").write_text('{"version": 1, "templates": {}, "gen": [], "refs": {"a": "hello"}}')
    with pytest.raises(OSError, match="reference:// is not supported"):
        storage.read(url.format(tmp_path / "refs.json"))

"""Text files are read line by line; files that would hang or fill the memory are errors."""

from __future__ import annotations

import gzip
import lzma
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from asr_emapl.errors import UserError
from asr_emapl.storage import raw_lines, read_document, read_lines, text_files


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\xef\xbb\xbf\r\n \t\n", []),
        (b"a\nb", [(1, "a"), (2, "b")]),
        (b"\xef\xbb\xbfa \r\n\r\n\tb\r\n", [(1, "a "), (3, "\tb")]),
        ("a\u2028b\x85c\x0bd\n\u00a0\n".encode(), [(1, "a\u2028b\x85c\x0bd")]),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_lines(tmp_path: Path, content: bytes, lines: list[tuple[int, str]], pack) -> None:
    (tmp_path / "a.txt").write_bytes(pack(content))
    assert list(read_lines(tmp_path / "a.txt")) == lines


def test_a_last_line_that_is_not_complete_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1\n2\n3")
    assert [line for _, line in raw_lines(tmp_path / "a", complete=True)] == [b"1", b"2"]


def test_a_url_is_read_as_a_path_is() -> None:
    import fsspec

    with fsspec.open("memory://lines/a.gz", "wb") as file:
        file.write(gzip.compress(b"a\n\nb"))
    assert list(read_lines("memory://lines/a.gz")) == [(1, "a"), (3, "b")]
    assert read_document("memory://lines/a.gz") == "a\n\nb"


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"ab\n\nab\xff")
    for read in (read_document, lambda place: list(read_lines(place))):
        with pytest.raises(UserError, match=r"a\.txt:3: not UTF-8"):
            read(tmp_path / "a.txt")
        with pytest.raises(UserError, match=r"b\.txt: cannot be read \(No such file"):
            read(tmp_path / "b.txt")
        with pytest.raises(UserError, match=r"cannot be read \(Is a directory"):
            read(tmp_path)
        with pytest.raises(UserError, match="cannot be read"):
            read("a\0b")


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_half_of_a_packed_file_is_an_error(tmp_path: Path, pack) -> None:
    (tmp_path / "a").write_bytes(pack(os.urandom(1000))[:-20])
    with pytest.raises(UserError, match="a: cannot be read"):
        list(raw_lines(tmp_path / "a"))


def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    """A pipe without a writer would block for ever, /dev/zero would fill the memory."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for place, what in ((tmp_path / "pipe", "a named pipe"), (tmp_path / "socket", "a socket")):
            with pytest.raises(UserError, match=what):
                read_document(place)
    for read in (read_document, lambda place: list(raw_lines(place))):
        with pytest.raises(UserError, match=r"/dev/zero: cannot be read \(a device, not a file\)"):
            read("/dev/zero")


def test_a_pipe_of_the_shell_is_read() -> None:
    code = "from asr_emapl.storage import read_lines; print(list(read_lines('/dev/stdin')))"
    found = subprocess.run([sys.executable, "-c", code], input=b"a\nb\n", capture_output=True, check=True)
    assert found.stdout == b"[(1, 'a'), (2, 'b')]\n"


def test_a_line_has_a_limit_also_in_a_packed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 1 << 20)
    (tmp_path / "a.xz").write_bytes(lzma.compress(b"short\n" + bytes((1 << 20) - 1) + b"\n"))
    assert len(list(raw_lines(tmp_path / "a.xz"))) == 2
    (tmp_path / "a.xz").write_bytes(lzma.compress(b"short\n" + bytes(64 << 20)))
    with pytest.raises(UserError, match=r"a\.xz:2: a line has more than 1 MiB"):
        list(raw_lines(tmp_path / "a.xz"))
    with pytest.raises(UserError, match=r"a\.xz: longer than 1 MiB"):
        read_document(tmp_path / "a.xz", max_bytes=1 << 20)


def test_blank_lines_have_a_limit(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.gz", "wb", compresslevel=1) as file:
        file.write(b"\n" * (text_files.MAX_BLANK_LINES + 1))
    with pytest.raises(UserError, match=r"a\.gz: more than 1,000,000 empty lines"):
        list(raw_lines(tmp_path / "a.gz"))

"""Lines of text files: numbered, without what editors leave in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr_emapl.errors import UserError
from data_prep.lines import read_lines


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\xef\xbb\xbf\r\n \t\n", []),
        (b"a\nb", [(1, "a"), (2, "b")]),
        (b"\xef\xbb\xbfa \r\n\r\n\tb\r\n", [(1, "a "), (3, "\tb")]),
        ("a\u2028b\x85c\x0bd\n".encode(), [(1, "a\u2028b\x85c\x0bd")]),
    ],
)
def test_lines(tmp_path: Path, content: bytes, lines: list[tuple[int, str]]) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert read_lines(tmp_path / "a.txt") == lines


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"ab\xff")
    with pytest.raises(UserError, match=r"a\.txt: not UTF-8 at byte 2 \(save"):
        read_lines(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"b\.txt: no such file \(mend"):
        read_lines(tmp_path / "b.txt")
    with pytest.raises(UserError, match=r"cannot be read: Is a directory \(check"):
        read_lines(tmp_path)

"""Lines are appended, truncated when a run resumes, and kept while the disk is full."""

from __future__ import annotations

import os

import pytest

from asr_emapl.runs.line_file import LineFile


def test_lines_are_appended_and_counted(tmp_path):
    for text in ("a", "b"):
        file = LineFile(tmp_path / "log")
        file.write(text)
        file.close()
    assert (tmp_path / "log").read_text() == "a\nb\n"


@pytest.mark.parametrize(("lines", "kept"), [(0, ""), (1, "a\n"), (2, "a\nb\n"), (9, "a\nb\n")])
def test_what_comes_after_the_kept_lines_is_cut_off(tmp_path, lines, kept):
    (tmp_path / "log").write_text("a\nb\nhalf a li")
    file = LineFile(tmp_path / "log", lines)
    assert (tmp_path / "log").read_text() == kept
    assert file.lines == kept.count("\n")
    file.write("new")
    file.close()
    assert (tmp_path / "log").read_text() == kept + "new\n"
    assert file.lines == kept.count("\n") + 1


class FullDisk:
    """Takes so many bytes, three at a time, and then refuses."""

    def __init__(self, room: int) -> None:
        self.room, self.written = room, b""

    def write(self, data: bytearray) -> int:
        if self.room == 0:
            raise OSError(28, "No space left on device")
        taken = bytes(data[: min(3, self.room)])
        self.room -= len(taken)
        self.written += taken
        return len(taken)


def test_a_full_disk_loses_nothing_and_is_said_once(tmp_path, caplog):
    file = LineFile(tmp_path / "log")
    file._file = disk = FullDisk(room=7)  # type: ignore[assignment]
    for number in range(3):
        file.write(f"line {number}")
        file.flush()
    assert caplog.text.count("cannot be written (No space left on device)") == 1
    disk.room = 100
    file.flush()
    assert disk.written == b"line 0\nline 1\nline 2\n"


def test_a_pipe_under_its_name_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "log.jsonl")
    for lines in (None, 3):
        with pytest.raises(OSError, match="not a regular file"):
            LineFile(tmp_path / "log.jsonl", lines)

"""Outputs are checked before the work: never an input, never two of one name, one line for an error."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from asr_emapl.errors import UserError
from asr_emapl.storage import check_outputs, write, writing


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("as it was")
    return path


def spellings(file: Path) -> list[str | Path]:
    """Names of one file."""
    symbolic, hard, folder = file.with_name("symbolic"), file.with_name("hard"), file.with_name("folder")
    symbolic.symlink_to(file.name)
    os.link(file, hard)
    folder.symlink_to(".")
    crooked = f"{file.parent}/../{file.parent.name}//./{file.name}"
    return [file, str(file), symbolic, hard, folder / file.name, crooked, f"file://{file}"]


def test_an_output_that_is_an_input_by_any_name_is_refused(file):
    names = spellings(file)
    for output in names:
        for read in names:
            with pytest.raises(UserError, match="is read by this command"):
                check_outputs([file.with_name("b"), output], ["-", "", None, file.with_name("c"), read])


def test_relative_names(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    with pytest.raises(UserError, match=r"^a\.txt: is read by this command"):
        check_outputs(["a.txt"], [file])


def test_other_files_are_not_refused(file, tmp_path):
    check_outputs([file], [tmp_path / "b", tmp_path, "/dev/null", "memory://a.txt", "\0"])
    check_outputs(["/dev/null", tmp_path / "new" / "folder" / "a"], ["/dev/null", tmp_path])
    assert not (tmp_path / "new").exists()


def test_urls_are_compared_as_they_are():
    check_outputs(["memory://a/b"], ["memory://a/c"])
    with pytest.raises(UserError, match="memory://a/b: is read"):
        check_outputs(["memory://a/b"], ["memory://a/b"])


def test_two_outputs_of_one_name(tmp_path):
    (tmp_path / "link").symlink_to("a")
    for names in (("a", "a"), ("a", "link"), ("a", "../" + tmp_path.name + "/a")):
        with pytest.raises(UserError, match="would be written twice"):
            check_outputs([tmp_path / name for name in names])


def test_what_cannot_be_written_is_refused_before_the_work(file, tmp_path, monkeypatch):
    for output, said in ((tmp_path, "Is a directory"), (file / "b" / "c", "Not a directory")):
        with pytest.raises(UserError, match=rf"^{output}: cannot be written \({said}"):
            check_outputs([output])
    monkeypatch.setattr(os, "access", lambda *arguments: False)  # root may write anywhere
    for output in (file, tmp_path / "b"):
        with pytest.raises(UserError, match="Permission denied"):
            check_outputs([output])


def test_existing_files_stay_unless_they_may_be_replaced(file, tmp_path):
    check_outputs([file])
    check_outputs(["/dev/stdout", "/dev/null", tmp_path / "b"], overwrite=False)
    with pytest.raises(UserError, match=r"a\.txt: already exists; .* --overwrite"):
        check_outputs([tmp_path / "b", file], overwrite=False)
    (tmp_path / "c").write_text("")
    with pytest.raises(UserError, match=r"a\.txt and 1 more: already exists"):
        check_outputs([file, tmp_path / "c"], overwrite=False)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EFBIG])
def test_an_error_of_the_system_names_place_and_reason(code):
    with pytest.raises(UserError, match=r"^out/a: cannot be written \(") as failure, writing("out/a"):
        raise OSError(code, os.strerror(code))
    assert os.strerror(code) in str(failure.value)


def test_texts_are_written_as_utf8_and_halves_of_surrogate_pairs_as_json_escapes_them(tmp_path):
    name = os.fsdecode(b"a\xff.wav")
    for text in ("\u00e9", name, "\ud800"):
        write(tmp_path / "a", json.dumps(text, ensure_ascii=False) + "\n")
        assert json.loads((tmp_path / "a").read_bytes()) == text
    write(tmp_path / "a", (letter for letter in "abc\n"))
    assert (tmp_path / "a").read_bytes() == b"abc\n"


def test_an_open_file_is_not_replaced_but_may_be_an_input(file):
    with file.open("ab") as opened:
        name = f"/dev/fd/{opened.fileno()}"
        check_outputs([name], overwrite=False)
        with pytest.raises(UserError, match="is read by this command"):
            check_outputs([name], [file])
        write(name, ", and more")
    assert file.read_text() == "as it was, and more"

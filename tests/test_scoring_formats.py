"""Formats by name and by content, and lines without ids."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from asr_emapl.errors import UserError
from asr_emapl.scoring.formats import TRN_LINE, lines_without_ids, named_format, sniffed_format
from asr_emapl.scoring.transcripts import read_transcripts

STM = ["rec A 1089 0.00 2.50 <o,f0> HELLO", "rec A spk 2.50 3.00 5 6"]
CTM = ["rec A 0.00 0.50 HELLO 0.9", "rec A * * <ALT_BEGIN>", "rec A 0.5 0.25 5"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, "stm") for name in ("a.stm", "stm", "dir/stm.gz", "a.stm.filt", "A.STM.filt.gz")),
        *((name, "ctm") for name in ("a.ctm", "ctm", "a.ctm.filt")),
        *((name, None) for name in ("text", "a.txt", "stm.txt", "a.filt")),
    ],
)
def test_names(name: str, expected: str | None) -> None:
    assert named_format(name) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (STM, "stm"),
        ([";; x", *STM], "stm"),
        (CTM, "ctm"),
        (["utt1 7 8 9 10", "utt2 1 2 3 4 5"], "plain"),
        (["1272-128104-0000 MISTER QUILTER", "1272-128104-0001"], "plain"),
        ([";; x"], "plain"),
        (["HELLO (u1)", ";; x"], "trn"),
        (['{"id": "a"}'], "jsonl"),
    ],
)
def test_content(lines: list[str], expected: str) -> None:
    assert sniffed_format("x", list(enumerate(lines, start=1))) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\n', "TextGrid"),
        ("WEBVTT\n\n00:00.000 --> 00:02.000\nHello\n", "subtitles"),
        ("1\n00:00:00,000 --> 00:00:02,000\nHello\n", "subtitles"),
        ("SPEAKER a 1 0.0 2.0 <NA> <NA> x <NA> <NA>\n", "RTTM"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(UserError, match=f"{expected}.*convert it"):
        read_transcripts(tmp_path / "a.txt")


def test_files_of_any_name(tmp_path: Path) -> None:
    for name, lines, text in (("x.txt", STM, "HELLO"), ("y", CTM, "HELLO")):
        (tmp_path / name).write_text("\n".join(lines).replace("<ALT_BEGIN>", "X").replace("* *", "0.1 0.1"))
        assert text in " ".join(read_transcripts(tmp_path / name).values())


def test_line_of_many_spaces_takes_linear_time() -> None:
    begin = time.process_time()
    assert TRN_LINE.fullmatch(" " * 100_000) is None
    assert TRN_LINE.fullmatch("A (B)  (u-1) ")["id"] == "u-1"
    assert time.process_time() - begin < 5.0


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ("THE CAT\nTHE DOG\n", "certain"),  # repeated
        ("THE CAT\nA DOG SEES THE CAT\n", "certain"),  # occurs in the text
        ("YES\nNO\n", "certain"),  # only first words
        ("\u6211\u4eec\u53bb\n\u4f60\u597d\u5417\n", "certain"),
        ("the cat sat\nwe went home\n2001 was long\n", "suspected"),
        ("THE CAT\n", "suspected"),
        ("Well, hello\nGood day\n", "suspected"),
        ("1272-128104-0000 MISTER QUILTER\n1272-128104-0001 NOR IS MISTER\n", "none"),
        ("sp1_utt1 the cat\nsp1_utt2 the dog\n", "none"),
        ("1 THE CAT\n2 THE DOG\n3\n", "none"),
        ("a ONE\nb TWO\n", "none"),
        ("a a b\nb b a\n", "none"),
        ("alice HELLO THERE\nbob GOOD DAY\n", "none"),
        ("common_voice_en_1 we go\ncommon_voice_en_2 they go\n", "none"),
        ("call-a hello\ncall-b hello\n", "none"),
    ],
)
def test_findings(content: str, finding: str) -> None:
    lines = [line.partition(" ") for line in content.splitlines()]
    assert lines_without_ids([line[0] for line in lines], [line[2] for line in lines]) == finding


def test_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ref.txt"
    path.write_text("THE CAT\nTHE DOG\n")
    with pytest.raises(
        UserError, match=r"ref\.txt: lines start with words \('THE', 'THE'\), not with ids.*nl -ba"
    ):
        read_transcripts(path)
    path.write_text("THE CAT\n")
    assert read_transcripts(path) == {"THE": "CAT"}
    assert "lines seem to start with words ('THE'), not with ids" in capsys.readouterr().err
    path.write_text("1 THE CAT\n2 THE DOG\n")
    assert read_transcripts(path) == {"1": "THE CAT", "2": "THE DOG"}
    assert capsys.readouterr().err == ""

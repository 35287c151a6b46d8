"""Tables of utterances: CSV as from spreadsheets, TSV as in corpora, and malformed tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.corpora import faults, noise, read, rows

from asr_emapl.data.utterance import Utterance
from data_prep.folder import prepare


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """A folder with two recordings."""
    noise(tmp_path / "talks" / "b.wav", 0.5)
    noise(tmp_path / "talks" / "ann" / "a.flac", 0.5)
    return tmp_path / "talks"


def test_a_table(talks: Path, tmp_path: Path) -> None:
    table = rows(
        talks / "t.tsv", "text\tpath\tspeaker\tid", 'say "no\tb.wav\tann\tx', f"go\t{talks}/ann/a.flac\t\t"
    )
    one, two = read(prepare(talks, tmp_path / "out", table=table, text="common-voice"))
    assert one == Utterance("x", str(talks / "b.wav"), 0.5, "SAY NO", "ann")
    assert (two.id, two.text, two.speaker) == (f"{talks}/ann/a", "GO", None)


def test_a_spreadsheets_csv(talks: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(
        b'\xef\xbb\xbfpath,text\r\n\r\ntalks/b.wav,"Go, ""on""\r\nnow"\r\ntalks/ann/a.flac,stop\r\n'
    )
    utterances = read(prepare(talks, tmp_path / "out", table=table, text="common-voice"))
    assert [u.text for u in utterances] == ["GO ON NOW", "STOP"]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("t.tsv", "path text\nb.wav go\n", ": missing column path, text, found ['path text']"),
        ("t.tsv", "path,text\nb.wav,go\n", "columns, separated by tabs"),
        ("t.csv", "path\ttext\nb.wav\tgo\n", "columns, separated by commas"),
        ("t.tsv", "path\tsentence\nb.wav\tgo\n", ": missing column text, found ['path', 'sentence']"),
        ("t.tsv", "path\ttext\n\nb.wav go\n", ":3: expected 2 cells, got 1"),
        ("t.csv", 'path,text\nb.wav,"go\n', ":2: "),
        ("t.tsv", "", ": missing column path, text, found []"),
        ("t.tsv", "path\ttext\n", ": has no audio"),
        ("t.tsv", "path\ttext\nb.wav\tcaf\xe9\n", ": not UTF-8"),
        ("t.tsv", None, ": cannot be read (No such file"),
    ],
)
def test_a_malformed_table_is_named_by_line(
    talks: Path, tmp_path: Path, name: str, content: str | None, fault: str
) -> None:
    table = talks / name
    if content is not None:
        table.write_bytes(content.encode("latin-1"))
    (line,) = faults(talks, tmp_path / "out", table=table)
    assert line.startswith(f"{table}:")
    assert fault in line
    assert line.endswith(")") or "; " in line, "the remedy is missing"


def test_rows_without_a_path(talks: Path, tmp_path: Path) -> None:
    table = rows(talks / "t.tsv", "path\ttext", "\tgo", "/\tgo")
    _, *found = faults(talks, tmp_path / "out", table=table)
    assert [line.partition(": ")[0] for line in found] == [f"{table}:2", f"{table}:3"]
    assert all("is a folder" in line for line in found)


def test_rows_without_audio_or_text_and_rows_there_twice(talks: Path, tmp_path: Path) -> None:
    table = rows(talks / "t.tsv", "path\ttext", "x.wav\tgo", "b.wav\t", "ann/a.flac\tgo", "ann/a.flac\tgo")
    _, *found = faults(talks, tmp_path / "out", table=table)
    for number, fault in (
        (2, "x.wav: no such audio file"),
        (3, "empty transcript"),
        (5, f"also used by {table}:4"),
    ):
        assert sum(line.startswith(f"{table}:{number}: ") and fault in line for line in found) == 1
    assert len(found) == 3

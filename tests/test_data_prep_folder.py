"""A folder of audio with text files, a table, Kaldi's files or no transcripts; and its faults."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.corpora import cut, faults, noise, read

from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from data_prep import folder
from data_prep.folder import prepare


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """A folder with three recordings in two formats, a text beside each."""
    source = tmp_path / "talks"
    for name, text in (("b.wav", "go on\n"), ("ann/a.flac", "DON'T\nGO"), ("ann/c.d.MP3", "see")):
        path = noise(source / name, 0.5)
        path.with_suffix(".txt").write_text(text)
    return source


def test_texts_beside_the_audio(talks: Path, tmp_path: Path) -> None:
    prepared = prepare(talks, tmp_path / "out")
    assert prepared.manifests == {"talks": tmp_path / "out" / "talks.jsonl"}
    assert prepared.notes == [
        "talks: 2 of 3 transcripts changed: 2 capitalised (capitals, straight apostrophes, single spaces)"
    ]
    assert [(u.id, u.text) for u in read(prepared)] == [
        ("ann/a", "DON'T GO"),
        ("ann/c.d", "SEE"),
        ("b", "GO ON"),
    ]
    assert read(prepared)[2] == Utterance("b", str(talks / "b.wav"), 0.5, "GO ON")


def test_without_any_text_the_manifest_is_unlabelled(talks: Path, tmp_path: Path) -> None:
    for path in talks.rglob("*.txt"):
        path.unlink()
    assert [u.text for u in read(prepare(talks, tmp_path / "out", name="mine"))] == [None] * 3
    assert (tmp_path / "out" / "mine.jsonl").exists()


def test_byte_order_mark_windows_line_ends_tabs_and_hidden_files(talks: Path, tmp_path: Path) -> None:
    (talks / "b.txt").write_bytes(b"\xef\xbb\xbfgo\ton\r\n\r\nnow\r\n")
    (talks / "._b.wav").write_bytes(b"left by a file manager")
    noise(talks / ".cache" / "x.wav")
    assert [u.text for u in read(prepare(talks, tmp_path / "out"))] == ["DON'T GO", "SEE", "GO ON NOW"]


def test_one_report_of_all_faults(talks: Path, tmp_path: Path) -> None:
    noise(talks / "alone.wav")
    cut(noise(talks / "cut.wav")).with_suffix(".txt").write_text("cut")
    (talks / "empty.flac").write_bytes(b"")
    (talks / "empty.txt").write_text("empty")
    noise(talks / "no-samples.wav", 0).with_suffix(".txt").write_text("none")
    noise(talks / "blank.wav").with_suffix(".txt").write_text("")
    noise(talks / "latin.wav").with_suffix(".txt").write_bytes(b"caf\xe9")
    noise(talks / "digits.wav").with_suffix(".txt").write_text("room 7, please")
    noise(talks / "b.flac")  # beside b.wav: both are called b
    expected = {
        "alone.wav": "has no text file, while other files do",
        "cut.wav": "is shorter than its header states",
        "empty.flac": "0 bytes",
        "no-samples.wav": "has no samples",
        "blank.wav": "empty transcript",
        "latin.wav": "not UTF-8",
        "digits.wav": "invalid characters ',', '7' in 'ROOM 7, PLEASE'",
        "b.wav": f"id 'b' is also used by {talks / 'b.flac'}",
    }
    head, *found = faults(talks, tmp_path / "out")
    assert "8 faults " in head
    assert "--leave-out" in head
    assert len(found) == len(expected)
    for name, fault in expected.items():
        (line,) = [line for line in found if line.startswith(f"{talks / name}: ")]
        assert fault in line
        assert line.endswith(")"), "the remedy is missing"

    # With --leave-out, valid files are kept, and the others are counted and named.
    prepared = prepare(talks, tmp_path / "out", leave_out=True)
    assert [u.id for u in read(prepared)] == ["ann/a", "ann/c.d", "b"]
    assert "8 skipped" in prepared.notes[0]
    assert "alone.wav" in prepared.notes[0]
    assert "2 of 3 transcripts changed: 2 capitalised" in "\n".join(prepared.notes)


def test_another_preset_spells_otherwise(talks: Path, tmp_path: Path) -> None:
    (talks / "b.txt").write_text("\u201cGo on,\u201d he said \u2013 caf\u00e9!")
    assert "invalid characters" in faults(talks, tmp_path / "out", text="librispeech")[1]
    assert read(prepare(talks, tmp_path / "out", text="common-voice"))[2].text == "GO ON HE SAID CAFE"
    assert read(prepare(talks, tmp_path / "out", text="words"))[2].text == "GO ON HE SAID CAF\u00c9"
    with pytest.raises(UserError, match=r"--text 'x' .*auto, librispeech, common-voice"):
        prepare(talks, tmp_path / "other", text="x")


def test_what_is_skipped_does_not_choose_the_normalisation(talks: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (talks / f"{name}.txt").write_text("caf\u00e9")
        (talks / f"{name}.wav").write_bytes(b"not audio")
    noise(talks / "year.wav").with_suffix(".txt").write_text("caf\u00e9 1923")
    prepared = prepare(talks, tmp_path / "out", leave_out=True)
    assert any(note.endswith("(capitals, straight apostrophes, single spaces)") for note in prepared.notes)
    assert "talks: 1 transcript with invalid characters: " in "\n".join(prepared.notes)
    assert len(read(prepared)) == 3


@pytest.mark.parametrize(("text", "spelled"), [("go on", "GO ON CAFE"), ("\u00e9t\u00e9", "GO ON CAF\u00c9")])
def test_another_manifest_can_choose_the_normalisation(
    talks: Path, tmp_path: Path, text: str, spelled: str
) -> None:
    noise(tmp_path / "first" / "a.wav").with_suffix(".txt").write_text(text)
    first = prepare(tmp_path / "first", tmp_path / "out").manifests["first"]
    (talks / "b.txt").write_text("go on, caf\u00e9")
    assert read(prepare(talks, tmp_path / "out", like=first))[2].text == spelled


def test_other_rates_and_channels_are_allowed_and_said_once(talks: Path, tmp_path: Path) -> None:
    noise(talks / "b.wav", 0.5, rate=44100, channels=2)
    noise(talks / "ann" / "a.flac", 0.5, rate=8000)
    prepared = prepare(talks, tmp_path / "out")
    assert [u.duration for u in read(prepared)][2] == 0.5
    assert prepared.notes[:2] == [
        "talks: 2 of 3 files are resampled on reading: 1 of 8000 Hz, 1 of 44100 Hz",
        "talks: 1 of 3 files have several channels, which are averaged on reading",
    ]


def test_skipped_files_are_in_the_notes(talks: Path, tmp_path: Path) -> None:
    (talks / "README.txt").write_text("read me")
    (talks / "x.m4a").write_bytes(b"")
    unreadable, orphans = prepare(talks, tmp_path / "out").notes[1:]
    assert "1 .m4a" in unreadable
    assert "1 text files" in orphans
    assert str(talks / "README.txt") in orphans


def test_links_are_followed_and_loops_are_not(talks: Path, tmp_path: Path) -> None:
    noise(tmp_path / "elsewhere" / "z.wav").with_suffix(".txt").write_text("Z")
    (talks / "link").symlink_to(tmp_path / "elsewhere")
    (talks / "ann" / "loop").symlink_to(talks)
    assert [u.id for u in read(prepare(talks, tmp_path / "out"))] == ["ann/a", "ann/c.d", "b", "link/z"]


def test_an_unreadable_folder_is_named(talks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A mock, because root ignores permissions.
    real = os.scandir

    def scandir(path: Any) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "ann":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert faults(talks, tmp_path / "out") == [
        f"{talks / 'ann'}: cannot be read: Permission denied (check permissions)"
    ]


def test_folders_without_audio(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    assert "has no audio" in faults(tmp_path / "bare", tmp_path / "out")[0]
    assert "no such file or folder" in faults(tmp_path / "absent", tmp_path / "out")[0]
    with pytest.raises(UserError, match="cannot be downloaded"):
        folder.download()


def test_a_full_disk_leaves_the_old_manifest(
    talks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = prepare(talks, tmp_path / "out").manifests.values()
    before = path.read_bytes()
    (talks / "b.txt").write_text("changed")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        prepare(talks, tmp_path / "out")
    assert path.read_bytes() == before
    assert list((tmp_path / "out").iterdir()) == [path]


def test_unwanted_transcripts_have_no_faults(talks: Path, tmp_path: Path) -> None:
    noise(talks / "alone.wav", 0.5)
    (talks / "b.txt").write_bytes(b"caf\xe9")
    found = read(prepare(talks, tmp_path / "out", text="none"))
    assert [(u.id, u.text) for u in found] == [(id_, None) for id_ in ("alone", "ann/a", "ann/c.d", "b")]


def test_folders_can_be_named_after_speakers(talks: Path, tmp_path: Path) -> None:
    found = read(prepare(talks, tmp_path / "out", speaker_folders=True))
    assert [u.speaker for u in found] == ["ann", "ann", "talks"]


def test_auto_needs_no_clean_texts_and_says_what_it_changed(talks: Path, tmp_path: Path) -> None:
    (talks / "b.txt").write_text("\u201cGo on,\u201d he said \u2013 now.")
    prepared = prepare(talks, tmp_path / "out")
    assert read(prepared)[2].text == "GO ON HE SAID NOW"
    (note,) = prepared.notes
    assert "3 of 3 transcripts changed" not in note
    assert "2 of 3 transcripts changed: 2 capitalised" in note
    assert "',' in 1" in note


def test_a_folder_with_one_table_needs_no_option(talks: Path, tmp_path: Path) -> None:
    for path in talks.rglob("*.txt"):
        path.unlink()
    (talks / "README.txt").write_text("read me")
    (talks / "metadata.tsv").write_text(
        "path\tspeaker\ttext\nb.wav\tbob\tgo on\nann/a.flac\tann\tDon't go.\n"
    )
    prepared = prepare(talks, tmp_path / "out")
    assert [(u.id, u.speaker, u.text) for u in read(prepared)] == [
        ("b", "bob", "GO ON"),
        ("ann/a", "ann", "DON'T GO"),
    ]
    assert f"transcripts are from {talks / 'metadata.tsv'}" in prepared.notes[-1]
    by_file = prepare(talks / "metadata.tsv", tmp_path / "out")
    assert read(by_file) == read(prepared)
    (talks / "other.csv").write_text("path,text\n")
    with pytest.raises(UserError, match=r"talks: has 2 tables, such as metadata.tsv .*--table"):
        prepare(talks, tmp_path / "out")


def test_manifests_of_other_toolkits_are_normalised_too(talks: Path, tmp_path: Path) -> None:
    line = {"audio_filepath": str(talks / "b.wav"), "duration": 0.5, "text": "Go on, please."}
    nemo = tmp_path / "nemo.json"
    nemo.write_text(json.dumps(line) + "\n")
    prepared = prepare(nemo, tmp_path / "out")
    assert prepared.manifests == {"nemo": tmp_path / "out" / "nemo.jsonl"}
    assert [(u.text, u.duration) for u in read(prepared)] == [("GO ON PLEASE", 0.5)]
    nemo.write_text(json.dumps(line | {"duration": 5.0}) + "\n")
    assert "0.50 s long" in faults(nemo, tmp_path / "wrong")[1]

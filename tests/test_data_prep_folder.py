"""A folder of audio: with text files, a table, Kaldi's files or nothing; and all that can be wrong in it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from speech import cut, noise

from asr_emapl.data.manifest import Utterance, read_manifest
from asr_emapl.errors import UserError
from data_prep import folder
from data_prep.folder import prepare


def read(prepared: Any) -> list[Utterance]:
    (path,) = prepared.manifests.values()
    return read_manifest(path)


def faults(source: Path, out: Path, **options: Any) -> list[str]:
    """The report on a bad folder, for which nothing may have been written."""
    with pytest.raises(UserError) as error:
        prepare(source, out, **options)
    assert not out.exists(), "something was written"
    return str(error.value).split("\n")


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
    assert prepared.notes == []
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


def test_one_report_of_all_that_is_wrong(talks: Path, tmp_path: Path) -> None:
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
        "alone.wav": "has no text file beside it",
        "cut.wav": "breaks off before its header says",
        "empty.flac": "not decodable",
        "no-samples.wav": "holds no samples",
        "blank.wav": "an empty transcript",
        "latin.wav": "not UTF-8 at byte 3",
        "digits.wav": "its text holds ',7'",
        "b.wav": f"id 'b' is that of {talks / 'b.flac'} too",
    }
    head, *found = faults(talks, tmp_path / "out")
    assert "8 faults (mend them, or --leave-out" in head
    assert len(found) == len(expected)
    for name, fault in expected.items():
        (line,) = [line for line in found if line.startswith(f"{talks / name}: ")]
        assert fault in line
        assert line.endswith(")"), "the remedy is missing"

    # The same folder, with leave: what is good is kept, what is not is counted and named.
    prepared = prepare(talks, tmp_path / "out", leave_out=True)
    assert [u.id for u in read(prepared)] == ["ann/a", "ann/c.d", "b"]
    assert "left out 8" in prepared.notes[0]
    assert "alone.wav" in prepared.notes[0]


def test_another_preset_spells_otherwise(talks: Path, tmp_path: Path) -> None:
    (talks / "b.txt").write_text("\u201cGo on,\u201d he said \u2013 caf\u00e9!")
    assert "its text holds" in faults(talks, tmp_path / "out")[1]
    assert read(prepare(talks, tmp_path / "out", text="common-voice"))[2].text == "GO ON HE SAID CAFE"
    assert read(prepare(talks, tmp_path / "out", text="words"))[2].text == "GO ON HE SAID CAF\u00c9"
    with pytest.raises(UserError, match=r"no normalisation is called 'x' .*librispeech, common-voice"):
        prepare(talks, tmp_path / "other", text="x")


def test_other_rates_and_channels_are_allowed_and_said_once(talks: Path, tmp_path: Path) -> None:
    noise(talks / "b.wav", 0.5, rate=44100, channels=2)
    noise(talks / "ann" / "a.flac", 0.5, rate=8000)
    prepared = prepare(talks, tmp_path / "out")
    assert [u.duration for u in read(prepared)][2] == 0.5
    assert prepared.notes == [
        "talks: 2 of 3 files are resampled when they are read: 1 of 8000 Hz, 1 of 44100 Hz",
        "talks: 1 of 3 files have several channels, averaged when they are read",
    ]


def test_what_is_passed_over_is_said(talks: Path, tmp_path: Path) -> None:
    (talks / "README.txt").write_text("read me")
    (talks / "x.m4a").write_bytes(b"")
    assert prepare(talks, tmp_path / "out").notes == [
        "talks: passed over, for they cannot be decoded: 1 .m4a (convert them to FLAC)",
        f"talks: 1 text files without audio of their name, passed over: {talks / 'README.txt'} ...",
    ]


def test_links_are_followed_and_loops_are_not(talks: Path, tmp_path: Path) -> None:
    noise(tmp_path / "elsewhere" / "z.wav").with_suffix(".txt").write_text("Z")
    (talks / "link").symlink_to(tmp_path / "elsewhere")
    (talks / "ann" / "loop").symlink_to(talks)
    assert [u.id for u in read(prepare(talks, tmp_path / "out"))] == ["ann/a", "ann/c.d", "b", "link/z"]


def test_an_unreadable_folder_is_named(talks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # By a mock: permissions do not hold root back.
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
    assert "names no audio" in faults(tmp_path / "bare", tmp_path / "out")[0]
    assert "no such folder" in faults(tmp_path / "absent", tmp_path / "out")[0]
    with pytest.raises(UserError, match="nothing to download"):
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


# Tables.


def tsv(path: Path, *rows: str) -> Path:
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def test_a_table(talks: Path, tmp_path: Path) -> None:
    table = tsv(
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
        ("t.tsv", "path text\nb.wav go\n", ": no column path, text among ['path text']"),
        ("t.tsv", "path,text\nb.wav,go\n", "part the columns by tabs"),
        ("t.csv", "path\ttext\nb.wav\tgo\n", "part the columns by commas"),
        ("t.tsv", "path\tsentence\nb.wav\tgo\n", ": no column text among ['path', 'sentence']"),
        ("t.tsv", "path\ttext\n\nb.wav go\n", ":3: 1 cells for 2 columns"),
        ("t.csv", 'path,text\nb.wav,"go\n', ":2: "),
        ("t.tsv", "", ": no column path, text among []"),
        ("t.tsv", "path\ttext\n", ": names no audio"),
        ("t.tsv", "path\ttext\nb.wav\tcaf\xe9\n", ": not UTF-8"),
        ("t.tsv", None, ": no such file"),
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
    assert line.endswith(")"), "the remedy is missing"


def test_rows_without_audio_or_text_and_rows_there_twice(talks: Path, tmp_path: Path) -> None:
    table = tsv(talks / "t.tsv", "path\ttext", "x.wav\tgo", "b.wav\t", "ann/a.flac\tgo", "ann/a.flac\tgo")
    _, *found = faults(talks, tmp_path / "out", table=table)
    for number, fault in (
        (2, "x.wav: no such audio file"),
        (3, "an empty transcript"),
        (5, f"{table}:4 too"),
    ):
        assert sum(line.startswith(f"{table}:{number}: ") and fault in line for line in found) == 1
    assert len(found) == 3


# Kaldi's data directories.


@pytest.fixture
def kaldi(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    noise(tmp_path / "r1.wav", 3.0)
    noise(tmp_path / "r2.flac", 1.0)
    tsv(data.mkdir() or data / "wav.scp", f"r1 {tmp_path}/r1.wav", f"r2\t{tmp_path}/r2.flac ")
    tsv(data / "segments", "u1 r1 0.5 1.25", "u2 r1  1.5 -1", "u3\tr2 0 1.0")
    tsv(data / "text", "u1 go on", "u2\tdon't", "u3 stop")
    tsv(data / "utt2spk", "u1 ann", "u2 ann", "u3 bob")
    return data


def test_a_kaldi_directory(kaldi: Path, tmp_path: Path) -> None:
    r1, r2 = str(tmp_path / "r1.wav"), str(tmp_path / "r2.flac")
    assert read(prepare(kaldi, tmp_path / "out")) == [
        Utterance("u1", r1, 0.75, "GO ON", "ann", 0.5),
        Utterance("u2", r1, 1.5, "DON'T", "ann", 1.5),
        Utterance("u3", r2, 1.0, "STOP", "bob"),
    ]


def test_a_kaldi_directory_of_recordings_alone(
    kaldi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("segments", "text", "utt2spk"):
        (kaldi / name).unlink()
    monkeypatch.chdir(tmp_path)
    tsv(kaldi / "wav.scp", "r1 r1.wav")
    assert read(prepare(kaldi, tmp_path / "out")) == [Utterance("r1", str(tmp_path / "r1.wav"), 3.0)]


def test_commands_in_wav_scp_are_named_and_never_run(kaldi: Path, tmp_path: Path) -> None:
    with (kaldi / "wav.scp").open("a") as file:
        file.write(f"r3 touch {tmp_path}/ran && cat {tmp_path}/r1.wav |\nr4 | touch {tmp_path}/ran\n")
    found = faults(kaldi, tmp_path / "out", leave_out=True)
    assert [line.split(": ")[:2] for line in found] == [
        [f"{kaldi}/wav.scp:3", f"a command, 'touch {tmp_path}/ran && cat {tmp_path}/r1.wav |'"],
        [f"{kaldi}/wav.scp:4", f"a command, '| touch {tmp_path}/ran'"],
    ]
    assert not (tmp_path / "ran").exists()


def append(name: str, line: str) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        with (data / name).open("a") as file:
            file.write(f"{line}\n")

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (append("segments", "u1 r1 2 3"), "segments:4: u1 stands at"),
        (append("segments", "u4 r1 2"), "segments:4: 'r1 2' is no recording, start and end"),
        (append("segments", "u4 r9 2 3"), "segments:4: recording r9 is not in wav.scp"),
        (append("segments", "u4 r1 0 1"), "segments:4: u4 has no line in text"),
        (append("text", "u4 hello"), "text:4: u4 has no audio"),
        (append("text", "u1 hello"), "text:4: u1 stands at"),
        (append("wav.scp", "r3"), "wav.scp:3: r3 and nothing else"),
        (lambda data: append("wav.scp", f"r3 {data}/wav.scp:17")(data), "wav.scp:3: a place in an archive"),
        (lambda data: (data / "text").write_bytes(b"u1 \xff"), "text: not UTF-8"),
    ],
)
def test_what_does_not_go_together_is_named(
    kaldi: Path, tmp_path: Path, change: Callable[[Path], None], fault: str
) -> None:
    change(kaldi)
    found = faults(kaldi, tmp_path / "out")
    assert sum(fault in line for line in found) == 1, found
    assert all(line.startswith(str(kaldi)) and line.endswith(")") for line in found)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda data: tsv(data / "segments", "u1 r1 0 1", "u2 r1 2 3.5", "u3 r2 0 1"), "goes to 3.50 s in"),
        (lambda data: tsv(data / "segments", "u1 r1 0 1", "u2 r1 2 2", "u3 r2 0 1"), "goes from 2 to 2 s"),
        (
            lambda data: tsv(data / "segments", "u1 r1 0 1", "u2 r1 3 3.04", "u3 r2 0 1"),
            "goes from 3 to 3.04",
        ),
        (lambda data: tsv(data / "segments", "u1 r1 0 1", "u2 r1 nan 2", "u3 r2 0 1"), "goes from nan to"),
        (lambda data: tsv(data / "text", "u1 go", "u2", "u3 stop"), "an empty transcript"),
    ],
)
def test_utterances_with_faults_can_be_left_out(
    kaldi: Path, tmp_path: Path, change: Callable[[Path], Any], fault: str
) -> None:
    change(kaldi)
    _, line = faults(kaldi, tmp_path / "out")
    assert fault in line
    assert [u.id for u in read(prepare(kaldi, tmp_path / "out", leave_out=True))] == ["u1", "u3"]

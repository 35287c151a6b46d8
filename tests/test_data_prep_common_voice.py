"""Common Voice: tables and clips, and the known faults of the corpus."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support.corpora import cut, noise

from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from data_prep import common_voice
from data_prep.common_voice import prepare

HEAD = "client_id\tpath\tsentence_id\tsentence\tup_votes\tlocale"


def split(corpus: Path, name: str, *rows: tuple[str, str]) -> None:
    """A table with a row for each (clip, sentence)."""
    lines = [HEAD, *(f"speaker{i}\t{clip}\tx\t{text}\t2\ten" for i, (clip, text) in enumerate(rows))]
    (corpus / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """One language: three splits, four clips of 1 s at 48 kHz."""
    language = tmp_path / "cv-corpus" / "en"
    for number in range(4):
        noise(language / "clips" / f"cv_en_{number}.mp3", 1.0, rate=48000)
    split(
        language,
        "train",
        ("cv_en_0.mp3", '"Don\u2019t stop, she said.'),
        ("cv_en_1.mp3", "Well-known caf\u00e9s"),
    )
    split(language, "dev", ("cv_en_2.mp3", "Go."))
    split(language, "test", ("cv_en_3.mp3", "Stop!"))
    return language


def test_manifests_of_a_good_corpus(corpus: Path, tmp_path: Path) -> None:
    prepared = prepare(corpus, tmp_path / "out")
    assert prepared.manifests == {
        name: tmp_path / "out" / f"{name}.jsonl" for name in ("train", "dev", "test")
    }
    one, two = read_manifest(prepared.manifests["train"])
    # A stray quotation mark swallows neither the rest of its line nor the next line.
    assert (one.id, one.text, one.speaker) == ("cv_en_0", "DON'T STOP SHE SAID", "speaker0")
    assert two.text == "WELL KNOWN CAFES"
    assert one.audio == str(corpus / "clips" / "cv_en_0.mp3")
    assert one.duration == pytest.approx(1.0, abs=0.1)
    assert prepared.notes[0] == "train: 2 of 2 files are resampled on reading: 2 of 48000 Hz"


def test_windows_line_ends_and_byte_order_mark(corpus: Path, tmp_path: Path) -> None:
    path = corpus / "dev.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    (utterance,) = read_manifest(prepare(corpus, tmp_path / "out", ["dev"]).manifests["dev"])
    assert (utterance.id, utterance.text) == ("cv_en_2", "GO")


def test_faults_are_reported_or_left_out_and_counted(corpus: Path, tmp_path: Path) -> None:
    cut(noise(corpus / "clips" / "cut.mp3", 3.0))
    (corpus / "clips" / "empty.mp3").write_bytes(b"")
    split(
        corpus, "train", ("cv_en_0.mp3", "Good"), ("absent.mp3", "Gone"), ("empty.mp3", "Nothing"),
        ("cut.mp3", "Half"), ("cv_en_1.mp3", ""), ("cv_en_2.mp3", "In 1984"), ("cv_en_0.mp3", "Good"),
    )  # fmt: skip
    with pytest.raises(UserError) as error:
        prepare(corpus, tmp_path / "out", ["dev", "train"])
    head, *found = str(error.value).split("\n")
    assert head.startswith("train: 6 faults ")
    assert "--leave-out" in head
    expected = {
        3: "absent.mp3: no such audio file",
        4: "empty.mp3: 0 bytes",
        5: "cut.mp3: is shorter",
        6: "empty transcript",
        7: "invalid characters '1', '4', '8', '9' in",
        8: f"id 'cv_en_0' is also used by {corpus / 'train.tsv'}:2",
    }
    for line, (number, fault) in zip(found, expected.items(), strict=True):
        assert line.startswith(f"{corpus / 'train.tsv'}:{number}: ")
        assert fault in line
        assert line.endswith(")"), "the remedy is missing"
    assert not (tmp_path / "out").exists()

    prepared = prepare(corpus, tmp_path / "out", ["dev", "train"], leave_out=True)
    assert [u.id for u in read_manifest(prepared.manifests["train"])] == ["cv_en_0"]
    (note,) = [note for note in prepared.notes if "skipped" in note]
    assert note.startswith("train: 6 skipped:\n")
    assert "absent.mp3" in note


def test_other_languages_have_a_preset(corpus: Path, tmp_path: Path) -> None:
    split(corpus, "dev", ("cv_en_2.mp3", "\u00bfQu\u00e9 tal, ni\u00f1o?"))
    (utterance,) = read_manifest(prepare(corpus, tmp_path / "out", ["dev"], text="words").manifests["dev"])
    assert utterance == Utterance(
        "cv_en_2",
        str(corpus / "clips" / "cv_en_2.mp3"),
        utterance.duration,
        "QU\u00c9 TAL NI\u00d1O",
        "speaker0",
    )


def test_what_is_not_there_is_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"validated\.tsv: no such split \(choose from: dev, test, train\)"):
        prepare(corpus, tmp_path / "out", ["dev", "validated"])
    with pytest.raises(UserError, match="contains no clips/"):
        prepare(corpus.parent, tmp_path / "out")
    (corpus / "dev.tsv").write_text(HEAD.replace("\t", "  ") + "\n")
    with pytest.raises(UserError, match=r"missing column path, sentence, found .*separated by tabs"):
        prepare(corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"cannot be downloaded automatically: get .*datacollective"):
        common_voice.download()


def test_a_full_disk_leaves_no_manifest(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        prepare(corpus, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []

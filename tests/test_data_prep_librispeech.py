"""LibriSpeech's layout: manifests of a good corpus, one report of a bad one, no download half done."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_emapl.data.manifest import read_manifest, verify
from asr_emapl.errors import UserError
from asr_emapl.text.normalise import ALPHABET
from data_prep import librispeech
from data_prep.librispeech import download, prepare

CORPUS = os.environ.get("ASR_EMAPL_LIBRISPEECH")


def flac(path: Path, seconds: float = 0.1, rate: int = 16000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros((round(seconds * rate), channels)), rate)
    return path


def chapter(root: Path, part: str, speaker: str, name: str, texts: list[str]) -> Path:
    """One chapter with an utterance for each text; returns its folder."""
    folder = root / part / speaker / name
    ids = [f"{speaker}-{name}-{number:04d}" for number in range(len(texts))]
    for number, id_ in enumerate(ids):
        flac(folder / f"{id_}.flac", 0.1 * (number + 1))
    transcripts = folder / f"{speaker}-{name}.trans.txt"
    transcripts.write_text("".join(f"{id_} {text}\n" for id_, text in zip(ids, texts, strict=True)))
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with LibriSpeech/, two parts, three chapters, five utterances; no fault in it."""
    root = tmp_path / "corpus" / "LibriSpeech"
    chapter(root, "dev-clean", "84", "2", ["GO ON", "DON'T"])
    chapter(root, "dev-clean", "7", "11", ["SEVEN"])
    chapter(root, "train-labelled", "9", "1", ["NINE", "nine \u2018twas"])
    (root / "SPEAKERS.TXT").write_text("not a part")
    (root / ".cache").mkdir()
    return root.parent


def report_of(source: Path, destination: Path, parts: list[str] | None = None) -> list[str]:
    """The findings about a bad corpus, for which nothing may have been written."""
    with pytest.raises(UserError) as error:
        prepare(source, destination, parts)
    assert not list(destination.glob("**/*")), "something was written"
    return str(error.value).split("\n")


def test_manifests_of_a_good_corpus(corpus: Path, tmp_path: Path) -> None:
    manifests = prepare(corpus, tmp_path / "out")
    assert manifests == {part: tmp_path / "out" / f"{part}.jsonl" for part in ("dev-clean", "train-labelled")}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dev-clean.jsonl",
        "train-labelled.jsonl",
    ]
    dev = read_manifest(manifests["dev-clean"], require_text=True)
    assert [utterance.id for utterance in dev] == ["7-11-0000", "84-2-0000", "84-2-0001"]
    assert [utterance.text for utterance in dev] == ["SEVEN", "GO ON", "DON'T"]
    assert [utterance.speaker for utterance in dev] == ["7", "84", "84"]
    assert [utterance.samples for utterance in dev] == [1600, 1600, 3200]
    labelled = read_manifest(manifests["train-labelled"])
    assert labelled[1].text == "NINE 'TWAS"
    assert verify(dev + labelled, ALPHABET) == []


def test_source_may_be_the_folder_above_or_the_one_with_the_parts(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus)
    one = prepare(corpus, tmp_path / "one")["dev-clean"]
    two = prepare(Path("LibriSpeech"), tmp_path / "two", ["dev-clean"], workers=1)["dev-clean"]
    assert one.read_bytes() == two.read_bytes()
    assert not (tmp_path / "two" / "train-labelled.jsonl").exists()


def test_manifests_beside_the_parts_are_not_a_part_the_next_time(corpus: Path) -> None:
    beside = corpus / "LibriSpeech" / "manifests"
    assert prepare(corpus, beside) == prepare(corpus, beside)


def test_a_part_is_never_dropped_for_being_the_destination(corpus: Path) -> None:
    assert set(prepare(corpus, corpus / "LibriSpeech" / "dev-clean")) == {"dev-clean", "train-labelled"}


def test_windows_line_ends_byte_order_mark_and_hidden_files(corpus: Path, tmp_path: Path) -> None:
    folder = corpus / "LibriSpeech" / "dev-clean" / "84" / "2"
    path = folder / "84-2.trans.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    (folder / "._84-2-0000.flac").write_bytes(b"left by a file manager")
    dev = read_manifest(prepare(corpus, tmp_path / "out")["dev-clean"])
    assert [utterance.text for utterance in dev] == ["SEVEN", "GO ON", "DON'T"]


def test_one_report_of_all_that_is_wrong(corpus: Path, tmp_path: Path) -> None:
    root = corpus / "LibriSpeech"
    bad = chapter(root, "bad", "5", "3", ["A", "B", "C", "", "CAF\u00c9", "F", "G", "H"])
    (bad / "5-3-0000.flac").unlink()
    (bad / "5-3-0001.flac").write_bytes(b"no FLAC")
    flac(bad / "5-3-0002.flac", rate=8000)
    flac(bad / "5-3-0005.flac", channels=2)
    flac(bad / "5-3-0099.flac")
    flac(bad / "6-3-0000.flac")
    flac(bad / "deep" / "5-3-0100.flac")
    flac(root / "bad" / "5" / "5-3-0101.flac")
    flac(root / "bad" / "5" / "4" / "5-4-0000.flac")
    with (bad / "5-3.trans.txt").open("a") as file:
        file.write("5-3-0006 AGAIN\n")
    chapter(root, "worse", "84", "2", ["TWICE"])
    (chapter(root, "worse", "8", "8", ["X"]) / "8-8.trans.txt").write_bytes(b"8-8-0000 \xff\n")
    (root / "empty").mkdir()
    expected = [
        "5-3.trans.txt: 5-3-0000 has no audio",
        "5-3-0001.flac: not decodable",
        "5-3-0002.flac: 8000 Hz, 1 channels",
        "5-3.trans.txt:4: 5-3-0003 has an empty transcript",
        "5-3.trans.txt:5: letters outside the alphabet: '\u00c9'",
        "5-3-0005.flac: 16000 Hz, 2 channels",
        "5-3.trans.txt:9: second transcript of 5-3-0006",
        "5-3-0099.flac: has no transcript",
        "6-3-0000.flac: has no transcript",
        "6-3-0000.flac: not named 5-3-<utterance>.flac",
        "deep/5-3-0100.flac: audio outside <speaker>/<chapter>/",
        "5/5-3-0101.flac: audio outside <speaker>/<chapter>/",
        "5-4.trans.txt: absent, for 1 audio files",
        "84-2-0000.flac: its id is that of",
        "8-8.trans.txt: not UTF-8",
        "8-8-0000.flac: has no transcript",
        "empty: holds no utterances",
    ]
    found = report_of(corpus, tmp_path / "out")
    for fault in expected:
        assert sum(fault in line for line in found) == 1, fault
    assert len(found) == len(expected), "\n".join(found)
    assert all(line.startswith(str(root)) and line.endswith(")") for line in found), (
        "a place or remedy is missing"
    )


def test_faults_beyond_fifty_are_counted(corpus: Path, tmp_path: Path) -> None:
    chapter(corpus / "LibriSpeech", "many", "1", "1", [""] * 60)
    found = report_of(corpus, tmp_path / "out")
    assert len(found) == 51
    assert found[-1] == "... and 10 more"


def test_old_manifests_outlive_a_corpus_gone_bad(corpus: Path, tmp_path: Path) -> None:
    manifests = prepare(corpus, tmp_path / "out")
    before = {part: path.read_bytes() for part, path in manifests.items()}
    (corpus / "LibriSpeech" / "train-labelled" / "9" / "1" / "9-1-0001.flac").unlink()
    with pytest.raises(UserError, match="9-1-0001 has no audio"):
        prepare(corpus, tmp_path / "out")
    assert {part: path.read_bytes() for part, path in manifests.items()} == before


@pytest.mark.parametrize("part", ["test-clean", "", ".", "..", "dev-clean/84", ".cache", "SPEAKERS.TXT"])
def test_absent_parts_are_named(corpus: Path, tmp_path: Path, part: str) -> None:
    (line,) = report_of(corpus, tmp_path / "out", ["dev-clean", part])
    assert f"no part named {part!r}" in line
    assert "dev-clean, train-labelled" in line


def test_sources_without_parts(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    assert "holds no folder that could be a part" in report_of(tmp_path / "bare", tmp_path / "out")[0]
    assert "holds no folder that could be a part" in report_of(corpus, tmp_path / "out", [])[0]
    assert "absent: no such folder" in report_of(tmp_path / "absent", tmp_path / "out")[0]
    with pytest.raises(ValueError, match="workers"):
        prepare(corpus, tmp_path / "out", workers=0)


def archive(path: Path, corpus: Path, extra: tarfile.TarInfo | None = None) -> librispeech._Archive:
    """dev-clean of the corpus as an archive at `path`, and what it has to be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(corpus / "LibriSpeech" / "SPEAKERS.TXT", "LibriSpeech/SPEAKERS.TXT")
        tar.add(corpus / "LibriSpeech" / "dev-clean", "LibriSpeech/dev-clean")
        if extra is not None:
            tar.addfile(extra, io.BytesIO(bytes(extra.size)))
    return librispeech._Archive(hashlib.sha256(path.read_bytes()).hexdigest(), utterances=3)


@pytest.fixture
def server(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands in for OpenSLR, with a small dev-clean."""
    folder = tmp_path / "server"
    small = archive(folder / "dev-clean.tar.gz", corpus)
    monkeypatch.setattr(librispeech, "_URL", f"{folder.as_uri()}/")
    monkeypatch.setitem(librispeech._ARCHIVES, "dev-clean", small)
    return folder


def test_download_then_prepare(server: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    folder = there / "LibriSpeech" / "dev-clean"
    assert download(there, ["dev-clean", "dev-clean"]) == {"dev-clean": folder}
    assert (there / "LibriSpeech" / "SPEAKERS.TXT").read_text() == "not a part"
    assert sorted(path.name for path in there.iterdir()) == ["LibriSpeech", "dev-clean.tar.gz"]
    assert len(read_manifest(prepare(there, tmp_path / "out")["dev-clean"])) == 3
    # All is there: nothing is fetched again, though neither the archive nor the server is left.
    (there / "dev-clean.tar.gz").unlink()
    (server / "dev-clean.tar.gz").unlink()
    assert download(there, ["dev-clean"]) == {"dev-clean": folder}


def test_an_archive_on_disk_is_used(server: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (server / "dev-clean.tar.gz").rename(there / "dev-clean.tar.gz")
    assert download(there, ["dev-clean"])["dev-clean"].is_dir()


def test_an_incomplete_part_is_never_taken_for_done(server: Path, tmp_path: Path) -> None:
    folder = download(tmp_path / "there", ["dev-clean"])["dev-clean"]
    audio = folder / "7" / "11" / "7-11-0000.flac"
    audio.unlink()
    with pytest.raises(UserError, match=r"(?s)dev-clean: not whole \(remove.*7-11-0000 has no audio"):
        download(tmp_path / "there", ["dev-clean"])
    # A whole chapter gone leaves nothing that contradicts itself: only the count tells.
    (folder / "7" / "11" / "7-11.trans.txt").unlink()
    with pytest.raises(UserError, match="2 utterances, the official part has 3"):
        download(tmp_path / "there", ["dev-clean"])


def test_a_broken_transfer_leaves_nothing(server: Path, tmp_path: Path) -> None:
    whole = (server / "dev-clean.tar.gz").read_bytes()
    (server / "dev-clean.tar.gz").write_bytes(whole[:-100])
    with pytest.raises(UserError, match="broken in transfer"):
        download(tmp_path / "there", ["dev-clean"])
    assert list((tmp_path / "there").iterdir()) == []


def test_a_broken_archive_on_disk_is_named_not_used(server: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "dev-clean.tar.gz").write_bytes(b"half an archive")
    with pytest.raises(UserError, match=r"dev-clean\.tar\.gz: its SHA-256 is not .*delete it"):
        download(there, ["dev-clean"])
    assert not (there / "LibriSpeech").exists()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../../escaped", tarfile.REGTYPE),
        ("LibriSpeech/../../../escaped", tarfile.REGTYPE),
        ("/escaped", tarfile.REGTYPE),
        ("../escaped", tarfile.DIRTYPE),
        ("LibriSpeech/link", tarfile.SYMTYPE),
        ("LibriSpeech/link", tarfile.LNKTYPE),
        ("LibriSpeech/pipe", tarfile.FIFOTYPE),
    ],
)
def test_nothing_is_extracted_outside(
    server: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: bytes
) -> None:
    evil = tarfile.TarInfo(name)
    evil.type, evil.linkname = kind, "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    evil.size = 10 if kind == tarfile.REGTYPE else 0
    monkeypatch.setitem(
        librispeech._ARCHIVES, "dev-clean", archive(server / "dev-clean.tar.gz", corpus, evil)
    )
    with pytest.raises(UserError, match="cannot be extracted"):
        download(tmp_path / "there", ["dev-clean"])
    assert not list(tmp_path.rglob("escaped"))
    assert not Path("/escaped").exists()
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["dev-clean.tar.gz"]


def test_an_archive_without_the_part_is_refused(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (server / "dev-clean.tar.gz").rename(server / "dev-other.tar.gz")
    monkeypatch.setitem(librispeech._ARCHIVES, "dev-other", librispeech._ARCHIVES["dev-clean"])
    with pytest.raises(UserError, match="holds no LibriSpeech/dev-other"):
        download(tmp_path / "there", ["dev-other"])


def test_unknown_parts_and_absent_servers(server: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no part dev-dirty, train .*choose among: dev-clean"):
        download(tmp_path / "there", ["train", "dev-clean", "dev-dirty"])
    with pytest.raises(UserError, match="no part given"):
        download(tmp_path / "there", [])
    assert not (tmp_path / "there").exists()
    with pytest.raises(UserError, match=r"test-clean\.tar\.gz: cannot be fetched"):
        download(tmp_path / "there", ["test-clean"])


def test_hashes_are_torchaudios() -> None:
    torchaudio = pytest.importorskip("torchaudio.datasets.librispeech")
    known = {url.rsplit("/", 1)[1]: digest for url, digest in torchaudio._CHECKSUMS.items()}
    assert {f"{part}.tar.gz": archive.sha256 for part, archive in librispeech._ARCHIVES.items()} == known


@pytest.mark.skipif(CORPUS is None, reason="ASR_EMAPL_LIBRISPEECH names no folder with LibriSpeech/")
def test_the_real_corpus_is_whole(tmp_path: Path) -> None:
    manifests = prepare(Path(str(CORPUS)), tmp_path)
    for path in manifests.values():
        utterances = read_manifest(path, require_text=True)
        # Read aloud, no utterance is longer than 36 s, and nobody says over 40 letters a second.
        assert all(0 < utterance.duration < 36 for utterance in utterances)
        assert all(len(utterance.text or "") < 40 * utterance.duration for utterance in utterances)

"""LibriSpeech: manifests of a valid corpus, one report of all faults, complete downloads, language models."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.corpora import cut, noise
from support.loopback import Loopback, loopback

from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.verify import verify
from asr_emapl.errors import UserError
from asr_emapl.text.normalise import ALPHABET
from data_prep import librispeech, transfer
from data_prep.librispeech import LANGUAGE_MODELS, download, download_language_model, prepare

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
    """A folder with LibriSpeech/: two parts, three chapters, five utterances, no faults."""
    root = tmp_path / "corpus" / "LibriSpeech"
    chapter(root, "dev-clean", "84", "2", ["GO ON", "DON'T"])
    chapter(root, "dev-clean", "7", "11", ["SEVEN"])
    chapter(root, "train-labelled", "9", "1", ["NINE", "nine \u2018twas"])
    (root / "SPEAKERS.TXT").write_text("not a part")
    (root / ".cache").mkdir()
    return root.parent


def report_of(source: Path, destination: Path, parts: list[str] | None = None) -> list[str]:
    """The findings about a corpus with faults; nothing was written."""
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


def test_a_tab_may_follow_the_id(corpus: Path, tmp_path: Path) -> None:
    path = corpus / "LibriSpeech" / "dev-clean" / "84" / "2" / "84-2.trans.txt"
    path.write_text(path.read_text().replace(" ", "\t"))
    dev = read_manifest(prepare(corpus, tmp_path / "out")["dev-clean"])
    assert [utterance.text for utterance in dev] == ["SEVEN", "GO ON", "DON'T"]


def test_an_unreadable_folder_is_named(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A mock, because root ignores permissions.
    closed = corpus / "LibriSpeech" / "dev-clean" / "84"
    real = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(UserError, match=rf"{closed}: cannot be read: Permission denied"):
        prepare(corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_report_of_all_faults(corpus: Path, tmp_path: Path) -> None:
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
    cut(noise(chapter(root, "cut", "6", "1", ["LONG"]) / "6-1-0000.flac", 1.0))
    (chapter(root, "cut", "6", "2", ["A", "B"]) / "6-2.trans.txt").write_bytes(b"")
    (chapter(root, "cut", "6", "3", ["A"]) / "6-3-0000.flac").write_bytes(b"")
    (root / "empty").mkdir()
    expected = [
        "5-3.trans.txt: 5-3-0000 has no audio",
        "5-3-0001.flac: not decodable",
        "5-3-0002.flac: 8000 Hz, 1 channels",
        "5-3.trans.txt:4: 5-3-0003 has an empty transcript",
        "5-3.trans.txt:5: characters outside the alphabet: '\u00c9'",
        "5-3-0005.flac: 16000 Hz, 2 channels",
        "5-3.trans.txt:9: second transcript of 5-3-0006",
        "5-3-0099.flac: has no transcript",
        "6-3-0000.flac: has no transcript",
        "6-3-0000.flac: not named 5-3-<utterance>.flac",
        "deep/5-3-0100.flac: audio outside <speaker>/<chapter>/",
        "5/5-3-0101.flac: audio outside <speaker>/<chapter>/",
        "5-4.trans.txt: is missing, for 1 audio files",
        "84-2-0000.flac: has the same id as",
        "8-8.trans.txt:1: not UTF-8",
        "8-8-0000.flac: has no transcript",
        "6-1-0000.flac: is shorter than its header states",
        "6-2.trans.txt: is empty, for 2 audio files",
        "6-3-0000.flac: 0 bytes",
        "empty: contains no utterances",
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


def test_old_manifests_stay_if_the_corpus_has_faults(corpus: Path, tmp_path: Path) -> None:
    manifests = prepare(corpus, tmp_path / "out")
    before = {part: path.read_bytes() for part, path in manifests.items()}
    (corpus / "LibriSpeech" / "train-labelled" / "9" / "1" / "9-1-0001.flac").unlink()
    with pytest.raises(UserError, match="9-1-0001 has no audio"):
        prepare(corpus, tmp_path / "out")
    assert {part: path.read_bytes() for part, path in manifests.items()} == before


@pytest.mark.parametrize("part", ["test-clean", "", ".", "..", "dev-clean/84", ".cache", "SPEAKERS.TXT"])
def test_missing_parts_are_named(corpus: Path, tmp_path: Path, part: str) -> None:
    (line,) = report_of(corpus, tmp_path / "out", ["dev-clean", part])
    assert f"no part named {part!r}" in line
    assert "dev-clean, train-labelled" in line


def test_sources_without_parts(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    assert "contains no parts" in report_of(tmp_path / "bare", tmp_path / "out")[0]
    assert "contains no parts" in report_of(corpus, tmp_path / "out", [])[0]
    assert "absent: no such folder" in report_of(tmp_path / "absent", tmp_path / "out")[0]
    with pytest.raises(ValueError, match="workers"):
        prepare(corpus, tmp_path / "out", workers=0)


def pack(corpus: Path) -> bytes:
    """dev-clean of the corpus as an archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(corpus / "LibriSpeech" / "SPEAKERS.TXT", "LibriSpeech/SPEAKERS.TXT")
        tar.add(corpus / "LibriSpeech" / "dev-clean", "LibriSpeech/dev-clean")
    return buffer.getvalue()


@pytest.fixture
def server(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """A server in place of OpenSLR, with a small dev-clean."""
    monkeypatch.setattr(transfer, "_FIRST_PAUSE_S", 0.0)
    with loopback() as running:
        packed = running.files["/12/dev-clean.tar.gz"] = pack(corpus)
        official = librispeech._Official(12, hashlib.md5(packed).hexdigest(), 3)
        monkeypatch.setattr(librispeech, "_URL", running.url)
        monkeypatch.setitem(librispeech._OFFICIAL, "dev-clean", official)
        yield running


def test_download_then_prepare(server: Loopback, tmp_path: Path) -> None:
    server.cut_after = 1000
    there = tmp_path / "there"
    folder = there / "LibriSpeech" / "dev-clean"
    assert download(there, ["dev-clean", "dev-clean"]) == {"dev-clean": folder}
    assert len(server.requests) == len(pack(there)) // 1000 + 1, "not resumed"
    assert (there / "LibriSpeech" / "SPEAKERS.TXT").read_text() == "not a part"
    assert sorted(path.name for path in there.iterdir()) == ["LibriSpeech", "dev-clean.tar.gz"]
    assert len(read_manifest(prepare(there, tmp_path / "out")["dev-clean"])) == 3


def test_the_second_download_does_nothing(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = download(tmp_path, ["dev-clean"])["dev-clean"]
    asked = len(server.requests)
    monkeypatch.setattr(transfer, "_digest", lambda path: pytest.fail("hashed again"))
    monkeypatch.setattr(librispeech, "_findings", lambda *_, **__: pytest.fail("verified again"))
    assert download(tmp_path, ["dev-clean"]) == {"dev-clean": folder}
    assert len(server.requests) == asked


def test_an_archive_on_disk_is_used(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "dev-clean.tar.gz").write_bytes(server.files["/12/dev-clean.tar.gz"])
    assert download(tmp_path, ["dev-clean"])["dev-clean"].is_dir()
    assert server.requests == []


def lose_audio(folder: Path) -> str:
    (folder / "7" / "11" / "7-11-0000.flac").unlink()
    return "7-11-0000 has no audio"


def lose_chapter(folder: Path) -> str:
    # The rest is consistent; only the count shows the fault.
    shutil.rmtree(folder / "7" / "11")
    return "found 2 utterances, expected 3"


def cut_audio(folder: Path) -> str:
    # The header still states the original length.
    cut(noise(folder / "84" / "2" / "84-2-0001.flac", 1.0))
    return "84-2-0001.flac: is shorter"


def lose_transcripts(folder: Path) -> str:
    (folder / "84" / "2" / "84-2.trans.txt").write_bytes(b"")
    return "84-2.trans.txt: is empty, for 2 audio files"


@pytest.mark.parametrize("damage", [lose_audio, lose_chapter, cut_audio, lose_transcripts])
def test_a_damaged_part_is_named_and_restored(
    server: Loopback,
    corpus: Path,
    tmp_path: Path,
    damage: Callable[[Path], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # As from another program, without a record of sizes.
    shutil.copytree(corpus, tmp_path / "there")
    folder = tmp_path / "there" / "LibriSpeech" / "dev-clean"
    fault = damage(folder)
    assert download(tmp_path / "there", ["dev-clean"]) == {"dev-clean": folder}
    assert fault in capsys.readouterr().err
    assert len(read_manifest(prepare(tmp_path / "there", tmp_path / "out", ["dev-clean"])["dev-clean"])) == 3


def test_a_wrong_archive_is_refused(server: Loopback, tmp_path: Path) -> None:
    server.files["/12/dev-clean.tar.gz"] += b"?"
    with pytest.raises(UserError, match=r"dev-clean\.tar\.gz: wrong MD5"):
        download(tmp_path / "there", ["dev-clean"])
    assert list((tmp_path / "there").iterdir()) == []


def test_an_archive_with_too_few_utterances_is_refused(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = librispeech._OFFICIAL["dev-clean"]
    monkeypatch.setitem(librispeech._OFFICIAL, "dev-clean", replace(official, utterances=4))
    with pytest.raises(UserError, match="found 3 utterances, expected 4"):
        download(tmp_path, ["dev-clean"])
    assert not (tmp_path / "LibriSpeech").exists()


def test_unknown_parts_and_missing_servers(server: Loopback, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no part dev-dirty, train .*choose from: dev-clean"):
        download(tmp_path / "there", ["train", "dev-clean", "dev-dirty"])
    with pytest.raises(UserError, match="no part given"):
        download(tmp_path / "there", [])
    assert not (tmp_path / "there").exists()
    with pytest.raises(UserError, match=r"test-clean\.tar\.gz: download failed"):
        download(tmp_path / "there", ["test-clean"])


@pytest.fixture
def lm_server(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> Loopback:
    server.files["/11/3-gram.arpa.gz"] = server.files["/11/4-gram.arpa.gz"] = b"a language model"
    monkeypatch.setitem(LANGUAGE_MODELS, "3-gram", hashlib.sha256(b"a language model").hexdigest())
    return server


def test_a_language_model_is_downloaded_once(lm_server: Loopback, tmp_path: Path) -> None:
    path = download_language_model(tmp_path / "new", "3-gram")
    assert path == tmp_path / "new" / "3-gram.arpa.gz"
    assert path.read_bytes() == b"a language model"
    assert download_language_model(tmp_path / "new", "3-gram") == path
    assert len(lm_server.requests) == 1


def test_language_models_that_cannot_be_downloaded(lm_server: Loopback, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="wrong SHA-256"):
        download_language_model(tmp_path, "4-gram")
    assert not (tmp_path / "4-gram.arpa.gz").exists()
    with pytest.raises(UserError, match=r"'5-gram' .* 3-gram\.pruned\.1e-7, 3-gram, 4-gram"):
        download_language_model(tmp_path, "5-gram")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        download_language_model(tmp_path / "file", "3-gram")
    assert {len(checksum) for checksum in LANGUAGE_MODELS.values()} == {64}


def test_all_parts_are_known() -> None:
    torchaudio = pytest.importorskip("torchaudio.datasets.librispeech")
    known = {url.rsplit("/", 1)[1].removesuffix(".tar.gz") for url in torchaudio._CHECKSUMS}
    assert set(librispeech._OFFICIAL) == known | {"train-clean-5", "dev-clean-2"}
    assert all(len(bytes.fromhex(official.md5)) == 16 for official in librispeech._OFFICIAL.values())
    assert len({official.md5 for official in librispeech._OFFICIAL.values()}) == 9


@pytest.mark.skipif(CORPUS is None, reason="ASR_EMAPL_LIBRISPEECH names no folder with LibriSpeech/")
def test_the_real_corpus_has_no_faults(tmp_path: Path) -> None:
    manifests = prepare(Path(str(CORPUS)), tmp_path)
    for path in manifests.values():
        utterances = read_manifest(path, require_text=True)
        # No utterance is longer than 36 s or has more than 40 characters per second.
        assert all(0 < utterance.duration < 36 for utterance in utterances)
        assert all(len(utterance.text or "") < 40 * utterance.duration for utterance in utterances)

"""Libri-Light: segments within their limits; missing and malformed json is reported."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.corpora import cut, noise
from support.loopback import loopback

from asr_emapl.audio.decode import read_audio
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.verify import verify
from asr_emapl.errors import UserError
from data_prep import libri_light, transfer
from data_prep.libri_light import Span, download, prepare, segments


def book(folder: Path, seconds: float, voice_activity: object) -> Path:
    """One file of a book, and its json; returns the audio."""
    path = noise(folder, seconds)
    fields = {"speaker": "100", "book_meta": {"title": "T"}, "snr": 7.1, "voice_activity": voice_activity}
    path.with_suffix(".json").write_text(json.dumps(fields))
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    source = tmp_path / "light"
    book(source / "small" / "100" / "a_book" / "one.flac", 12.0, [[0.5, 3.0], [3.4, 5.0], [8.0, 12.0]])
    book(source / "small" / "200" / "b_book" / "two.flac", 5.0, [[1.0, 1.5], [4.0, 4.25]])
    return source


def test_segments_of_the_voice_activity(corpus: Path, tmp_path: Path) -> None:
    prepared = prepare(corpus, tmp_path / "out", max_seconds=6.0, min_seconds=0.5)
    (path,) = prepared.manifests.values()
    utterances = read_manifest(path)
    assert path == tmp_path / "out" / "small.jsonl"
    assert [(u.id, u.offset, u.duration, u.speaker, u.text) for u in utterances] == [
        ("100-a_book-one-00000", 0.5, 4.5, "100", None),
        ("100-a_book-one-00001", 8.0, 4.0, "100", None),
        ("200-b_book-two-00000", 1.0, 0.5, "200", None),
    ]
    assert verify(utterances, None) == []
    assert len(read_audio(utterances[0].audio, offset=0.5, duration=4.5)) == 72000
    assert prepared.notes == ["small: 3 segments (0.00 h) from 0.00 h of speech in 0.00 h of audio"]


def test_whole_files_need_no_json(corpus: Path, tmp_path: Path) -> None:
    for path in corpus.rglob("*.json"):
        path.unlink()
    prepared = prepare(corpus, tmp_path / "out", max_seconds=5.0, use_voice_activity=False)
    stretches = [(u.offset, u.duration) for u in read_manifest(prepared.manifests["small"])]
    assert stretches == [(0, 4), (4, 4), (8, 4), (0, 5)]


def speech() -> st.SearchStrategy[list[Span]]:
    """Sorted spans that do not overlap."""
    edges = st.lists(st.integers(0, 20000), max_size=40, unique=True).map(sorted)
    return edges.map(lambda e: [(a / 100, b / 100) for a, b in zip(e[::2], e[1::2], strict=False)])


@given(stretches=speech(), max_seconds=st.floats(0.5, 60), min_seconds=st.floats(0.01, 0.5))
def test_segments_keep_to_the_limits_and_lose_only_what_is_short(
    stretches: list[Span], max_seconds: float, min_seconds: float
) -> None:
    made = segments(stretches, max_seconds, min_seconds)
    everything = segments(stretches, max_seconds, 0.0)
    assert made == [(a, b) for a, b in everything if b - a >= min_seconds]
    assert all(b - a <= max_seconds + 1e-9 for a, b in everything)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(everything))
    # All of the speech is in some segment; silence only in pauses of up to a second.
    spoken = sum(b - a for a, b in stretches)
    pauses = [b[0] - a[1] for a, b in itertools.pairwise(stretches)]
    covered = sum(b - a for a, b in everything)
    assert spoken - 1e-6 <= covered <= spoken + sum(p for p in pauses if p <= 1.0) + 1e-6
    for start, end in stretches:
        inside = sum(max(0.0, min(b, end) - max(a, start)) for a, b in everything)
        assert inside == pytest.approx(end - start)
    # Joined as far as may be: two neighbours could not be one.
    for (a, b), (c, d) in itertools.pairwise(everything):
        assert c - b > 1.0 or d - a > max_seconds


def test_long_speech_is_cut_into_equal_pieces() -> None:
    assert segments([(0.0, 50.0)], 20.0, 1.0) == [
        (0.0, pytest.approx(50 / 3)),
        (pytest.approx(50 / 3), pytest.approx(100 / 3)),
        (pytest.approx(100 / 3), 50.0),
    ]


def test_overlapping_unsorted_and_overlong_voice_activity(corpus: Path, tmp_path: Path) -> None:
    book(
        corpus / "small" / "200" / "b_book" / "two.flac",
        5.0,
        [[3.0, 5.2], [0.0, 1.0], [0.5, 2.2], [1, 2], [5, 5.1]],
    )
    utterances = read_manifest(prepare(corpus, tmp_path / "out", max_seconds=3).manifests["small"])
    assert [(u.offset, u.duration) for u in utterances if u.speaker == "200"] == [(0.0, 2.2), (3.0, 2.0)]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "two.json: is missing (download it again, or use --no-voice"),
        ("", "two.json: not JSON"),
        ("[]", "two.json: not a JSON object"),
        ('{"snr": 1}', "two.json: voice_activity must list"),
        ('{"voice_activity": 3}', "two.json: voice_activity must list"),
        ('{"voice_activity": [[1]]}', "two.json: voice_activity must list"),
        ('{"voice_activity": [[1, "x"]]}', "two.json: voice_activity must list"),
        ('{"voice_activity": [[1, NaN]]}', "two.json: speech outside the 5.00 s of audio"),
        ('{"voice_activity": [[1, 9]]}', "two.json: speech outside the 5.00 s of audio"),
        ('{"voice_activity": [[3, 1]]}', "two.json: speech outside the 5.00 s of audio"),
    ],
)
def test_bad_json_is_reported_or_left_out(
    corpus: Path, tmp_path: Path, content: str | None, fault: str
) -> None:
    path = corpus / "small" / "200" / "b_book" / "two.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as error:
        prepare(corpus, tmp_path / "out")
    head, line = str(error.value).split("\n")
    assert head.startswith("small: 1 faults ")
    assert "--leave-out" in head
    assert fault in line
    assert line.endswith(")"), "the remedy is missing"
    assert not (tmp_path / "out").exists()
    prepared = prepare(corpus, tmp_path / "out", leave_out=True)
    assert {u.speaker for u in read_manifest(prepared.manifests["small"])} == {"100"}
    assert prepared.notes[0].startswith("small: 1 skipped:\n")


def test_damaged_audio_and_missing_parts(corpus: Path, tmp_path: Path) -> None:
    cut(corpus / "small" / "200" / "b_book" / "two.flac")
    with pytest.raises(UserError, match=r"two\.flac: is shorter"):
        prepare(corpus, tmp_path / "out")
    with pytest.raises(UserError, match="no part medium"):
        prepare(corpus, tmp_path / "out", ["small", "medium"])
    with pytest.raises(UserError, match="none of small, medium, large found"):
        prepare(tmp_path, tmp_path / "out")
    for shortest, longest in ((0.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="0 < min_seconds <= max_seconds"):
            prepare(corpus, tmp_path / "out", min_seconds=shortest, max_seconds=longest)


def test_download(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_FIRST_PAUSE_S", 0.0)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(corpus / "small", "small")
    with loopback() as server:
        server.files["/small.tar"] = buffer.getvalue()
        server.cut_after = len(buffer.getvalue()) // 3
        monkeypatch.setattr(libri_light, "_URL", server.url)
        monkeypatch.setitem(libri_light._MD5, "small", hashlib.md5(buffer.getvalue()).hexdigest())
        assert download(tmp_path / "there", ["small"]) == {"small": tmp_path / "there" / "small"}
        asked = len(server.requests)
        assert asked > 1, "not cut and resumed"
        download(tmp_path / "there", ["small"])
        assert len(server.requests) == asked, "the second download did something"
    assert len(read_manifest(prepare(tmp_path / "there", tmp_path / "out").manifests["small"])) == 2
    with pytest.raises(UserError, match=r"no part tiny \(choose from: small, medium, large\)"):
        download(tmp_path, ["tiny"])


def test_a_part_without_all_its_json_is_put_back(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(corpus / "small", "small")
    (corpus / "small" / "200" / "b_book" / "two.json").unlink()
    (corpus / "small" / "100" / "a_book" / "one.flac").unlink()
    (corpus / "small.tar").write_bytes(buffer.getvalue())
    monkeypatch.setitem(libri_light._MD5, "small", hashlib.md5(buffer.getvalue()).hexdigest())
    download(corpus, ["small"])
    said = capsys.readouterr().err
    assert "two.flac: has no json" in said
    assert "one.flac: has no audio" in said
    assert len(read_manifest(prepare(corpus, tmp_path / "out").manifests["small"])) == 2

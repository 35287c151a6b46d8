"""prepare: a corpus on disk to manifests, and what is said of what is wrong there."""

from __future__ import annotations

from support.commands import call, fail
from support.corpora import noise

from asr_emapl.data.manifest import read_manifest


def test_prepare_with_wrong_input(tmp_path):
    assert "nowhere" in fail(
        "prepare", "librispeech", "--data", tmp_path / "nowhere", "--out", tmp_path / "out"
    )
    assert "--parts" in fail(
        "prepare", "librispeech", "--data", tmp_path, "--out", tmp_path / "out", "--download"
    )
    assert list(tmp_path.iterdir()) == []


def test_prepare_folder(tmp_path):
    noise(tmp_path / "talks" / "a.wav", 0.5, rate=8000).with_suffix(".txt").write_text("Go, on.")
    noise(tmp_path / "talks" / "b.wav", 0.5).with_suffix(".txt").write_text("1984")
    folder = ["prepare", "folder", "--data", tmp_path / "talks", "--out", tmp_path, "--text", "common-voice"]
    outcome = call(*folder)
    assert (outcome.status, outcome.out) == (2, "")
    assert "b.wav: invalid characters '1', '4', '8', '9' in" in outcome.err
    outcome = call(*folder, "--leave-out", "--name", "mine")
    assert outcome.status == 0
    assert outcome.out == (
        f"mine: {tmp_path}/mine.jsonl: 1 utterance, 0.00 h, speakers unknown, 1 with transcripts\n"
    )
    assert "mine: 1 skipped:" in outcome.err
    assert "1 of 2 files are resampled" in outcome.err
    assert read_manifest(tmp_path / "mine.jsonl")[0].text == "GO ON"


def test_prepare_libri_light(tmp_path):
    path = noise(tmp_path / "small" / "1" / "book" / "a.flac", 4.0)
    path.with_suffix(".json").write_text('{"voice_activity": [[0.5, 1.75], [3, 4]]}')
    light = ["prepare", "libri-light", "--data", tmp_path, "--out", tmp_path]
    outcome = call(*light, "--parts", "small", "--max-seconds", 2)
    assert outcome.status == 0
    assert outcome.out.startswith(f"small: {tmp_path}/small.jsonl: 2 utterances")
    assert outcome.err.startswith("small: 2 segments")
    assert [u.duration for u in read_manifest(tmp_path / "small.jsonl")] == [1.25, 1.0]
    assert call(*light, "--no-voice-activity", "--max-seconds", 2).status == 0
    assert [u.duration for u in read_manifest(tmp_path / "small.jsonl")] == [2.0, 2.0]
    assert "exceeds --max-seconds" in fail(*light, "--max-seconds", 0.5)
    assert "no part given" in fail(*light, "--download")


def test_prepare_common_voice(tmp_path):
    noise(tmp_path / "en" / "clips" / "a.mp3", 1.0)
    (tmp_path / "en" / "dev.tsv").write_text("path\tsentence\na.mp3\tWell-known.\n")
    voice = ["prepare", "common-voice", "--data", tmp_path / "en", "--out", tmp_path]
    assert "train.tsv: no such split" in fail(*voice)
    outcome = call(*voice, "--splits", "dev")
    assert outcome.status == 0
    assert outcome.out.startswith(f"dev: {tmp_path}/dev.jsonl: 1 utterance, ")
    assert "1 of 1 transcript changed" in outcome.err
    assert read_manifest(tmp_path / "dev.jsonl")[0].text == "WELL KNOWN"
    assert "datacollective" in fail(*voice, "--download")

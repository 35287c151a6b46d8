"""Recordings: found in files, folders, manifests; cut; the unreadable are named; a run learns from them."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import make_corpus, tiny_config
from test_cli import call, fail, succeed

from asr_emapl.audio.segmentation import SegmentConfig
from asr_emapl.audio.voice_activity import FRAME_SAMPLES, Activity
from asr_emapl.data import recordings
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.recordings import Cut, Recording, cut_recording, cut_recordings, find_recordings
from asr_emapl.data.utterance import Utterance
from asr_emapl.data.verify import verify
from asr_emapl.errors import UserError

CONFIG = SegmentConfig(min_seconds=0.5, target_seconds=2.0, max_seconds=4.0)
RATE = 16_000


class Loud:
    """A detector for which speech is what is louder than -40 dB."""

    def __call__(self, blocks: Iterable[np.ndarray]) -> Activity:
        x = np.concatenate(list(blocks))
        frames = np.pad(x, (0, -len(x) % FRAME_SAMPLES)).reshape(-1, FRAME_SAMPLES)
        level = 10.0 * np.log10(np.square(frames).mean(axis=1) + 1e-12)
        return Activity((level > -40.0).astype(np.float32), level.astype(np.float32))


detector = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("silero_vad", "onnxruntime"))), reason="needs the extra segment"
)


def talk(*stretches: tuple[float, bool], rate: int = RATE) -> np.ndarray:
    """Noise where somebody talks, silence elsewhere; seconds."""
    rng = np.random.default_rng(0)
    return np.concatenate([spoken * rng.normal(0.0, 0.1, round(s * rate)) for s, spoken in stretches])


def write(path: Path, *stretches: tuple[float, bool], rate: int = RATE, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.repeat(talk(*stretches, rate=rate)[:, None], channels, axis=1), rate)
    return path


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "VoiceActivity", Loud)


# Which recordings there are.


def test_files_folders_and_manifests(tmp_path):
    file = write(tmp_path / "one.flac", (1.0, True))
    write(tmp_path / "talks" / "b" / "two.WAV", (1.0, True))
    write(tmp_path / "talks" / "a.b.ogg", (1.0, True))
    (tmp_path / "talks" / "notes.txt").write_text("x")
    (tmp_path / "talks" / "._a.b.ogg").write_text("x")
    write_manifest(tmp_path / "m.jsonl", [Utterance("u", str(file), 0.5, "HI", "anna", 0.25)])
    found = find_recordings([tmp_path / "talks", file, tmp_path / "m.jsonl", file])
    assert found == [
        Recording("a.b", str(tmp_path / "talks" / "a.b.ogg")),
        Recording("b-two", str(tmp_path / "talks" / "b" / "two.WAV")),
        Recording("one", str(file)),
        Recording("u", str(file), "anna", 0.25, 0.5),
    ]


def test_sources_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no audio files"):
        find_recordings([tmp_path / "empty"])
    with pytest.raises(UserError, match="no such file"):
        find_recordings([tmp_path / "absent.wav"])
    paths = [write(tmp_path / day / "talk.wav", (1.0, True)) for day in ("monday", "tuesday")]
    with pytest.raises(UserError, match=r"tuesday.*'talk'.*monday.*rename"):
        find_recordings(paths)
    assert [r.id for r in find_recordings([tmp_path])] == ["monday-talk", "tuesday-talk"]


# What becomes of one.


@settings(max_examples=30)
@given(
    stretches=st.lists(st.tuples(st.floats(0.05, 4.0), st.booleans()), min_size=1, max_size=6),
    rate=st.sampled_from([8000, 16_000, 44_100]),
)
def test_manifests_pass_verification_and_hold_the_speech(tmp_path_factory, stretches, rate):
    root = tmp_path_factory.mktemp("talks")
    path = write(root / "talk.wav", *stretches, rate=rate, channels=2)
    cut = cut_recording(Recording("talk", str(path), "anna"), CONFIG, Loud())
    total = sum(seconds for seconds, _ in stretches)
    assert cut.fault is None
    assert cut.seconds == pytest.approx(total, abs=0.001)
    ends = [0.0]
    for u in cut.utterances:
        assert (u.audio, u.speaker, u.text) == (str(path), "anna", None)
        assert ends[-1] <= u.offset + 1e-6
        assert 0.4 < u.duration <= 4.0 + 1e-6
        ends.append(u.offset + u.duration)
    assert ends[-1] <= total + 0.001
    spoken = sum(seconds for seconds, is_spoken in stretches if is_spoken)
    assert sum(u.duration for u in cut.utterances) + cut.lost_seconds >= spoken - 0.1
    if cut.utterances:
        write_manifest(root / "m.jsonl", cut.utterances)
        assert verify(read_manifest(root / "m.jsonl"), None) == []


def test_names_offsets_and_the_last_frame(tmp_path):
    path = write(tmp_path / "t.wav", (1.6, False), (1.6, True), (1.6, False), (0.9, True))
    first, second = cut_recording(Recording("t", str(path)), CONFIG, Loud()).utterances
    assert (first.id, first.offset, first.duration) == ("t-00001408-00003392", 1.408, 1.984)
    # The recording ends within a frame.
    assert (second.id, second.offset, second.duration) == ("t-00004608-00005700", 4.608, 1.092)


def test_a_stretch_of_a_file_is_cut_within_itself(tmp_path):
    path = write(tmp_path / "t.wav", (1.6, True), (1.6, False), (1.6, True), (3.2, False))
    cut = cut_recording(Recording("u", str(path), None, 2.0, 2.0), CONFIG, Loud())
    (utterance,) = cut.utterances
    assert utterance.offset == pytest.approx(3.0, abs=0.04)
    assert utterance.offset + utterance.duration == 4.0
    assert cut.seconds == 2.0


def test_one_utterance_at_the_beginning_is_told_from_a_whole_file(tmp_path):
    path = write(tmp_path / "t.wav", (1.6, True), (3.2, False))
    (utterance,) = cut_recording(Recording("t", str(path)), CONFIG, Loud()).utterances
    assert utterance.offset == 1 / RATE
    assert verify([utterance], None) == []
    (whole,) = cut_recording(Recording("t", str(write(path, (1.6, True)))), CONFIG, Loud()).utterances
    assert (whole.offset, whole.duration) == (0.0, 1.6)


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(tmp_path, loud):
    write(tmp_path / "a" / "1.wav", (2.0, True))
    (tmp_path / "a" / "2.wav").write_bytes(b"no audio")
    truncated = write(tmp_path / "a" / "3.flac", (9.0, True))
    truncated.write_bytes(truncated.read_bytes()[:40_000])
    write(tmp_path / "a" / "4.wav", (2.0, False))
    one, two, three, four = cut_recordings(find_recordings([tmp_path / "a"]), CONFIG)
    assert len(one.utterances) == 1
    assert "2.wav: not decodable" in str(two.fault)
    assert "3.flac: " in str(three.fault)
    assert four == Cut([], 2.0, 0.0, None)


# The command.


def test_the_command_names_what_failed_and_says_so_by_its_status(tmp_path, loud):
    write(tmp_path / "a" / "1.wav", (2.0, True), (2.0, False), (3.0, True))
    out = tmp_path / "m.jsonl"
    told = succeed("segment", tmp_path / "a", "--out", out, "--min-seconds", 0.5)
    assert "2 utterances" in told
    assert "1 recordings" in told
    assert len(read_manifest(out)) == 2
    (tmp_path / "a" / "2.wav").write_bytes(b"no audio")
    outcome = call("segment", tmp_path / "a", "--out", out)
    assert outcome.status == 1
    assert outcome.err.count("skipped: ") == 1
    assert "2.wav" in outcome.err
    assert "1 recordings could not be read" in outcome.out
    assert len(read_manifest(out)) == 2


def test_without_any_speech_there_is_no_manifest(tmp_path, loud):
    path = write(tmp_path / "1.wav", (2.0, False))
    assert "no utterances" in fail("segment", path, "--out", tmp_path / "m.jsonl")
    assert not (tmp_path / "m.jsonl").exists()


def test_wrong_limits_are_told_before_anything_is_read(tmp_path):
    told = fail("segment", tmp_path / "absent.wav", "--out", tmp_path / "m.jsonl", "--max-seconds", 5)
    assert "target (12 s)" in told


@detector
def test_processes_find_what_one_finds(tmp_path):
    pytest.importorskip("espeakng_loader")
    from data_prep.espeak import ENGINE_RATE, Engine

    with Engine() as engine:
        for i, words in enumerate(("good morning to all of you", "a red box stands on the table")):
            spoken = engine.speak(words, "en", 150, 50, 50, 0)
            soundfile.write(tmp_path / f"{i}.wav", np.pad(spoken, 30_000), ENGINE_RATE)
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    found = find_recordings([tmp_path])
    alone = list(cut_recordings(found, SegmentConfig()))
    assert [len(cut.utterances) for cut in alone] == [1, 1, 0]
    assert list(cut_recordings(found, SegmentConfig(), workers=2)) == alone


@detector
def test_an_interruption_ends_quietly(tmp_path):
    for number in range(8):
        write(tmp_path / f"{number}.wav", (300.0, False))
    command = [sys.executable, "-m", "asr_emapl", "segment", str(tmp_path), "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out.jsonl")],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while len(children.read_text().split()) < 3 and time.monotonic() < deadline:  # two, and a tracker
        time.sleep(0.1)
    time.sleep(2.0)
    process.send_signal(signal.SIGINT)
    assert "Traceback" not in process.communicate(timeout=60)[1]
    assert process.returncode == 130


def test_a_run_learns_from_what_was_cut(tmp_path):
    from asr_emapl.training.trainer import train

    make_corpus(tmp_path)
    chords = [soundfile.read(u.audio)[0] for u in read_manifest(tmp_path / "unlabelled.jsonl")]
    silence = np.zeros(2 * RATE)
    soundfile.write(tmp_path / "long.wav", np.concatenate([x for c in chords for x in (c, silence)]), RATE)
    config = SegmentConfig(min_seconds=0.3, target_seconds=1.5, max_seconds=3.0, edge_seconds=0.1)
    cut = cut_recording(Recording("long", str(tmp_path / "long.wav")), config, Loud())
    write_manifest(tmp_path / "cut.jsonl", cut.utterances)
    run = tmp_path / "run"
    ema = ("pseudo_labels.strategy=ema", "pseudo_labels.start_hours=0.004", "hours=0.012")
    train(tiny_config(tmp_path, f"data.unlabelled=[{tmp_path}/cut.jsonl]", *ema))
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert any(line.get("kind") == "unlabelled" for line in lines)

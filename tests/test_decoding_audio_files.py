"""Audio files of any length: cut where it is quiet, segments in order, times from the file's beginning."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch

from asr_emapl.audio.features import FeatureConfig, LogMel
from asr_emapl.audio.voice_activity import LevelOnly
from asr_emapl.data.utterance import Utterance
from asr_emapl.decoding import audio_files
from asr_emapl.decoding.audio_files import plan_jobs, transcribe_file, transcribe_files
from asr_emapl.decoding.transcribe import Recognizer
from asr_emapl.errors import UserError
from asr_emapl.models.transformer import TransformerCtc
from asr_emapl.text.tokenizer import CharacterTokenizer

RATE = 16_000


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    torch.manual_seed(0)
    model = TransformerCtc(CharacterTokenizer().vocabulary_size, 20, dim=16, heads=2, layers=2)
    with torch.no_grad():
        model.output.weight.mul_(20.0)  # texts of many characters, far from ties
    return Recognizer(model, LogMel(FeatureConfig(mel_bands=20)), CharacterTokenizer(), torch.device("cpu"))


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """Six tones of 2 s, each followed by 0.5 s of near silence: 15 s."""
    rng = np.random.default_rng(0)
    time = np.arange(2 * RATE) / RATE
    parts = []
    for i in range(6):
        parts += [0.3 * np.sin(2 * np.pi * (300 + 200 * i + 300 * time) * time), np.zeros(RATE // 2)]
    wave = np.concatenate(parts)
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    soundfile.write(path, wave + 0.001 * rng.standard_normal(len(wave)), RATE)
    return path


def test_short_audio_is_one_segment(recognizer, talk):
    transcript = transcribe_file(recognizer, talk, LevelOnly(), max_seconds=15.0)
    (segment,) = transcript.segments
    (alone,) = recognizer([Utterance("talk", str(talk), 15.0)])
    assert (segment.begin, segment.end) == (0.0, 15.0)
    assert transcript.text == segment.text == alone.text == " ".join(w.text for w in segment.words)
    assert segment.confidence == pytest.approx(alone.confidence, abs=1e-5)


def test_long_audio_is_cut_in_the_pauses_and_joined(recognizer, talk):
    transcript = transcribe_file(recognizer, talk, LevelOnly(), max_seconds=6.0)
    assert transcript.seconds == pytest.approx(15.0)
    segments = transcript.segments
    assert len(segments) >= 3
    assert all(segment.end - segment.begin <= 6.0 for segment in segments)
    # The detector reports no silence, so the segments cover the audio, cut in the half seconds of silence.
    assert segments[0].begin == 0.0
    assert segments[-1].end == pytest.approx(15.0)
    for before, after in pairwise(segments):
        assert before.end == pytest.approx(after.begin)
        assert 2.0 <= before.end % 2.5 <= 2.5
    for segment in segments:
        piece = Utterance("piece", str(talk), segment.end - segment.begin, offset=segment.begin)
        assert segment.text == next(recognizer([piece])).text
        times = [time for word in segment.words for time in (word.begin, word.end)]
        assert times == sorted(times)
        assert segment.begin <= times[0] <= times[-1] <= segment.end


def test_segments_are_reported_in_order_of_time_before_the_file_is_done(recognizer, talk, monkeypatch):
    monkeypatch.setattr(audio_files, "_STEP_SECONDS", 7.0)
    told = []
    transcript = transcribe_file(
        recognizer, talk, LevelOnly(), max_seconds=6.0, advance=lambda *step: told.append(step)
    )
    seconds, segments = zip(*told, strict=True)
    assert sum(seconds) == pytest.approx(15.0)
    assert len([found for found in segments if found]) > 1
    assert tuple(segment for found in segments for segment in found) == transcript.segments
    assert transcript == transcribe_file(recognizer, talk, LevelOnly(), max_seconds=6.0)


def test_a_search_determines_the_text(recognizer, talk):
    a = recognizer.tokenizer.encode("A")[0]
    found = transcribe_file(
        recognizer, talk, LevelOnly(), max_seconds=15.0, search=lambda x_TV: torch.full((len(x_TV),), a)
    )
    (word,) = found.segments[0].words
    assert (found.text, word.begin) == ("A", 0.0)
    assert word.end == pytest.approx(15.0, abs=0.1)


def test_unreadable_files_are_named(recognizer, tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    for name in ("gone.wav", "text.wav"):
        with pytest.raises(UserError, match=name):
            transcribe_file(recognizer, tmp_path / name, LevelOnly(), max_seconds=10.0)


@pytest.mark.parametrize("pause", [0.5, 1.5])
def test_nothing_is_recognised_in_digital_silence(recognizer, tmp_path, pause):
    rng = np.random.default_rng(1)
    sounds = [0.1 * rng.standard_normal(2 * RATE) for _ in range(2)]
    silence = np.zeros(round(pause * RATE))
    soundfile.write(tmp_path / "a.wav", np.concatenate([silence, sounds[0], silence, sounds[1]]), RATE)
    transcript = transcribe_file(recognizer, tmp_path / "a.wav", LevelOnly(), max_seconds=15.0)
    words = [word for segment in transcript.segments for word in segment.words]
    assert words
    for begin, end in ((0.0, pause), (pause + 2.0, 2 * pause + 2.0)):
        assert not [w for w in words if w.begin > begin + 0.05 and w.end < end - 0.05]
    assert len(transcript.segments) == (1 if pause < 1.0 else 2)


def test_a_file_without_speech_is_named(recognizer, tmp_path, caplog):
    soundfile.write(tmp_path / "a.wav", np.zeros(3 * RATE), RATE)
    jobs = plan_jobs([str(tmp_path / "a.wav")], "text", None, 15.0)
    assert transcribe_files(jobs, recognizer, None, "text", 15.0) == []
    assert caplog.messages == [f"nothing recognised in {tmp_path / 'a.wav'}"]


def test_silence_alone_has_no_text(recognizer, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(3 * RATE), RATE)
    transcript = transcribe_file(recognizer, tmp_path / "a.wav", LevelOnly(), max_seconds=15.0)
    assert (transcript.text, transcript.seconds, transcript.segments) == ("", 3.0, ())


def test_a_click_between_silences_is_kept(recognizer, tmp_path):
    wave = np.zeros(4 * RATE)
    wave[2 * RATE : 2 * RATE + 1600] = 0.3
    soundfile.write(tmp_path / "a.wav", wave, RATE)
    transcript = transcribe_file(recognizer, tmp_path / "a.wav", LevelOnly(), max_seconds=15.0)
    assert len(transcript.segments) == 1

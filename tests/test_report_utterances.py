"""The utterances that went worst: which, in what order, and their audio."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from asr_emapl.data.utterance import Utterance
from asr_emapl.report import player, utterances
from asr_emapl.report.comparison import Decoded, System
from asr_emapl.report.utterances import Misheard


@pytest.fixture
def tone(tmp_path):
    """4 s: half of it silent, then a tone of 440 Hz."""
    wave = 0.3 * np.sin(2 * np.pi * 440.0 * np.arange(4 * 8000) / 8000.0)
    wave[: 2 * 8000] = 0.0
    soundfile.write(tmp_path / "tone.wav", wave, 8000)
    return str(tmp_path / "tone.wav")


def worst(corpus: list[Utterance], texts: list[dict[str, str]], count: int) -> list[Misheard]:
    systems = [System(f"system {i}", i, hypotheses) for i, hypotheses in enumerate(texts)]
    return utterances.worst(Decoded("dev", corpus, systems), count)


def spoken(name: str, text: str, audio: str = "absent.wav") -> Utterance:
    return Utterance(name, audio, 2.0, text)


def test_most_errors_over_all_runs_first():
    corpus = [spoken("a", "one two"), spoken("b", "one two"), spoken("c", "one"), spoken("d", "one two")]
    first = {"a": "one two", "b": "one", "c": "one", "d": "x two"}
    second = {"a": "one two", "b": "x y z", "c": "two", "d": "one two"}
    found = worst(corpus, [first, second], 9)
    assert [one.utterance.id for one in found] == ["b", "c", "d"]
    assert [[alignment.counts.errors for alignment in one.alignments] for one in found] == [
        [1, 3],
        [0, 1],
        [1, 0],
    ]
    assert [one.utterance.id for one in worst(corpus, [first, second], 1)] == ["b"]
    assert worst(corpus, [first, second], 0) == []


def test_the_worst_of_each_system_are_there_too():
    corpus = [spoken("a", "one two three"), spoken("b", "one two"), spoken("c", "one")]
    first = {"a": "one two three", "b": "one two", "c": "two"}
    second = {"a": "", "b": "", "c": "one"}
    assert [one.utterance.id for one in worst(corpus, [first, second], 1)] == ["a", "c"]


def test_silence_can_be_misheard():
    (one,) = worst([Utterance("a", "absent.wav", 1.0)], [{"a": "noise"}], 5)
    assert one.alignments[0].counts.insertions == 1


def test_audio_that_cannot_be_had_is_said_to_be_missing():
    (one,) = worst([spoken("a", "one")], [{"a": ""}], 5)
    assert one.player.audio == ""
    assert "absent.wav" in one.player.problem


def decoded(uri: str) -> tuple[np.ndarray, int]:
    assert uri.startswith("data:audio/mpeg;base64,")
    return soundfile.read(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_the_stretch_of_the_utterance_is_embedded(tone):
    utterance = replace(spoken("a", "one", tone), offset=1.5, duration=1.0)
    (one,) = worst([utterance], [{"a": ""}], 5)
    wave, rate = decoded(one.player.audio)
    assert rate == 16_000
    assert len(wave) / rate == pytest.approx(1.0, abs=0.15)
    quiet, loud = wave[: rate // 4], wave[-rate // 3 :]
    assert np.abs(quiet).max() < 0.01 < np.abs(loud).max()
    assert not one.player.cut


def test_long_recordings_are_cut(tone, monkeypatch):
    monkeypatch.setattr(player, "LONGEST_S", 0.5)
    (one,) = worst([replace(spoken("a", "one", tone), duration=4.0)], [{"a": ""}], 5)
    wave, rate = decoded(one.player.audio)
    assert len(wave) / rate == pytest.approx(0.5, abs=0.15)
    assert one.player.cut

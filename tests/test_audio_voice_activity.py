"""Voice activity: independent of the blocks; finds rendered speech in noise; silence is not speech."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.audio.voice_activity import FRAME_SAMPLES, LevelOnly, VoiceActivity
from asr_emapl.errors import UserError

needs_network = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("silero_vad", "onnxruntime"))),
    reason="needs the extra segment",
)


def blocks(x: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    return np.split(x, sorted(c % (len(x) + 1) for c in cuts))


@needs_network
@given(cuts=st.lists(st.integers(0, 300_000), max_size=4))
@settings(max_examples=5)
def test_activity_is_the_same_whatever_the_blocks(cuts):
    x = np.random.default_rng(0).normal(0.0, 0.1, 300_001).astype(np.float32)
    detector = VoiceActivity()
    whole, pieces = detector([x]), detector(blocks(x, cuts))
    assert np.array_equal(whole.speech, pieces.speech)
    assert np.array_equal(whole.level_db, pieces.level_db)
    assert len(whole.speech) == len(whole.level_db) == -(-300_001 // FRAME_SAMPLES)


@needs_network
def test_level_and_no_speech_in_noise_and_silence():
    rng = np.random.default_rng(0)
    x = np.concatenate([np.zeros(160_000), rng.normal(0.0, 0.1, 160_000)]).astype(np.float32)
    found = VoiceActivity()([x])
    assert (found.speech < 0.5).mean() > 0.98
    assert found.level_db[:300] == pytest.approx(-120.0)
    assert found.level_db[-300:].mean() == pytest.approx(-20.0, abs=0.1)


@needs_network
@pytest.mark.parametrize("snr_db", [None, 10.0])
def test_rendered_speech_is_found(snr_db):
    pytest.importorskip("espeakng_loader")
    from torchaudio.functional import resample

    from data_prep.espeak import ENGINE_RATE, Engine

    with Engine() as engine:
        spoken = engine.speak("we shall see them again in the summer of next year", "en", 150, 50, 50, 0)
    wave = resample(torch.from_numpy(spoken).float(), ENGINE_RATE, 16_000).numpy()
    x = np.concatenate([np.zeros(32_000), wave, np.zeros(32_000)]).astype(np.float32)
    if snr_db is not None:
        deviation = np.sqrt(np.square(wave).mean()) * 10.0 ** (-snr_db / 20.0)
        x += np.random.default_rng(0).normal(0.0, deviation, len(x)).astype(np.float32)
    speech = VoiceActivity()([x]).speech > 0.5
    first, last = 32_000 // FRAME_SAMPLES, (32_000 + len(wave)) // FRAME_SAMPLES
    assert speech[first + 5 : last - 10].mean() > 0.9
    assert speech[: first - 5].mean() < 0.05
    assert speech[last + 5 :].mean() < 0.05


@needs_network
def test_an_empty_recording():
    assert len(VoiceActivity()([]).speech) == 0


@pytest.mark.parametrize("package", ["silero_vad", "onnxruntime"])
def test_a_missing_package_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, "onnxruntime", sys)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else sys)
    with pytest.raises(UserError, match=rf"{package}.*\[segment\]"):
        VoiceActivity()


@given(samples=st.integers(0, 600_000), cuts=st.lists(st.integers(0, 600_000), max_size=5))
@settings(max_examples=50)
def test_level_only_is_the_same_whatever_the_blocks(samples, cuts):
    x = np.random.default_rng(0).normal(0.0, 0.1, samples).astype(np.float32)
    whole, pieces = LevelOnly()([x]), LevelOnly()(blocks(x, cuts))
    assert np.array_equal(whole.level_db, pieces.level_db)
    assert len(whole.speech) == len(whole.level_db) == -(-samples // FRAME_SAMPLES)
    assert (whole.speech == 1.0).all()
    assert whole.level_db[:-1] == pytest.approx(-20.0, abs=1.5)

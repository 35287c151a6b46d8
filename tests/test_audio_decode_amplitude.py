"""The largest amplitude of audio: its features are finite, and files with a larger one are named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support.runs import losses
from support.tiny import make_corpus, tiny_config

from asr_emapl.audio.decode import MAX_AMPLITUDE, amplitude_fault, read_audio, read_blocks
from asr_emapl.audio.features import FeatureConfig, LogMel
from asr_emapl.data.manifest import read_manifest
from asr_emapl.errors import UserError
from asr_emapl.training.trainer import train

WINDOWS_MS = (1.0, 25.0, 1e4)  # the shortest and the longest that a config may have, and the usual one


def write(path: Path, amplitude: float, seconds: float = 0.5) -> Path:
    """A float WAV of noise with this peak."""
    samples = np.random.default_rng(0).standard_normal(round(16_000 * seconds))
    soundfile.write(path, samples / np.abs(samples).max() * amplitude, 16_000, subtype="FLOAT")
    return path


def test_accepted_and_refused_amplitudes():
    assert amplitude_fault(np.zeros(0, np.float32)) is None
    for sign in (1.0, -1.0):
        assert amplitude_fault(np.array([0.0, sign * MAX_AMPLITUDE], np.float32)) is None
        fault = amplitude_fault(np.array([0.0, sign * 1e18], np.float32))
        assert fault is not None
        assert "1e+18" in fault
    for value in (math.nan, math.inf, -math.inf):
        assert "NaN or infinite" in str(amplitude_fault(np.array([1.0, value, -1.0], np.float32)))


@pytest.mark.parametrize("window_ms", WINDOWS_MS)
@pytest.mark.parametrize("kind", ["constant", "tone", "noise"])
def test_features_of_the_largest_amplitude_are_finite(window_ms, kind):
    count = round(16 * max(window_ms, 100.0)) + 160
    time = torch.arange(count) / 16_000
    waveform = {
        "constant": torch.ones(count),
        "tone": torch.sin(2 * math.pi * 1000.0 * time),
        "noise": torch.empty(count).uniform_(-1, 1, generator=torch.Generator().manual_seed(0)),
    }[kind]
    mel = LogMel(FeatureConfig(window_ms=window_ms, mel_bands=2))
    features, _ = mel(MAX_AMPLITUDE * waveform[None], torch.tensor([count]))
    assert features.isfinite().all()


def test_features_overflow_not_far_beyond():
    """The limit is not arbitrary: with the longest window 100 times as much would be too much."""
    mel = LogMel(FeatureConfig(window_ms=1e4, mel_bands=2))
    waveform = torch.sin(2 * math.pi * 1000.0 * torch.arange(160_160) / 16_000)
    features, _ = mel(1e15 * waveform[None], torch.tensor([160_160]))
    assert not features.isfinite().all()


@pytest.mark.parametrize("read", [read_audio, lambda path: list(read_blocks(path))])
def test_files_are_refused_by_name_and_integers_stored_as_floats_are_not(tmp_path, read):
    with pytest.raises(UserError, match=r"loud\.wav: has samples of amplitude 1e\+18.*convert the file"):
        read(write(tmp_path / "loud.wav", 1e18))
    read(write(tmp_path / "int32.wav", 2.0**31))


def test_a_loud_file_is_skipped_and_listed_and_its_batches_are_used(tmp_path):
    make_corpus(tmp_path)
    seconds = {u.id: u.duration for u in read_manifest(tmp_path / "labelled.jsonl")}
    write(tmp_path / "loud.wav", 1e18, seconds["labelled-03"])
    content = (tmp_path / "labelled.jsonl").read_text().replace("labelled-03.flac", "loud.wav")
    (tmp_path / "labelled.jsonl").write_text(content)
    train(tiny_config(tmp_path, "hours=0.02", "validation.every_hours=null"))
    (line,) = map(json.loads, (tmp_path / "run" / "skipped.jsonl").read_text().splitlines())
    assert line["id"] == "labelled-03"
    assert "amplitude 1e+18" in line["why"]
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "run"))
    steps = [json.loads(s) for s in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(step.get("taken", True) for step in steps)


def test_a_validation_file_that_is_too_loud_is_named(tmp_path, capsys):
    make_corpus(tmp_path)
    seconds = {u.id: u.duration for u in read_manifest(tmp_path / "dev.jsonl")}
    write(tmp_path / "loud.wav", 1e18, seconds["dev-01"])
    content = (tmp_path / "dev.jsonl").read_text().replace("dev-01.flac", "loud.wav")
    (tmp_path / "dev.jsonl").write_text(content)
    train(tiny_config(tmp_path, "hours=0.003"))
    assert "loud.wav: has samples of amplitude" in capsys.readouterr().out

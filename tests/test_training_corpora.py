"""What a run says of its corpora before it starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import make_corpus, tiny_config

from asr_emapl.data.manifest import read_manifest
from asr_emapl.text.tokenizer import LetterTokenizer
from asr_emapl.training.corpora import Corpora


def notes(root: Path) -> list[str]:
    config = tiny_config(root, "pseudo_labels.strategy=ema")
    return Corpora.read(config, LetterTokenizer(), 1).notes


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16_000, 2), (44_100, 2)])
def test_audio_that_is_resampled_is_said_once(tmp_path: Path, rate: int, channels: int) -> None:
    make_corpus(tmp_path)
    assert notes(tmp_path) == []
    for utterance in read_manifest(tmp_path / "labelled.jsonl"):
        silence = np.zeros((round(utterance.duration * rate), channels))
        soundfile.write(utterance.audio, silence, rate)
    (note,) = notes(tmp_path)
    assert note.startswith(f"data.labelled: has audio of {rate} Hz with {channels} channel(s)")


def test_audio_that_is_not_there_is_for_the_loader_to_report(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    for utterance in read_manifest(tmp_path / "labelled.jsonl"):
        Path(utterance.audio).unlink()
    assert notes(tmp_path) == []

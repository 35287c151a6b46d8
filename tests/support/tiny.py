"""A corpus and a config so small that a training run takes a second; words are chords."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from asr_emapl.config import RunConfig, load_config
from asr_emapl.corpora.selection import TrainingAudio
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.scaling import StepAudio
from asr_emapl.text.tokenizer import CharacterTokenizer, save_tokenizer

WORDS = {"ADA": (300, 700), "BOB": (500, 1500), "CLIO": (900, 2500), "DAN": (400, 3200)}

CONFIG = """
hours: 0.02
tokenizer: {root}/letters.json
run_dir: {root}/run
data:
  labelled: [{root}/labelled.jsonl]
  validation: {{dev: {root}/dev.jsonl}}
  workers: 0
augment: {{frequency_masks: 1, frequency_width: 8, time_masks: 1, time_width: 10}}
model:
  options:
    {{dim: 16, heads: 2, layers: 2, norm: pre, dropout: 0.0, frontend_dropout: 0.0, max_shift_seconds: 0.0}}
batch: {{seconds: 6, reference_seconds: 6}}
device: {{name: cpu, max_seconds: 6, threads: 1}}
optimizer: {{lr: 5.0e-3}}
teacher: {{half_life_hours: 0.005}}
validation: {{every_hours: 0.005}}
checkpoint: {{every_hours: 0.005}}
"""

WITH_UNLABELLED = CONFIG.replace("  validation", "  unlabelled: [{root}/unlabelled.jsonl]\n  validation", 1)
"""For runs with pseudo-labels; a supervised run must not have unlabelled audio."""


def make_corpus(root: Path) -> None:
    """Write manifests labelled (16 utterances), unlabelled (24) and dev (4), audio and tokenizer."""
    rng = np.random.default_rng(0)
    for part, count in (("labelled", 16), ("unlabelled", 24), ("dev", 4)):
        utterances = [_utterance(root, f"{part}-{i:02d}", rng) for i in range(count)]
        write_manifest(root / f"{part}.jsonl", utterances)
    save_tokenizer(root / "letters.json", CharacterTokenizer())


def _utterance(root: Path, name: str, rng: np.random.Generator) -> Utterance:
    words = [str(w) for w in rng.choice(list(WORDS), size=rng.integers(1, 4))]
    wave = np.concatenate([_chord(word, rng) for word in words])
    path = root / f"{name}.flac"
    soundfile.write(path, 0.1 * wave, 16_000)
    return Utterance(name, str(path), len(wave) / 16_000, " ".join(words))


def _chord(word: str, rng: np.random.Generator) -> np.ndarray:
    time = np.arange(int(16_000 * rng.uniform(0.3, 0.6))) / 16_000
    return sum(np.sin(2 * np.pi * f * time) for f in WORDS[word]) + 0.05 * rng.standard_normal(time.size)


def write_tiny_config(root: Path, *overrides: str) -> Path:
    """Write the config for the corpus in `root`; with unlabelled audio if overrides set a strategy."""
    with_strategy = any(o.startswith("pseudo_labels.strategy=") and not o.endswith("none") for o in overrides)
    path = root / "tiny.yaml"
    path.write_text((WITH_UNLABELLED if with_strategy else CONFIG).format(root=root), encoding="utf-8")
    return path


def tiny_config(root: Path, *overrides: str) -> RunConfig:
    """The config for the corpus in `root`."""
    return load_config(write_tiny_config(root, *overrides), overrides)


def step_audio(config: RunConfig) -> StepAudio:
    """The audio of a step as measured by a run."""
    return TrainingAudio.select(config, 1).step_audio(config, 1)

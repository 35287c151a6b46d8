"""Self-supervised runs on the tiny corpus, without transcripts and tokenizer."""

from __future__ import annotations

from pathlib import Path

from asr_emapl.config import RunConfig, load_config

OBJECTIVES = ("byol", "masked")

CONFIG = """
hours: 0.04
run_dir: {root}/run
data: {{unlabelled: [{root}/unlabelled.jsonl, {root}/labelled.jsonl], workers: 0}}
model:
  options:
    {{dim: 16, heads: 2, layers: 3, norm: pre, dropout: 0.1, layerdrop: 0.1, max_shift_seconds: 0.0}}
batch: {{seconds: 6, reference_seconds: 6}}
device: {{name: cpu, max_seconds: 6, threads: 1}}
optimizer: {{lr: 2.0e-3}}
teacher: {{rho: 0.95, schedule: cosine}}
checkpoint: {{every_hours: 0.01}}
self_supervised:
  byol: {{crop_seconds: 0.3, statistics_crops: 4, hidden: 32, size: 16}}
"""

# Random numbers inside the model depend on the rank.
WITHOUT_DROPOUT = ("model.options.dropout=0.0", "model.options.frontend_dropout=0.0")


def write_self_supervised_config(root: Path) -> Path:
    """Write the config for the corpus in `root`."""
    path = root / "self_supervised.yaml"
    path.write_text(CONFIG.format(root=root), encoding="utf-8")
    return path


def self_supervised_config(root: Path, objective: str, *overrides: str) -> RunConfig:
    """The config of an objective for the corpus in `root`."""
    chosen = (f"self_supervised.objective={objective}", *overrides)
    return load_config(write_self_supervised_config(root), chosen)

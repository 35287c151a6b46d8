"""A beam search for the tiny corpus that needs no language model: its words are those of a lexicon."""

from __future__ import annotations

from pathlib import Path

from asr_emapl.decoding.beam import BeamConfig
from asr_emapl.decoding.tuning import write_config
from support.tiny import WORDS


def write_search(folder: Path) -> str:
    """Write lexicon and configuration; returns the override that makes a run use it."""
    (folder / "words.txt").write_text("\n".join([*WORDS, "A", "DO"]) + "\n")
    write_config(folder / "search.json", BeamConfig(8, lexicon=str(folder / "words.txt"), word_bonus=4.0))
    return f"pseudo_labels.lm_config={folder / 'search.json'}"

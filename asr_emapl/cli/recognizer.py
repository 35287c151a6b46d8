"""The recognizer and the beam search that commands use: their options, and opening them with warnings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_emapl.runs.reader import run_files
from asr_emapl.terminal import warn

if TYPE_CHECKING:
    from asr_emapl.data.utterance import Utterance
    from asr_emapl.decoding.beam import BeamConfig, BeamSearch
    from asr_emapl.decoding.transcribe import Recognizer
    from asr_emapl.text.tokenizer import Tokenizer


CheckpointOption = Annotated[
    Path, typer.Option(help="Checkpoint, or run directory (uses the latest checkpoint).")
]
ModelOption = Annotated[str, typer.Option(help="teacher or student.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")]
LmOption = Annotated[str, typer.Option(help="Language model (ARPA or KenLM binary).")]
LexiconOption = Annotated[
    str,
    typer.Option(help="Allowed words: a list or an ARPA file. Without it, --lm must be a token-level model."),
]


def audio_files(utterances: Iterable[Utterance]) -> set[str]:
    """The audio files of utterances."""
    return {utterance.audio for utterance in utterances}


def model_files(checkpoint: Path, config: BeamConfig | None) -> list[Path | str]:
    """The files of a recognizer and its beam search."""
    return [*run_files(checkpoint), *([config.lm, config.lexicon] if config else [])]


def open_recognizer(checkpoint: Path, model: str, device: str, trust: list[str] | None) -> Recognizer:
    from asr_emapl.checkpoints.recognizer import load_recognizer

    recognizer = load_recognizer(checkpoint, model, device, trust or ())
    for problem in recognizer.problems:
        warn(f"warning: {problem}: using the previous checkpoint")
    return recognizer


def open_search(tokenizer: Tokenizer, config: BeamConfig) -> BeamSearch:
    from asr_emapl.decoding.beam import BeamSearch

    search = BeamSearch(tokenizer, config)
    if search.unspellable:
        warn(
            f"warning: {config.lexicon}: {len(search.unspellable)} words that the tokenizer cannot encode, "
            f"such as {search.unspellable[0]!r}, are ignored"
        )
    if config.lexicon and search.unknown:
        warn(
            f"warning: {config.lm}: lacks {len(search.unknown)} words of the lexicon, "
            f"such as {search.unknown[0]!r}"
        )
    return search

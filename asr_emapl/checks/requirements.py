"""The requirements of a run's config on utterances, for `asr_emapl.checks.inspection`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from asr_emapl.checks.inspection import Requirements
from asr_emapl.config import RunConfig, load_config
from asr_emapl.ctc import alignable
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.models.contract import build_model
from asr_emapl.models.inputs import frame_count, input_size
from asr_emapl.models.target import NO_TRUST, Trust
from asr_emapl.planning import build_batches
from asr_emapl.text.tokenizer import CharacterTokenizer, Tokenizer, load_tokenizer


def read_requirements(
    config: Path | None,
    tokenizer: Path | None,
    batch_seconds: float | None,
    trust: Sequence[str] = (),
) -> Requirements:
    """Read the requirements from a run's config. Without a config, use defaults and no model.

    Args:
        config: config file of a run (YAML).
        tokenizer: overrides the config's tokenizer; if neither is given, characters are used.
        batch_seconds: overrides the config's batch size.
        trust: packages, besides asr_emapl, whose code may be executed to build the config's model.

    Raises:
        UserError: a file cannot be read or is not valid, the batch size is not positive, or the model's code
            is not trusted.
    """
    if batch_seconds is not None and not 0.0 < batch_seconds < math.inf:
        raise UserError(f"the batch size must be a positive number of seconds, not {batch_seconds:g}")
    run = RunConfig() if config is None else load_config(config)
    path = tokenizer or run.tokenizer
    letters = load_tokenizer(path) if path else CharacterTokenizer()
    batches = build_batches(run, world_size=1)
    smallest, first = (batches.smallest, batches.first) if batch_seconds is None else (batch_seconds,) * 2
    return Requirements(
        letters,
        run.data.min_seconds,
        min(run.data.max_seconds, run.device.max_seconds, smallest),
        first,
        run.batch,
        None if config is None else alignment(run, letters, Trust.of(f"config {config}", trust)),
    )


def alignment(
    config: RunConfig, tokenizer: Tokenizer, trust: Trust = NO_TRUST
) -> Callable[[Sequence[Utterance]], list[bool]]:
    """Return a function that returns for each utterance whether CTC can align it with the config's model."""
    output_lengths = _output_lengths(config, tokenizer, trust)
    frames_of = frame_count(config.features, config.model, trust)
    # With one label per character, repeats at most double the required frames, so most texts need not be
    # encoded.
    one_each = isinstance(tokenizer, CharacterTokenizer)

    def fits(utterances: Sequence[Utterance]) -> list[bool]:
        lengths_B = frames_of(torch.tensor([u.samples for u in utterances], dtype=torch.long))
        frames = output_lengths(lengths_B).tolist()
        return [
            (one_each and f >= 2 * len(u.text or "")) or alignable(tokenizer.encode(u.text or ""), f)
            for u, f in zip(utterances, frames, strict=True)
        ]

    return fits


def _output_lengths(
    config: RunConfig, tokenizer: Tokenizer, trust: Trust
) -> Callable[[torch.Tensor], torch.Tensor]:
    build = partial(
        build_model,
        config.model,
        vocabulary_size=tokenizer.vocabulary_size,
        input_size=input_size(config.features, config.model, trust),
        trust=trust,
    )
    try:
        # Build on the meta device, which is instantaneous even for large models.
        with torch.device("meta"):
            model = build()
        model.output_lengths(torch.tensor([1000]))  # type: ignore[operator]
    # A model that reads its weights cannot be built on the meta device and may raise any exception.
    except Exception:
        model = build()
    return model.output_lengths  # type: ignore[return-value]

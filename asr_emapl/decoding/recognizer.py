"""A trained model with its features and tokenizer, which transcribes utterances."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import nn

from asr_emapl.audio.features import LogMel
from asr_emapl.data.loader import LeftOut
from asr_emapl.data.utterance import Utterance
from asr_emapl.decoding.spans import frame_seconds
from asr_emapl.decoding.transcribe import Hypothesis, Posteriors, posteriors, transcribe
from asr_emapl.text.tokenizer import Tokenizer


@dataclass
class Recognizer:
    """Model, features and tokenizer of one checkpoint; see `asr_emapl.checkpoints.recognizer`.

    Attributes:
        problems: why newer checkpoints could not be read and were skipped.
    """

    model: nn.Module
    features: LogMel
    tokenizer: Tokenizer
    device: torch.device
    problems: list[str] = field(default_factory=list)

    def __call__(
        self, utterances: Sequence[Utterance], max_seconds: float = 120.0, left_out: LeftOut | None = None
    ) -> Iterator[Hypothesis]:
        """Greedy hypotheses, longest utterance first.

        Args:
            max_seconds: maximum padded audio of a batch.
            left_out: called with each utterance that cannot be decoded and has no hypothesis.

        Raises:
            UserError: an utterance cannot be decoded, and `left_out` is None.
        """
        return transcribe(self._batches(utterances, max_seconds, left_out), self.tokenizer)

    def posteriors(
        self, utterances: Sequence[Utterance], max_seconds: float = 120.0, left_out: LeftOut | None = None
    ) -> Generator[Posteriors, None, None]:
        """Log-probabilities of the utterances, in the order and the batches of `__call__`."""
        with closing(self._batches(utterances, max_seconds, left_out)) as batches:
            for (batch,) in batches:
                yield batch

    def _batches(
        self, utterances: Sequence[Utterance], max_seconds: float, left_out: LeftOut | None
    ) -> Generator[list[Posteriors], None, None]:
        return posteriors(
            [self.model],
            self.features,
            utterances,
            device=self.device,
            max_seconds=max_seconds,
            left_out=left_out,
        )

    @property
    def frame_seconds(self) -> float:
        """Seconds of audio per frame of the model's output."""
        return frame_seconds(self.model, self.features)

"""A trained model for transcription, loaded from a checkpoint with its tokenizer and features."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from asr_emapl.audio.features import LogMel
from asr_emapl.checkpoints.files import find, fitting, read_tokenizer
from asr_emapl.config import config_from_dict
from asr_emapl.data.loader import LeftOut
from asr_emapl.data.utterance import Utterance
from asr_emapl.decoding.spans import frame_seconds
from asr_emapl.decoding.transcribe import Hypothesis, Posteriors, posteriors, transcribe
from asr_emapl.distributed.process_group import choose_device
from asr_emapl.errors import UserError
from asr_emapl.models.contract import build_model
from asr_emapl.models.target import Trust
from asr_emapl.text.tokenizer import Tokenizer


@dataclass
class Recognizer:
    """Model, features and tokenizer of one checkpoint."""

    model: nn.Module
    features: LogMel
    tokenizer: Tokenizer
    device: torch.device
    # Newer checkpoints that could not be read, and were passed over.
    problems: list[str] = field(default_factory=list)

    @staticmethod
    def load(
        path: Path, which: str = "teacher", device: str = "auto", trust: Sequence[str] = ()
    ) -> Recognizer:
        """Load a checkpoint file, or the newest one of a run directory.

        Args:
            trust: packages, besides asr_emapl, whose code may be run to build the model that it names.

        Raises:
            UserError: there is no checkpoint, `which` is neither teacher nor student, the model's code is not
                trusted, or the weights do not fit it.
        """
        if which not in ("teacher", "student"):
            raise UserError(f"--model {which!r} is neither teacher nor student")
        path, state, problems = find(path)
        config = config_from_dict(state["config"], f"the config in checkpoint {path}")
        tokenizer = read_tokenizer(path, state)
        where = choose_device(device)
        model = build_model(
            config.model,
            vocabulary_size=tokenizer.vocabulary_size,
            mel_bands=config.features.mel_bands,
            trust=Trust.of(f"checkpoint {path}", trust),
        )
        with fitting(path, config.model.target):
            model.load_state_dict(state["teacher"]["module"] if which == "teacher" else state["student"])
        return Recognizer(model.to(where), LogMel(config.features).to(where), tokenizer, where, problems)

    def __call__(
        self, utterances: Sequence[Utterance], max_seconds: float = 120.0, left_out: LeftOut | None = None
    ) -> Iterator[Hypothesis]:
        """Hypotheses, longest utterance first, in batches of at most `max_seconds` of padded audio.

        Args:
            left_out: called with each utterance that cannot be decoded, which has no hypothesis then.

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
        """Seconds of audio for each frame of the model's output."""
        return frame_seconds(self.model, self.features)

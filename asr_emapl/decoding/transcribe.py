"""Transcribe utterances in batches, with any model that satisfies the contract.

Axes: B utterances, T frames (padded), V labels (including the CTC blank).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.features import LogMel
from asr_emapl.ctc import greedy
from asr_emapl.data.loader import LeftOut, collate
from asr_emapl.data.micro_batches import micro_batches
from asr_emapl.data.utterance import Utterance
from asr_emapl.decoding.silence import blank_silence
from asr_emapl.decoding.spans import TimedText, frame_seconds, timed_tokens, token_spans, words
from asr_emapl.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Hypothesis:
    """A decoded utterance.

    Attributes:
        confidence: mean over frames of the highest probability, for greedy decoding and beam search alike.
        words: with times from the beginning of the utterance; empty if times were not requested.
    """

    id: str
    text: str
    confidence: float
    words: tuple[TimedText, ...] = ()


@dataclass(frozen=True)
class Posteriors:
    """The model's output for a batch on its device: log-probabilities float32 [B, T, V], lengths long [B]."""

    ids: list[str]
    log_probs_BTV: Tensor
    lengths_B: Tensor

    def each(self) -> Iterator[tuple[str, Tensor]]:
        """Id and log-probabilities [its frames, V] of each utterance, on the CPU."""
        log_probs_BTV = self.log_probs_BTV.cpu()
        for id_, log_probs_TV, length in zip(self.ids, log_probs_BTV, self.lengths_B.tolist(), strict=True):
            yield id_, log_probs_TV[:length]


def posteriors(
    models: Sequence[nn.Module],
    features: LogMel,
    utterances: Sequence[Utterance],
    *,
    device: torch.device,
    max_seconds: float,
    bf16: bool = False,
    rank: int = 0,
    world_size: int = 1,
    left_out: LeftOut | None = None,
    blank_silent: bool = False,
) -> Generator[list[Posteriors], None, None]:
    """Log-probabilities of each model, longest utterance first. Audio is decoded once for all models.

    A batch has at most `max_seconds` of padded audio; a longer utterance is a batch of its own. The models
    run in eval mode, and their mode is restored. With several processes, each decodes its share of the
    batches. Sharded models need the same number on each process, so some batches may be decoded twice.

    Args:
        left_out: called with each utterance that cannot be decoded; no batch contains it. A batch may be
            empty.
        blank_silent: emit blanks on digital silence (see `decoding.silence`).

    Raises:
        UserError: an utterance cannot be decoded, and `left_out` is None.
        UnreachableError: a server cannot be reached.
    """
    ordered = sorted(utterances, key=lambda u: (-u.samples, u.id))
    limit = max(round(max_seconds * SAMPLE_RATE_HZ), max((u.samples for u in ordered), default=0))
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        groups = micro_batches([u.samples for u in ordered], limit)
        for turn in range(0, len(groups), world_size):
            group = [ordered[i] for i in groups[(turn + rank) % len(groups)]]
            batch = collate(group, left_out)
            if not batch.ids:  # sharded models need the forward pass, so they get silence
                batch.waveforms_BN = torch.zeros(1, group[0].samples)
                batch.samples_B = torch.tensor([group[0].samples])
            batch = batch.to(device)
            found, rows = [], len(batch.ids)
            # Not inference mode: tensors that a sharded model gathers there cannot be used outside.
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                inputs = features(batch.waveforms_BN, batch.samples_B)
                for model in models:
                    log_probs_BTV, lengths_B = model(*inputs)
                    if blank_silent:
                        seconds = frame_seconds(model, features)
                        log_probs_BTV = blank_silence(log_probs_BTV, batch.waveforms_BN, seconds)
                    found.append(Posteriors(batch.ids, log_probs_BTV[:rows].float(), lengths_B[:rows]))
            yield found
    finally:
        for model, was_training in zip(models, modes, strict=True):
            model.train(was_training)


def greedy_hypotheses(batch: Posteriors, tokenizer: Tokenizer) -> list[Hypothesis]:
    """Greedy hypotheses of a batch, without times."""
    paths = greedy(batch.log_probs_BTV, batch.lengths_B)
    rows = zip(batch.ids, paths.to_lists(), paths.confidence.tolist(), strict=True)
    return [Hypothesis(id_, tokenizer.decode(tokens), confidence) for id_, tokens, confidence in rows]


def timed_hypotheses(
    batch: Posteriors,
    tokenizer: Tokenizer,
    seconds_per_frame: float,
    search: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Hypothesis]:
    """Hypotheses of a batch with the times of their words.

    Args:
        seconds_per_frame: audio per frame of the model's output.
        search: log-probabilities [T, V] on the CPU to the label of each frame, long [T]; None: greedy.
    """
    best_log_prob_BT, path_BT = batch.log_probs_BTV.max(dim=-1)
    if search is not None:
        path_BT = torch.zeros(path_BT.shape, dtype=torch.long)
        for row, (_, log_probs_TV) in zip(path_BT, batch.each(), strict=True):
            row[: len(log_probs_TV)] = search(log_probs_TV)
        path_BT = path_BT.to(batch.log_probs_BTV.device)
    spans = token_spans(path_BT, batch.log_probs_BTV, batch.lengths_B)
    tokens = timed_tokens(spans, tokenizer.surfaces, seconds_per_frame)
    valid_BT = torch.arange(path_BT.shape[1], device=path_BT.device) < batch.lengths_B.unsqueeze(1)
    total_B = torch.where(valid_BT, best_log_prob_BT.exp(), 0.0).sum(1)
    confidences = (total_B / batch.lengths_B.clamp(min=1)).clamp(max=1.0).tolist()
    for id_, utterance, confidence in zip(batch.ids, tokens, confidences, strict=True):
        found = words(utterance)
        yield Hypothesis(id_, " ".join(word.text for word in found), confidence, tuple(found))


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
        """Greedy hypotheses without times, longest utterance first.

        Args:
            max_seconds: maximum padded audio of a batch.
            left_out: called with each utterance that cannot be decoded and has no hypothesis.

        Raises:
            UserError: an utterance cannot be decoded, and `left_out` is None.
        """
        with closing(self.posteriors(utterances, max_seconds, left_out)) as batches:
            for batch in batches:
                yield from greedy_hypotheses(batch, self.tokenizer)

    def posteriors(
        self,
        utterances: Sequence[Utterance],
        max_seconds: float = 120.0,
        left_out: LeftOut | None = None,
        blank_silent: bool = False,
    ) -> Generator[Posteriors, None, None]:
        """Log-probabilities of the utterances, in the order and the batches of `__call__`."""
        batches = posteriors(
            [self.model],
            self.features,
            utterances,
            device=self.device,
            max_seconds=max_seconds,
            left_out=left_out,
            blank_silent=blank_silent,
        )
        with closing(batches):  # restores the model's mode at once
            for (batch,) in batches:
                yield batch

    @property
    def frame_seconds(self) -> float:
        """Seconds of audio per frame of the model's output."""
        return frame_seconds(self.model, self.features)

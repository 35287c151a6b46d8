"""Transcribe utterances in batches, with any model that satisfies the contract.

Axes: B utterances, T frames (padded), V labels (including the CTC blank).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.features import FeatureExtractor
from asr_emapl.audio.silence import blank_silence
from asr_emapl.ctc import Confidence, Paths, Search, greedy, labels_of_path, search_path
from asr_emapl.data.loader import LeftOut, collate
from asr_emapl.data.micro_batches import micro_batches
from asr_emapl.data.read_ahead import read_ahead
from asr_emapl.data.step_batch import MicroBatch
from asr_emapl.data.stored_features import input_features
from asr_emapl.data.utterance import Utterance
from asr_emapl.decoding.spans import TimedText, frame_seconds, timed_tokens, token_spans, words
from asr_emapl.errors import UserError
from asr_emapl.text.tokenizer import Tokenizer

Features = tuple[Tensor, Tensor]
"""Features [B, T, F] of a batch, and their lengths [B]."""


@dataclass(frozen=True)
class Hypothesis:
    """A decoded utterance.

    Attributes:
        confidence: mean over frames of the highest probability, for both greedy decoding and beam search,
            unless that of the tokens is requested (`ctc.token_confidence`).
        tokens: number of labels of the text.
        words: with times from the beginning of the utterance; empty if times were not requested.
    """

    id: str
    text: str
    confidence: float
    tokens: int
    words: tuple[TimedText, ...] = ()


@dataclass(frozen=True)
class Posteriors:
    """The model's output for a batch on its device: log-probabilities float32 [B, T, V], lengths long [B]."""

    ids: list[str]
    log_probs_BTV: Tensor
    lengths_B: Tensor

    def each(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the id and log-probabilities [T_u, V] of each utterance, on the CPU."""
        log_probs_BTV = self.log_probs_BTV.cpu()
        for id_, log_probs_TV, length in zip(self.ids, log_probs_BTV, self.lengths_B.tolist(), strict=True):
            yield id_, log_probs_TV[:length]


def length_batches(utterances: Sequence[Utterance], max_seconds: float) -> list[list[Utterance]]:
    """Batches of utterances, longest first. The batches do not depend on the order of the utterances.

    A batch has at most `max_seconds` of padded audio; a longer utterance forms its own batch.
    """
    ordered = sorted(utterances, key=lambda u: (-u.samples, u.id))
    limit = max(round(max_seconds * SAMPLE_RATE_HZ), max((u.samples for u in ordered), default=0))
    return [[ordered[i] for i in group] for group in micro_batches([u.samples for u in ordered], limit)]


def posteriors(
    models: Sequence[nn.Module],
    features: FeatureExtractor,
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
    """Log-probabilities of each model for the batches of `length_batches`; see `batch_posteriors`.

    With several processes, each decodes its share of the batches. Sharded models need the same number of
    batches on each process, so some batches may be processed twice.

    Raises:
        UserError: an utterance cannot be decoded, and `left_out` is None.
        UnreachableError: a server cannot be reached.
    """
    batches = length_batches(utterances, max_seconds)
    mine = [batches[(turn + rank) % len(batches)] for turn in range(0, len(batches), world_size)]
    found = batch_posteriors(
        models, features, mine, device=device, bf16=bf16, left_out=left_out, blank_silent=blank_silent
    )
    with closing(found):  # restores the models' modes at once
        yield from (of_models for _, of_models in found)


def batch_posteriors(
    models: Sequence[nn.Module],
    features: FeatureExtractor,
    batches: Iterable[Sequence[Utterance]],
    *,
    device: torch.device,
    bf16: bool = False,
    left_out: LeftOut | None = None,
    blank_silent: bool = False,
    threads: int = 0,
) -> Generator[tuple[Sequence[Utterance], list[Posteriors]], None, None]:
    """Yield each batch with the log-probabilities of each model. Audio is decoded once for all models.

    The models run in eval mode, and their mode is restored. Does not wait for the device.

    Args:
        left_out: called with each utterance that cannot be decoded. Its posteriors are missing; a batch may
            be empty.
        blank_silent: emit blanks on digital silence (see `audio.silence`).
        threads: number of threads that decode audio in advance, and on a CPU compute the features; 0: none.

    Raises:
        UserError: an utterance cannot be decoded, and `left_out` is None.
        UnreachableError: a server cannot be reached.
    """
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    audio = read_ahead(batches, lambda batch: _read(batch, features, device, left_out), threads=threads)
    try:
        with closing(audio):
            for utterances, (batch, inputs) in audio:
                batch = batch.to(device)
                inputs = inputs or _inputs(features, batch)
                found = _posteriors(models, inputs, batch.ids, bf16=bf16)
                if blank_silent and batch.stored is None:
                    seconds = [frame_seconds(model, features) for model in models]
                    found = [_blank_silence(x, batch, s) for x, s in zip(found, seconds, strict=True)]
                yield utterances, found
    finally:
        for model, was_training in zip(models, modes, strict=True):
            model.train(was_training)


def _read(
    utterances: Sequence[Utterance],
    features: FeatureExtractor,
    device: torch.device,
    left_out: LeftOut | None,
) -> tuple[MicroBatch, Features | None]:
    """The audio of a batch, and if the device is a CPU, its features."""
    batch = collate(utterances, left_out)
    if not batch.ids:  # sharded models must run a forward pass on every process, so feed silence
        batch.waveforms_BN = torch.zeros(1, utterances[0].samples)
        batch.samples_B = torch.tensor([utterances[0].samples])
    return (batch, _inputs(features, batch)) if device.type == "cpu" else (batch.pin_memory(), None)


def _inputs(features: FeatureExtractor, batch: MicroBatch) -> Features:
    return input_features(features, batch.waveforms_BN, batch.samples_B, batch.stored)


def _posteriors(
    models: Sequence[nn.Module], inputs: Features, ids: list[str], *, bf16: bool
) -> list[Posteriors]:
    # Do not use inference mode: tensors gathered by a sharded model inside it cannot be used outside.
    with torch.no_grad(), torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=bf16):
        outputs = [model(*inputs) for model in models]
    return [Posteriors(ids, x_BTV[: len(ids)].float(), lengths_B[: len(ids)]) for x_BTV, lengths_B in outputs]


def _blank_silence(found: Posteriors, batch: MicroBatch, seconds_per_frame: float) -> Posteriors:
    waveforms_BN = batch.waveforms_BN[: len(batch.ids)]
    return replace(found, log_probs_BTV=blank_silence(found.log_probs_BTV, waveforms_BN, seconds_per_frame))


def mean_posteriors(of_models: Sequence[Posteriors]) -> Posteriors:
    """The normalised geometric mean of the models' posteriors: the mean of log-probabilities.

    Raises:
        UserError: the models have different numbers of frames.
    """
    first = of_models[0]
    if len(of_models) == 1:
        return first
    if any(other.log_probs_BTV.shape != first.log_probs_BTV.shape for other in of_models):
        shapes = sorted({other.log_probs_BTV.shape[1] for other in of_models})
        raise UserError(
            f"the models have different numbers of frames for the same audio ({shapes}); use models with "
            "the same stride, or only one of them"
        )
    log_probs_BTV = torch.stack([other.log_probs_BTV for other in of_models]).mean(0).log_softmax(-1)
    return Posteriors(first.ids, log_probs_BTV, first.lengths_B)


def hypotheses(
    batch: Posteriors,
    tokenizer: Tokenizer,
    search: Search | None = None,
    confidence: Confidence = "frames",
) -> list[Hypothesis]:
    """Hypotheses of a batch, without times; greedy without a search."""
    paths = _paths(batch, search, confidence)
    rows = zip(batch.ids, paths.to_lists(), paths.confidence.tolist(), strict=True)
    return [Hypothesis(id_, tokenizer.decode(labels), sure, len(labels)) for id_, labels, sure in rows]


def timed_hypotheses(
    batch: Posteriors,
    tokenizer: Tokenizer,
    seconds_per_frame: float,
    search: Search | None = None,
    confidence: Confidence = "frames",
) -> Iterator[Hypothesis]:
    """Hypotheses of a batch with the times of their words; greedy without a search.

    Args:
        seconds_per_frame: audio per frame of the model's output.
    """
    paths = _paths(batch, search, confidence)
    spans = token_spans(paths.path, batch.log_probs_BTV, batch.lengths_B)
    tokens = timed_tokens(spans, tokenizer.surfaces, seconds_per_frame)
    for id_, utterance, sure in zip(batch.ids, tokens, paths.confidence.tolist(), strict=True):
        found = words(utterance)
        text = " ".join(word.text for word in found)
        yield Hypothesis(id_, text, sure, len(utterance), tuple(found))


def _paths(batch: Posteriors, search: Search | None, confidence: Confidence) -> Paths:
    best = greedy(batch.log_probs_BTV, batch.lengths_B)
    path_BT = best.path if search is None else search_path(search, batch.log_probs_BTV, batch.lengths_B)
    return labels_of_path(path_BT, best, batch.log_probs_BTV, batch.lengths_B, confidence)


@dataclass
class Recognizer:
    """Model, features and tokenizer of one checkpoint; see `asr_emapl.checkpoints.recognizer`.

    Attributes:
        problems: reasons why newer checkpoints could not be read and were skipped.
        path: path of the checkpoint; None if it was not loaded from a file.
    """

    model: nn.Module
    features: FeatureExtractor
    tokenizer: Tokenizer
    device: torch.device
    problems: list[str] = field(default_factory=list)
    path: Path | None = None

    def __call__(
        self, utterances: Sequence[Utterance], max_seconds: float = 120.0, left_out: LeftOut | None = None
    ) -> Iterator[Hypothesis]:
        """Greedy hypotheses without times, longest utterance first.

        Args:
            max_seconds: maximum padded audio of a batch.
            left_out: called with each utterance that cannot be decoded; it gets no hypothesis.

        Raises:
            UserError: an utterance cannot be decoded, and `left_out` is None.
        """
        with closing(self.posteriors(utterances, max_seconds, left_out)) as batches:
            for batch in batches:
                yield from hypotheses(batch, self.tokenizer)

    def posteriors(
        self,
        utterances: Sequence[Utterance],
        max_seconds: float = 120.0,
        left_out: LeftOut | None = None,
        blank_silent: bool = False,
    ) -> Generator[Posteriors, None, None]:
        """Log-probabilities of the utterances, in the same order and batches as in `__call__`."""
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

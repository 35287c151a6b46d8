"""Label the utterances of a manifest with one or several models, or from a file of hypotheses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from asr_emapl import storage
from asr_emapl.ctc import Confidence
from asr_emapl.data.utterance import Utterance
from asr_emapl.decoding.beam import BeamConfig, BeamSearch
from asr_emapl.decoding.spans import TimedText
from asr_emapl.decoding.transcribe import (
    Hypothesis,
    Posteriors,
    Recognizer,
    batch_posteriors,
    hypotheses,
    length_batches,
    mean_posteriors,
    timed_hypotheses,
)
from asr_emapl.decoding.transcript import word_record
from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.labelling import UtteranceLabel
from asr_emapl.runs.skipped import ALWAYS_ADMITTED
from asr_emapl.scoring.transcripts import read_utterances

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LabellingConfig:
    """Settings for labelling with models.

    Attributes:
        times: whether to return the times of the words.
        confidence: see `ctc.Confidence`.
        max_seconds: maximum padded audio of a batch.
        bf16: run the models with autocast to bfloat16.
        threads: number of threads that decode audio.
        max_undecodable: maximum share of a part's utterances that cannot be decoded.
    """

    times: bool = False
    confidence: Confidence = "frames"
    max_seconds: float = 120.0
    bf16: bool = False
    threads: int = 1
    max_undecodable: float = 0.01


class ModelLabeller:
    """Labels utterances with one or several models, by decoding the mean of their log-probabilities.

    Args:
        recognizers: models with the same tokenizer, features and stride.
        search: None: greedy decoding.
        provenance: see `model_provenance`.

    Raises:
        UserError: the recognizers have different tokenizers, features or strides.
    """

    def __init__(
        self,
        recognizers: Sequence[Recognizer],
        search: BeamSearch | None,
        config: LabellingConfig,
        provenance: dict[str, object],
    ) -> None:
        _require_alike(recognizers)
        self.recognizers, self.search, self.config = recognizers, search, config
        self.provenance: Mapping[str, object] = provenance
        beam = (search.config.lm, search.config.lexicon) if search else ()
        files = [*(recognizer.path for recognizer in recognizers), *beam]
        self.files: Sequence[str] = [str(Path(file).absolute()) for file in files if file]
        self._faults: dict[str, str] = {}

    def label(
        self, parts: Iterable[Sequence[Utterance]], advance: Callable[[float], None]
    ) -> Generator[list[UtteranceLabel], None, None]:
        """See `labelling.PartLabeller`. Audio of later parts is decoded while a part is labelled.

        Raises:
            UserError: too much audio of a part cannot be decoded, which indicates a faulty disk.
        """
        begun: deque[Sequence[Utterance]] = deque()

        def batches() -> Iterator[Sequence[Utterance]]:
            for utterances in parts:
                begun.append(utterances)
                yield from length_batches(utterances, self.config.max_seconds)

        first = self.recognizers[0]
        found = batch_posteriors(
            [recognizer.model for recognizer in self.recognizers],
            first.features,
            batches(),
            device=first.device,
            bf16=self.config.bf16,
            left_out=self._leave_out,
            blank_silent=True,
            threads=self.config.threads,
        )
        labels: dict[str, UtteranceLabel] = {}
        with closing(found):
            for batch, of_models in _queued(found):
                labels |= self._labels(batch, mean_posteriors(of_models))
                advance(sum(utterance.duration for utterance in batch))
                if len(labels) == len(begun[0]):
                    part = [labels[utterance.id] for utterance in begun.popleft()]
                    self._require_decodable(part)
                    labels = {}
                    yield part

    def _leave_out(self, utterance: Utterance, error: UserError) -> None:
        self._faults[utterance.id] = str(error)

    def _labels(self, batch: Sequence[Utterance], found: Posteriors) -> dict[str, UtteranceLabel]:
        by_id = {hypothesis.id: hypothesis for hypothesis in self._hypotheses(found)}
        labels = {}
        for utterance in batch:
            hypothesis = by_id.get(utterance.id)
            if hypothesis is None:
                labels[utterance.id] = UtteranceLabel(utterance, fault=self._faults.pop(utterance.id))
                continue
            labels[utterance.id] = UtteranceLabel(
                utterance,
                hypothesis.text,
                hypothesis.confidence,
                hypothesis.tokens,
                self._words(utterance, hypothesis.words),
            )
        return labels

    def _hypotheses(self, found: Posteriors) -> Iterable[Hypothesis]:
        tokenizer = self.recognizers[0].tokenizer
        if not self.config.times:
            return hypotheses(found, tokenizer, self.search, self.config.confidence)
        frame_seconds = self.recognizers[0].frame_seconds
        return timed_hypotheses(found, tokenizer, frame_seconds, self.search, self.config.confidence)

    def _words(self, utterance: Utterance, words: Sequence[TimedText]) -> list[dict[str, object]] | None:
        if not self.config.times:
            return None
        return [word_record(word, utterance.duration) for word in words]

    def _require_decodable(self, part: Sequence[UtteranceLabel]) -> None:
        faults = [label.fault for label in part if label.fault]
        if len(faults) > max(ALWAYS_ADMITTED, self.config.max_undecodable * len(part)):
            raise UserError(
                f"{len(faults)} of {len(part)} utterances of a part could not be decoded, more than "
                f"--max-undecodable {self.config.max_undecodable:g} allows; the last: {faults[-1]}"
            )


class HypothesisLabeller:
    """Reads labels from a file of hypotheses, in any format of `scoring.transcripts`. Tokens are characters.

    Args:
        needs_confidence: whether each hypothesis must have a confidence.

    Raises:
        UserError: the file cannot be read, or a confidence is missing.
    """

    def __init__(self, path: Path, *, needs_confidence: bool = False) -> None:
        self.path = path
        self.provenance: Mapping[str, object] = {"hypotheses": storage.sha256(path)}
        self.files: Sequence[str] = [str(path.absolute())]
        self._hypotheses = read_utterances(path, role="hypothesis")
        without = [id_ for id_, entry in self._hypotheses.items() if entry.confidence is None]
        if needs_confidence and without:
            raise UserError(
                f"{path}: {len(without)} hypotheses have no confidence, such as {without[0]}; "
                "omit --min-confidence"
            )

    def label(
        self, parts: Iterable[Sequence[Utterance]], advance: Callable[[float], None]
    ) -> Generator[list[UtteranceLabel], None, None]:
        """See `labelling.PartLabeller`."""
        for utterances in parts:
            yield [self._label(utterance) for utterance in utterances]
            advance(sum(utterance.duration for utterance in utterances))

    def _label(self, utterance: Utterance) -> UtteranceLabel:
        found = self._hypotheses.get(utterance.id)
        if found is None:
            return UtteranceLabel(utterance, fault=f"{self.path} has no hypothesis")
        text = " ".join(found.text.split())
        return UtteranceLabel(utterance, text, found.confidence, len(text))


def model_provenance(
    recognizers: Sequence[Recognizer], model: str, beam: BeamConfig | None, config: LabellingConfig
) -> dict[str, object]:
    """Everything that determines the labels of models: SHA-256 of the files and settings of the decoder."""
    decoder: dict[str, object] = {"search": "greedy"}
    if beam is not None:
        decoder = {
            "search": "beam",
            "beam": beam.beam,
            "lm": storage.sha256(beam.lm) if beam.lm else None,
            "lexicon": storage.sha256(beam.lexicon) if beam.lexicon else None,
            "lm_weight": beam.lm_weight,
            "word_bonus": beam.word_bonus,
        }
    precision = "bf16" if config.bf16 else "fp32"
    return {
        "checkpoints": [storage.sha256(r.path) for r in recognizers if r.path is not None],
        "model": model,
        "decoder": decoder | {"precision": precision, "times": config.times, "confidence": config.confidence},
    }


def _require_alike(recognizers: Sequence[Recognizer]) -> None:
    first = recognizers[0]
    for other in recognizers[1:]:
        kinds = {
            "tokenizers": first.tokenizer == other.tokenizer,
            "features": first.features.fingerprint == other.features.fingerprint,
            "strides": first.frame_seconds == other.frame_seconds,
        }
        if different := [kind for kind, is_equal in kinds.items() if not is_equal]:
            raise UserError(
                f"{first.path} and {other.path} have different {' and '.join(different)}; their posteriors "
                "cannot be averaged; use only one of them"
            )


def _queued(items: Iterable[T]) -> Iterator[T]:
    """Yield each item after the next one was requested, so that device and host work at the same time."""
    held: list[T] = []
    for item in items:
        held.append(item)
        if len(held) == 2:
            yield held.pop(0)
    yield from held

"""What becomes of pseudo-labels over audio: how they change, what they say, and why they are dropped.

The labels of a sample of utterances are compared with earlier labels of the same utterances. If the
unlabelled manifest has transcripts, they serve as references; they are not trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from asr_emapl.data.manifest_writer import as_record
from asr_emapl.data.utterance import Utterance
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.filters import similarity
from asr_emapl.pseudo_labels.label_samples import KEPT, LabelSamples, SampledLabel
from asr_emapl.pseudo_labels.label_statistics import errors_by_confidence, label_statistics
from asr_emapl.pseudo_labels.label_table import LabelTable
from asr_emapl.pseudo_labels.labels import Label
from asr_emapl.scoring.wer import word_edits
from asr_emapl.storage import finite_number
from asr_emapl.text.tokenizer import Tokenizer

SAMPLE = 2000
"""Maximum number of utterances that are compared."""

FOLLOWED = 10
"""Number of utterances whose labels are logged at each pass."""

# The step at which a label was seen, its utterance, its tokens, its confidence and why it was dropped.
_Seen = tuple[int, int, list[int], float, str]


class LabelMonitor:
    """Compares the labels of a sample of utterances with earlier labels and with transcripts.

    Args:
        utterances: the unlabelled corpus.
        seed: of the samples of kept and dropped labels.
    """

    def __init__(self, utterances: Sequence[Utterance], tokenizer: Tokenizer, seed: int = 0) -> None:
        self.utterances, self.tokenizer = utterances, tokenizer
        # Evenly spaced rows, so that each corpus of several is represented.
        rows = np.linspace(0, len(utterances) - 1, min(SAMPLE, len(utterances)), dtype=int)
        self._sample = set(rows.tolist())
        self._followed = set(
            rows[np.linspace(0, len(rows) - 1, min(FOLLOWED, len(rows)), dtype=int)].tolist()
        )
        self._references: dict[int, str] = {}
        self._previous = LabelTable(len(utterances))
        self._first: dict[int, list[int]] = {}  # tokens and words of the first label of each row
        self._seen: list[_Seen] = []
        self.samples = LabelSamples(seed)

    def observe(self, step: int, labels: Mapping[int, Label], reasons: Mapping[int, str]) -> None:
        """Note the labels of this process in a step.

        Args:
            labels: by row, including dropped ones.
            reasons: why labels are dropped, by row.
        """
        for row, label in labels.items():
            reason, draw = reasons.get(row, KEPT), self.samples.draw(step, row)
            if row in self._sample:
                self._seen.append((step, row, label.tokens, label.confidence, reason))
            if self.samples.may_enter(reason, draw):
                sampled = SampledLabel(draw, step, row, reason, tuple(label.tokens), label.confidence)
                self.samples.add([sampled])

    def collect(self, world: ProcessGroup) -> dict[str, Any]:
        """Describe the labels that all processes noted since the last call; the same on all processes.

        Returns:
            utterances: number of labels, and their `label_statistics`; audio: share of the audio that was
            kept, and dropped by reason; revisited: number of labels with an earlier one; changed: mean share
            of their tokens that changed since the previous pass; kept_tokens,
            kept_words: their tokens and words as a share of those of the first labels; label_wer: WER in
            percent of labels with a transcript, with `errors_by_confidence`; followed: labels of the followed
            utterances. Empty without labels.
        """
        seen, self._seen = self._merged(world), []
        self._merge_samples(world)
        if not seen:
            return {}
        labels = [tokens for _, _, tokens, _, _ in seen]
        texts = [self.tokenizer.decode(tokens) for tokens in labels]
        seconds = [self.utterances[row].duration for _, row, *_ in seen]
        audio: dict[str, float] = {}
        for (*_, reason), duration in zip(seen, seconds, strict=True):
            audio[reason] = audio.get(reason, 0.0) + duration
        return {
            "utterances": len(seen),
            **label_statistics(labels, texts, seconds),
            "audio": {reason: duration / sum(seconds) for reason, duration in audio.items()},
            **self._changes(seen, texts),
            **self._errors(seen, texts),
            **self._followed_labels(seen, texts),
        }

    def _changes(self, seen: Sequence[_Seen], texts: Sequence[str]) -> dict[str, float]:
        """Compare with the previous and the first label of each utterance."""
        changes, now, first = [], np.zeros(2), np.zeros(2)
        for (_, row, tokens, *_), text in zip(seen, texts, strict=True):
            size = [len(tokens), len(text.split())]
            if row in self._previous:
                changes.append(1.0 - similarity(self._previous.get(row).tokens, tokens))
                now, first = now + size, first + self._first[row]
            self._first.setdefault(row, size)
            self._previous.update({row: Label(tokens)})
        if not changes:
            return {}
        found = {"revisited": len(changes), "changed": sum(changes) / len(changes)}
        if first.all():
            found |= dict(zip(("kept_tokens", "kept_words"), (now / first).tolist(), strict=True))
        return found

    def _errors(self, seen: Sequence[_Seen], texts: Sequence[str]) -> dict[str, Any]:
        """Compare with transcripts."""
        known = [
            (reference, text, confidence)
            for (_, row, _, confidence, _), text in zip(seen, texts, strict=True)
            if (reference := self._reference(row))
        ]
        if not known:
            return {}
        references, hypotheses, confidences = map(list, zip(*known, strict=True))
        edits = word_edits(references, hypotheses)
        errors = edits.sum(0)
        rate = 100.0 * float(errors[:3].sum() / errors[3])
        return {"label_wer": rate, **errors_by_confidence(edits, confidences)}

    def _followed_labels(self, seen: Sequence[_Seen], texts: Sequence[str]) -> dict[str, Any]:
        followed = [
            {"id": self.utterances[row].id, "text": text, "confidence": finite_number(confidence)}
            for (_, row, _, confidence, _), text in zip(seen, texts, strict=True)
            if row in self._followed
        ]
        return {"followed": followed} if followed else {}

    def sampled(self) -> list[dict[str, Any]]:
        """The sample of kept and dropped labels, as manifest lines with the label as text."""
        return [
            as_record(self.utterances[label.row])
            | {
                "reason": label.reason,
                "step": label.step,
                "text": self.tokenizer.decode(list(label.tokens)),
                "confidence": finite_number(label.confidence),
                "transcript": self.utterances[label.row].text,
            }
            for label in self.samples.all()
        ]

    def state_dict(self, world: ProcessGroup) -> dict[str, Any]:
        """What a resume needs; call it on all processes."""
        seen = self._merged(world)
        self._seen = seen if world.is_first else []
        self._merge_samples(world)
        return {
            "previous": self._previous.state_dict(),
            "first": dict(self._first),
            "seen": seen,
            "samples": [astuple(label) for label in self.samples.all()],
        }

    def load_state_dict(self, state: dict[str, Any], world: ProcessGroup) -> None:
        """The inverse of `state_dict`."""
        self._previous.load_state_dict(state["previous"])
        self._first = {row: list(sizes) for row, sizes in state["first"].items()}
        self._seen = [(*seen,) for seen in state["seen"]] if world.is_first else []
        self.samples.add(SampledLabel(*label) for label in state["samples"])

    def _merged(self, world: ProcessGroup) -> list[_Seen]:
        """The notes of all processes, in the order of steps and rows."""
        return sorted(seen for of_rank in world.gather(self._seen) for seen in of_rank)

    def _merge_samples(self, world: ProcessGroup) -> None:
        """Give all processes the same samples."""
        for of_rank in world.gather(self.samples.all()):
            self.samples.add(of_rank)

    def _reference(self, row: int) -> str:
        """The transcript, if it is spelled as the labels are."""
        if row not in self._references:
            text = self.utterances[row].text or ""
            try:
                self.tokenizer.encode(text)
            except UserError:
                text = ""
            self._references[row] = text
        return self._references[row]

"""Monitor pseudo-labels during training: how they change, their content, and why they are dropped.

The labels of a sample of utterances are compared with earlier labels of the same utterances. If the
unlabelled manifest has transcripts, they serve as references; they are not trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any, NamedTuple

import numpy as np

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.corpus import Corpus
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.pseudo_labels.filters import KEPT
from asr_emapl.pseudo_labels.label_changes import LabelChanges
from asr_emapl.pseudo_labels.label_samples import LabelSamples, SampledLabel, label_record
from asr_emapl.pseudo_labels.label_statistics import errors_by_confidence, label_scores, label_statistics
from asr_emapl.pseudo_labels.labels import Label
from asr_emapl.pseudo_labels.transcripts import Transcripts
from asr_emapl.scoring.wer import word_edits
from asr_emapl.text.tokenizer import Tokenizer

SAMPLE = 2000
"""Maximum number of utterances that are compared."""

FOLLOWED = 10
"""Number of utterances whose labels are logged at each pass."""


class _Seen(NamedTuple):
    """A label that was seen in a step; `reason`: why it was dropped, or `KEPT`."""

    step: int
    row: int
    label: Label
    reason: str


class LabelMonitor:
    """Compares the labels of a sample of utterances with earlier labels and with transcripts.

    Args:
        corpus: the unlabelled corpus.
        seed: of the samples of kept and dropped labels.
        has_second: whether labels are compared with those of a second model.
    """

    def __init__(
        self, corpus: Corpus, tokenizer: Tokenizer, seed: int = 0, *, has_second: bool = False
    ) -> None:
        self.utterances, self.lengths, self.tokenizer = corpus.utterances, corpus.samples, tokenizer
        self.has_second = has_second
        # Evenly spaced rows, so that each corpus of several is represented.
        rows = _spaced(range(len(self.utterances)), SAMPLE)
        self._sample, self._followed = set(rows), set(_spaced(rows, FOLLOWED))
        self._transcripts = Transcripts(self.utterances, tokenizer)
        self._changes = LabelChanges(rows)
        self._seen: list[_Seen] = []
        self._audio = Counter[str]()  # samples of audio by reason, of all labels
        self.samples = LabelSamples(seed)

    def observe(self, step: int, labels: Mapping[int, Label], reasons: Mapping[int, str]) -> None:
        """Record the labels of this process in a step.

        Args:
            labels: by row, including dropped ones.
            reasons: why labels are dropped, by row.
        """
        for row, label in labels.items():
            reason, draw = reasons.get(row, KEPT), self.samples.draw(step, row)
            self._audio[reason] += int(self.lengths[row])
            if row in self._sample:
                self._seen.append(_Seen(step, row, label, reason))
            if self.samples.may_enter(reason, draw):
                sampled = SampledLabel(draw, step, row, reason, tuple(label.tokens), label.confidence)
                self.samples.add([sampled])

    def collect(self, world: ProcessGroup) -> dict[str, Any]:
        """Describe the labels that all processes noted since the last call; the same on all processes.

        Returns:
            audio_hours: hours of audio that were trained on ("kept"), and dropped by reason. Of the sample:
            utterances: number of labels, and their `label_statistics`; blank_share: mean share of blank
            frames; agreement: mean agreement with the second label; how they changed, see `LabelChanges`;
            label_wer: WER in percent of labels with a transcript, with `errors_by_confidence`; followed:
            labels of the followed utterances. Empty without labels.
        """
        self._merge(world)
        seen, audio, self._seen, self._audio = self._seen, self._audio, [], Counter()
        if not audio:
            return {}
        hours = {reason: count / SAMPLE_RATE_HZ / 3600.0 for reason, count in sorted(audio.items())}
        found: dict[str, Any] = {"utterances": len(seen), "audio_hours": hours}
        if not seen:
            return found
        labels = [one.label.tokens for one in seen]
        texts = [self._text(tokens) for tokens in labels]
        seconds = [float(self.lengths[one.row]) / SAMPLE_RATE_HZ for one in seen]
        words = [len(text.split()) for text in texts]
        changes = self._changes.compare(zip((one.row for one in seen), labels, words, strict=True))
        found |= (
            label_statistics(labels, texts, seconds)
            | label_scores([one.label for one in seen], has_second=self.has_second)
            | changes
        )
        return found | self._errors(seen, texts) | self._followed_labels(seen, texts)

    def _errors(self, seen: Sequence[_Seen], texts: Sequence[str]) -> dict[str, Any]:
        """Compare with transcripts."""
        known = [
            (reference, text, one.label.confidence)
            for one, text in zip(seen, texts, strict=True)
            if (reference := self._transcripts.get(one.row))
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
            label_record(self.utterances[one.row], one.step, text, one.label.confidence)
            for one, text in zip(seen, texts, strict=True)
            if one.row in self._followed
        ]
        return {"followed": followed} if followed else {}

    def sampled(self) -> list[dict[str, Any]]:
        """The sample of kept and dropped labels, as manifest lines with the label as text."""
        return [
            {"reason": one.reason}
            | label_record(self.utterances[one.row], one.step, self._text(one.tokens), one.confidence)
            for one in self.samples.all()
        ]

    def _text(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens))

    def state_dict(self, world: ProcessGroup) -> dict[str, Any]:
        """The state required for a resume; call it on all processes."""
        self._merge(world)
        state = {
            **self._changes.state_dict(),
            "seen": [(one.step, one.row, astuple(one.label), one.reason) for one in self._seen],
            "audio": dict(self._audio),
            "samples": [astuple(label) for label in self.samples.all()],
        }
        self._leave_to_first(world)
        return state

    def load_state_dict(self, state: dict[str, Any], world: ProcessGroup) -> None:
        """The inverse of `state_dict`."""
        self._changes.load_state_dict(state)
        self._seen = [_Seen(step, row, Label(*label), why) for step, row, label, why in state["seen"]]
        self._audio = Counter(state["audio"])
        self.samples.add(SampledLabel(*label) for label in state["samples"])
        self._leave_to_first(world)

    def _merge(self, world: ProcessGroup) -> None:
        """Give all processes the notes and samples of all, in the order of steps and rows."""
        ranks = world.gather((self._seen, self._audio, self.samples.all()))
        self._seen = sorted((one for seen, _, _ in ranks for one in seen), key=lambda one: one[:2])
        self._audio = sum((audio for _, audio, _ in ranks), Counter[str]())
        for _, _, sampled in ranks:
            self.samples.add(sampled)

    def _leave_to_first(self, world: ProcessGroup) -> None:
        """Drop what `_merge` adds up, except on the first process."""
        if not world.is_first:
            self._seen, self._audio = [], Counter()


def _spaced(rows: Sequence[int], count: int) -> list[int]:
    """At most `count` evenly spaced rows, with the first and the last."""
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=int).tolist()]

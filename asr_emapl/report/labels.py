"""Pseudo-labels of a run to look at: errors by confidence, followed utterances, kept and dropped labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from asr_emapl.data.utterance import Utterance, faults, parse_line
from asr_emapl.errors import UserError
from asr_emapl.report.run import Run
from asr_emapl.report.utterances import embedded

_PASSES = 12  # of a followed utterance that are shown


@dataclass(frozen=True)
class FollowedLabel:
    """A label of a followed utterance.

    Attributes:
        hours: of audio when it was made.
        confidence: of the labeller; None: unknown.
    """

    hours: float
    text: str
    confidence: float | None


@dataclass(frozen=True)
class SampledUtterance:
    """An utterance whose label was kept or dropped.

    Attributes:
        record: its line of label_samples.jsonl.
        audio: a `data:` URI, or "" if the audio could not be read.
    """

    record: dict[str, Any]
    audio: str


@dataclass(frozen=True)
class LabelsOfRun:
    """Attributes:
    run: number of the run on the page.
    wer_by_confidence: WER in percent of each tenth of the labels, the least confident first; empty: unknown.
    followed: id -> labels over audio; of many labels, evenly spaced ones.
    samples: reason -> utterances.
    """

    run: int
    wer_by_confidence: list[float]
    followed: dict[str, list[FollowedLabel]]
    samples: dict[str, list[SampledUtterance]]


def labels_of_runs(runs: Sequence[Run]) -> list[LabelsOfRun]:
    """What the runs logged of their labels; runs without labels are left out."""
    return [
        LabelsOfRun(number, _wer_by_confidence(run), _followed(run), _samples(run))
        for number, run in enumerate(runs)
        if run.labels
    ]


def _wer_by_confidence(run: Run) -> list[float]:
    known = [record for record in run.labels if {"decile_errors", "decile_words"} <= record.keys()]
    errors, words = (
        [sum(column) for column in zip(*(record[name] for record in known), strict=True)]
        for name in ("decile_errors", "decile_words")
    )
    return [100.0 * e / w if w else 0.0 for e, w in zip(errors, words, strict=True)]


def _followed(run: Run) -> dict[str, list[FollowedLabel]]:
    found: dict[str, list[FollowedLabel]] = {}
    for record in run.labels:
        for label in record.get("followed", ()):
            entry = FollowedLabel(record["hours"], label["text"], label["confidence"])
            found.setdefault(label["id"], []).append(entry)
    return {id_: _spaced(labels) for id_, labels in sorted(found.items())}


def _spaced(labels: list[FollowedLabel]) -> list[FollowedLabel]:
    """The first, the last and evenly spaced labels between them."""
    count = min(_PASSES, len(labels))
    return [labels[round(i * (len(labels) - 1) / max(1, count - 1))] for i in range(count)]


def _samples(run: Run) -> dict[str, list[SampledUtterance]]:
    groups = groupby(sorted(run.label_samples, key=_reason), key=_reason)
    return {reason: [_with_audio(record) for record in records] for reason, records in groups}


def _reason(record: dict[str, Any]) -> str:
    return str(record["reason"])


def _with_audio(record: dict[str, Any]) -> SampledUtterance:
    fields = parse_line(json.dumps(record).encode())
    if next(faults(fields), None) is not None:
        return SampledUtterance(record, "")
    try:
        return SampledUtterance(record, embedded(Utterance.of(fields, "")))
    except UserError:
        # Reports are often made on a machine that does not have the audio.
        return SampledUtterance(record, "")

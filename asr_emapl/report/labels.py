"""Pseudo-labels of a run to look at: errors by confidence, followed utterances, kept and dropped labels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from asr_emapl.data.utterance import Utterance, faults, parse_line
from asr_emapl.errors import UnreachableError
from asr_emapl.pseudo_labels.filters import KEPT, reason_of
from asr_emapl.report.player import Player
from asr_emapl.report.run import Run
from asr_emapl.scoring.alignment import Alignment, align

_PASSES = 12  # of a followed utterance that are shown
_PLAYERS = 240  # on the page, shared equally by its runs, because each holds its audio


@dataclass(frozen=True)
class ShownLabel:
    """A label, and what is known of it.

    Attributes:
        hours: of audio when it was made; None: unknown.
        confidence: of the labeller; None: unknown.
        alignment: with the transcript; None: there is none.
    """

    text: str
    hours: float | None
    confidence: float | None
    alignment: Alignment | None


@dataclass(frozen=True)
class LabelledUtterance:
    """An utterance with one or several labels, in the order in which they were made."""

    id: str
    labels: list[ShownLabel]
    player: Player


@dataclass(frozen=True)
class LabelSample:
    """Utterances whose labels were kept, or dropped for a reason.

    Attributes:
        reason: the name of a reason (`filters.reason_of`), or `KEPT`.
        description: what the reason means; "" of `KEPT`.
        hours: audio of all such labels of the run; None: unknown.
        share: of the audio of all labels.
    """

    reason: str
    description: str
    hours: float | None
    share: float
    utterances: list[LabelledUtterance]


@dataclass(frozen=True)
class LabelsOfRun:
    """Attributes:
    run: number of the run on the page.
    wer_by_confidence: WER in percent of each tenth of the labels, the least confident first; empty: unknown.
    followed: utterances with their labels over audio; of many labels, evenly spaced ones.
    samples: kept labels first, then dropped ones, those with the most audio first.
    """

    run: int
    wer_by_confidence: list[float]
    followed: list[LabelledUtterance]
    samples: list[LabelSample]


def labels_of_runs(runs: Sequence[Run]) -> list[LabelsOfRun]:
    """What the runs logged of their labels; runs without labels are left out."""
    shown = [(number, run) for number, run in enumerate(runs) if run.labels]
    players = _PLAYERS // max(1, len(shown))
    return [LabelsOfRun(number, _wer_by_confidence(run), *_utterances(run, players)) for number, run in shown]


def _wer_by_confidence(run: Run) -> list[float]:
    known = [record for record in run.labels if {"decile_errors", "decile_words"} <= record.keys()]
    errors, words = (
        [sum(column) for column in zip(*(record[name] for record in known), strict=True)]
        for name in ("decile_errors", "decile_words")
    )
    return [100.0 * e / w if w else 0.0 for e, w in zip(errors, words, strict=True)]


def _utterances(run: Run, players: int) -> tuple[list[LabelledUtterance], list[LabelSample]]:
    """Followed utterances, and the samples; `players` of them at most have audio, the followed ones last."""
    reader = _Reader({step["step"]: step["hours"] for step in run.steps if "step" in step}, players)
    followed: dict[str, list[dict[str, Any]]] = {}
    for record in run.labels:
        for label in record.get("followed", ()):
            followed.setdefault(label["id"], []).append({"hours": record["hours"]} | label)
    samples: dict[str, list[dict[str, Any]]] = {}
    for record in run.label_samples:
        samples.setdefault(record["reason"], []).append(record)
    hours = run.label_hours()
    order = sorted(samples, key=lambda reason: (reason != KEPT, -hours[reason], reason))
    sampled = [
        LabelSample(
            reason,
            "" if reason == KEPT else reason_of(reason).description,
            hours[reason] if hours else None,
            hours[reason] / (hours.total() or 1.0),
            [reader.utterance([record]) for record in samples[reason]],
        )
        for reason in order
    ]
    return [reader.utterance(_spaced(labels)) for _, labels in sorted(followed.items())], sampled


def _spaced(labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first, the last and evenly spaced labels between them."""
    count = min(_PASSES, len(labels))
    return [labels[round(i * (len(labels) - 1) / max(1, count - 1))] for i in range(count)]


class _Reader:
    """Reads what the page shows of labels, with their audio.

    Args:
        hours: hours of audio at each step.
        players: maximum number of utterances with audio.
    """

    def __init__(self, hours: dict[int, float], players: int) -> None:
        self._hours, self._players, self._used = hours, players, 0
        self._unreachable = ""  # why a server with audio could not be reached

    def utterance(self, records: Sequence[dict[str, Any]]) -> LabelledUtterance:
        """One utterance, from the records of its labels."""
        return LabelledUtterance(records[-1]["id"], list(self._labels(records)), self._player(records[-1]))

    def _labels(self, records: Iterable[dict[str, Any]]) -> Iterable[ShownLabel]:
        for record in records:
            transcript, step, hours = record.get("transcript"), record.get("step"), record.get("hours")
            alignment = align(transcript, record["text"], record["id"]) if transcript else None
            hours = self._hours.get(step, hours) if step is not None else hours
            yield ShownLabel(record["text"], hours, record["confidence"], alignment)

    def _player(self, record: dict[str, Any]) -> Player:
        if self._unreachable:
            return Player(problem=self._unreachable)  # not asked again for each utterance
        if self._used >= self._players:
            return Player(
                problem=f"the page has it for {self._players} utterances per run; report on fewer runs"
            )
        fields = parse_line(json.dumps(record).encode())
        fault = next(faults(fields), None)
        if fault is not None:
            return Player(problem=fault)
        try:
            player = Player.of(Utterance.of(fields, ""))
        except UnreachableError as error:
            self._unreachable = str(error)
            return Player(problem=self._unreachable)
        self._used += bool(player.audio)
        return player

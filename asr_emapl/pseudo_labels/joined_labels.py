"""Join the parts of a labelled manifest: filter the labels, count them, and write one manifest."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from asr_emapl import storage
from asr_emapl.errors import UserError, counted
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.filters import LabelCandidate, LabelFilters
from asr_emapl.pseudo_labels.label_parts import LabelParts, part_path

FilterMode = Literal["drop", "record"]
MANIFEST, SUMMARY = "manifest.jsonl", "summary.json"
_REMEDY = "delete it and rerun the same command"


@dataclass
class JoinedLabels:
    """Counts of the utterances of a labelled manifest, and their seconds of audio.

    Attributes:
        kept: number of utterances in the manifest.
        dropped: number dropped by a filter, by reason (`filters.REASONS`). With `record`, they are also in
            the manifest, except for empty labels.
        left_out: number without a label, because the audio cannot be decoded or there is no hypothesis.
        example: id of one of these utterances, with the reason.
    """

    kept: int = 0
    kept_seconds: float = 0.0
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    left_out: int = 0
    left_out_seconds: float = 0.0
    example: str = ""


def join_parts(folder: Path, parts: LabelParts, limits: PseudoLabelConfig, apply: FilterMode) -> JoinedLabels:
    """Write the manifest of all parts, atomically.

    The lines are those of the parts, in the order of the labelled manifest. A line is left out if it has no
    label, or if a filter drops it. With "record", lines that a filter drops are written with the reason as
    `filter`. Lines with an empty label are always left out, because a model cannot be trained on them.

    Raises:
        UserError: a part is missing or incomplete, no label is left, or the manifest cannot be written.
    """
    found = JoinedLabels()
    path = folder / MANIFEST
    filters = LabelFilters(limits)
    with storage.writing(path), storage.publish(path) as file:
        for number in range(len(parts)):
            for line in _kept_lines(folder, parts, number, filters, apply, found):
                file.write(line)
        if not found.kept:
            remedy = "relax the filters" if found.dropped else "fix the audio, and use another --out"
            raise UserError(f"{path}: no label is left of {_amount(found)}; {remedy}")
    return found


def summary(found: JoinedLabels, limits: PseudoLabelConfig, apply: str) -> dict[str, Any]:
    """The counts as primitives, with hours of audio."""

    def of(utterances: int, seconds: float) -> dict[str, float]:
        return {"utterances": utterances, "hours": round(seconds / 3600.0, 6)}

    names = ("min_confidence", "tokens_per_second")
    return {
        "manifest": of(found.kept, found.kept_seconds),
        "filter": {"apply": apply, **{name: getattr(limits, name) for name in names}},
        "dropped": {r: of(n, found.dropped_seconds[r]) for r, n in sorted(found.dropped.items())},
        "left_out": of(found.left_out, found.left_out_seconds),
    }


def _kept_lines(
    folder: Path,
    parts: LabelParts,
    number: int,
    filters: LabelFilters,
    apply: FilterMode,
    found: JoinedLabels,
) -> Iterator[bytes]:
    """The lines of a part that are written to the manifest; counts all lines of the part."""
    path, count, rows = part_path(folder, number), 0, parts.rows(number)
    if not path.is_file():
        raise UserError(
            f"{path}: is missing; make sure that all hosts share {folder}, and rerun the same command"
        )
    for place, line in storage.raw_lines(path, remedy=_REMEDY):
        try:
            record = storage.parse_object(line)
            seconds = float(record["duration"])
        except (storage.BrokenLineError, KeyError, TypeError) as error:
            raise UserError(f"{path}:{place}: not a line of a part ({error}); {_REMEDY}") from error
        count += 1
        if "left_out" in record:
            found.left_out += 1
            found.left_out_seconds += seconds
            found.example = found.example or f"{record['id']}: {record['left_out']}"
            continue
        reason = _reason(record, filters)
        if reason is not None:
            found.dropped[reason] += 1
            found.dropped_seconds[reason] += seconds
            if apply == "drop" or reason == "empty":
                continue
            line = json.dumps(record | {"filter": reason}, ensure_ascii=False).encode()
        found.kept += 1
        found.kept_seconds += seconds
        yield line + b"\n"
    if count != rows.stop - rows.start:
        raise UserError(f"{path}: has {count} of {rows.stop - rows.start} utterances; {_REMEDY}")


def _reason(record: dict[str, Any], filters: LabelFilters) -> str | None:
    """The reason to drop a label. It can be aligned: it is a path through the frames of its own model."""
    confidence = record.get("confidence", 1.0)  # null: not a number
    tokens = record["tokens"] if record["text"].strip() else 0  # a label of spaces alone is empty
    candidate = LabelCandidate(
        tokens=range(tokens),
        frames=tokens,
        seconds=record["duration"],
        confidence=math.nan if confidence is None else confidence,
    )
    return filters.reason_to_drop(candidate)


def _amount(found: JoinedLabels) -> str:
    reasons = [f"{count} {reason}" for reason, count in found.dropped.most_common()]
    reasons += [f"{found.left_out} left out ({found.example})"] if found.left_out else []
    return f"{counted(found.dropped.total() + found.left_out, 'utterance')} ({', '.join(reasons)})"

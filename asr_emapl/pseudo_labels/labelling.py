"""Label a manifest in parts, on any number of processes, and continue after an interruption.

plan.json         the settings that determine the labels; different settings in a later call are an error
parts/00012.jsonl the utterances of a part with their labels, or the reason why they have none; never changed
manifest.jsonl    the labels that can be trained on, joined when all parts are finished
summary.json      counts, hours, reasons
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from asr_emapl import storage
from asr_emapl.data.manifest import Manifest
from asr_emapl.data.manifest_writer import as_record
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.progress import Progress
from asr_emapl.pseudo_labels.joined_labels import MANIFEST, SUMMARY
from asr_emapl.pseudo_labels.label_parts import LabelParts, part_path
from asr_emapl.settings import setting_changes

if TYPE_CHECKING:
    from asr_emapl.distributed.process_group import ProcessGroup

_logger = logging.getLogger(__name__)
PLAN = "plan.json"
_VERSION = 1


@dataclass(frozen=True)
class UtteranceLabel:
    """The label of an utterance, or why it has none.

    Attributes:
        confidence: confidence in [0, 1], or NaN for a broken utterance; None: unknown.
        tokens: number of tokens of the text.
        words: with times in seconds from the beginning of the utterance, as they are written; None: not
            requested.
        fault: reason why there is no label; "" if there is one, which may be empty.
    """

    utterance: Utterance
    text: str = ""
    confidence: float | None = None
    tokens: int = 0
    words: list[dict[str, object]] | None = None
    fault: str = ""

    def record(self, provenance: Mapping[str, object]) -> dict[str, object]:
        """The fields of its line."""
        record = as_record(self.utterance)
        record.pop("text", None)  # a transcript in the manifest is not a label
        if self.fault:
            return record | {"left_out": self.fault}
        label: dict[str, object] = {"text": self.text, "tokens": self.tokens}
        if self.confidence is not None:
            label["confidence"] = None if math.isnan(self.confidence) else round(self.confidence, 4)
        if self.words is not None:
            label["words"] = self.words
        return record | label | {"provenance": provenance}


class PartLabeller(Protocol):
    """Makes labels for parts of a manifest.

    Attributes:
        provenance: everything besides the audio that determines the labels, as plain values; in each line.
        files: the files whose hashes are in `provenance`.
    """

    provenance: Mapping[str, object]
    files: Sequence[str]

    def label(
        self, parts: Iterable[Sequence[Utterance]], advance: Callable[[float], None]
    ) -> Generator[list[UtteranceLabel], None, None]:
        """Yield the labels of each part, in the order of its utterances. May read parts ahead.

        Args:
            advance: called with seconds of audio that are done.
        """
        ...


@dataclass(frozen=True)
class LabelledAudio:
    """Audio labelled in one call by all processes, and wall-clock time, in seconds."""

    audio_seconds: float
    seconds: float

    @property
    def speed(self) -> float:
        """Hours of audio per hour."""
        return self.audio_seconds / max(self.seconds, 1e-9)


def label_manifest(
    manifest: Manifest, parts: LabelParts, folder: Path, labeller: PartLabeller, world: ProcessGroup
) -> LabelledAudio:
    """Label the parts of a manifest that are missing in `folder`; called in each process.

    Raises:
        UserError: the folder has labels of another manifest or with other settings, or audio cannot be read.
    """
    missing: list[int] = []
    if world.is_first:
        require_plan(folder, _plan(manifest, parts, labeller))
        missing = parts.missing(folder)
        if len(missing) == len(parts) < world.size:
            _logger.warning(
                "%d parts for %d processes: shorter parts (--part-hours) would use them all",
                len(parts),
                world.size,
            )
    missing = world.gather(missing)[0]
    mine = parts.share(missing, world.rank, world.size)
    start = time.monotonic()
    of_process = f" (process 0 of {world.size})" if world.size > 1 else ""
    name = f"labelling {storage.split(manifest.path)[1]}{of_process}"
    utterances = (manifest[parts.rows(number)] for number in mine)
    with (
        Progress(name, parts.seconds(mine), is_shown=world.is_first) as progress,
        closing(labeller.label(utterances, progress.advance)) as labelled,
    ):
        for number, labels in zip(mine, labelled, strict=True):
            _write_part(folder, number, labels, labeller.provenance)
    world.barrier()
    return LabelledAudio(parts.seconds(missing), time.monotonic() - start)


def require_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Write the settings that determine the labels in `folder`, or compare them with an existing plan.

    Raises:
        UserError: something differs; the message names it.
    """
    path = folder / PLAN
    if not path.exists():
        # Files of these names were written by something else.
        storage.check_outputs([folder / name for name in (PLAN, MANIFEST, SUMMARY)], overwrite=False)
        storage.write(path, json.dumps(plan, indent=2, ensure_ascii=False) + "\n")
        return
    written = storage.read_object(path, "the plan of asr-emapl label")
    changes = dict(setting_changes(written, plan))
    if changes.keys() - {"files"}:  # a file may be moved
        listed = "; ".join(changes.values())
        raise UserError(
            f"{folder}: has labels that were made with other settings ({listed}); restore them, or name "
            "another --out"
        )


def _plan(manifest: Manifest, parts: LabelParts, labeller: PartLabeller) -> dict[str, Any]:
    source = storage.join(manifest.folder, storage.split(manifest.path)[1])
    return {
        "version": _VERSION,
        "manifest": {"path": source, "content": manifest.content_hash(), "utterances": len(manifest)},
        "part_hours": parts.hours,
        "parts": len(parts),
        **labeller.provenance,
        "files": list(labeller.files),
    }


def _write_part(
    folder: Path, number: int, labels: Iterable[UtteranceLabel], provenance: Mapping[str, object]
) -> None:
    lines = (json.dumps(label.record(provenance), ensure_ascii=False, allow_nan=False) for label in labels)
    storage.write(part_path(folder, number), (f"{line}\n" for line in lines))

"""The list of utterances that could not be decoded; too many of them end the run."""

from __future__ import annotations

import json
import logging
from collections import deque
from dataclasses import asdict
from pathlib import Path

from asr_emapl.data.step_batch import Skipped
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError
from asr_emapl.runs.reader import SKIPPED, read_skipped
from asr_emapl.storage import require_file

WINDOW = 10_000
"""Number of last utterances, over all processes, whose skipped share is limited: detects failing disks."""

ALWAYS_ADMITTED = 20
"""Utterances per window that may be skipped regardless of their share."""

_logger = logging.getLogger(__name__)


class SkippedList:
    """Writes skipped.jsonl: one line per utterance when it is skipped for the first time.

    Args:
        folder: the run directory.
        max_share: maximum share of a window's utterances that may be skipped.
        keep: append to the existing list; otherwise it is removed.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, group: ProcessGroup, max_share: float, *, keep: bool) -> None:
        self.group, self.max_share = group, max_share
        self.path = folder / SKIPPED
        require_file(self.path)
        self._recent: deque[tuple[int, int]] = deque()
        self._read = self._skipped = 0
        self._listed = _listed_ids(self.path) if keep and group.is_first else set()
        if not keep and group.is_first:
            self.path.unlink(missing_ok=True)

    def step(self, mine: list[Skipped], *, read: int, skipped: int) -> None:
        """Count one step.

        Args:
            mine: skipped utterances of this process.
            read: number of utterances of the step on all processes, including skipped ones.
            skipped: number of skipped utterances on all processes.

        Raises:
            UserError: too many utterances were skipped; on all processes at the same step.
        """
        self._count(read, skipped)
        if not skipped:
            return
        of_all = [one for part in self.group.gather(mine) for one in part]
        if self.group.is_first:
            self._write(of_all)
        if self._skipped > max(ALWAYS_ADMITTED, self.max_share * self._read):
            raise UserError(
                f"{self._skipped} of the last {self._read} utterances could not be decoded, more than "
                f"data.max_skipped_share={self.max_share:g} allows; {self.path} lists them, the last is "
                f"{of_all[-1].id} ({of_all[-1].why})"
            )

    def _count(self, read: int, skipped: int) -> None:
        self._recent.append((read, skipped))
        self._read, self._skipped = self._read + read, self._skipped + skipped
        while self._read - self._recent[0][0] >= WINDOW:
            read, skipped = self._recent.popleft()
            self._read, self._skipped = self._read - read, self._skipped - skipped

    def _write(self, skipped: list[Skipped]) -> None:
        new = {one.id: one for one in skipped if one.id not in self._listed}
        if not new:
            return
        if not self._listed:
            _logger.warning("skipped: %s; %s lists all skipped utterances", skipped[0].why, self.path)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(one)) + "\n" for one in new.values())
        self._listed |= new.keys()


def _listed_ids(path: Path) -> set[str]:
    """Ids in the list; removes an incomplete last line of a killed run."""
    if not path.exists():
        return set()
    complete = path.read_bytes().rpartition(b"\n")
    with path.open("r+b") as file:
        file.truncate(len(complete[0]) + len(complete[1]))
    return {record["id"] for record in read_skipped(path)}

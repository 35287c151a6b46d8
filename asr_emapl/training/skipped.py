"""Audio that could not be decoded: listed in the run directory, and a reason to stop once it is too much."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict
from pathlib import Path

from asr_emapl.data.loader import Skipped
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError
from asr_emapl.runs.reader import read_skipped
from asr_emapl.terminal import say
from asr_emapl.training.step import StepResult

# The share is that of the last so many utterances, over all processes: a disk that fails late is noticed too.
WINDOW = 10_000
# So many are skipped in a window whatever their share: of the first hundred utterances, one is a percent.
ALWAYS_ADMITTED = 20


class SkippedList:
    """skipped.jsonl: a line for each utterance, written when it is skipped for the first time.

    Args:
        folder: the run directory.
        max_share: of a window's utterances that may be skipped.
        keep: go on with the list that is there; else it begins anew.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, world: ProcessGroup, max_share: float, *, keep: bool) -> None:
        self.world, self.max_share = world, max_share
        self.path = folder / "skipped.jsonl"
        self._recent: deque[tuple[int, int]] = deque()
        self._read = self._skipped = 0
        self._listed = _ids(self.path) if keep and world.first else set()
        if not keep and world.first:
            self.path.unlink(missing_ok=True)

    def step(self, mine: list[Skipped], result: StepResult) -> None:
        """Count one step: this process's skipped utterances, and what became of the step over all.

        Raises:
            UserError: too much is skipped; on all processes at the same step.
        """
        skipped = result.dropped["undecodable"]
        self._count(result.utterances + sum(result.dropped.values()), skipped)
        if not skipped:
            return
        everybody = [one for part in self.world.gather(mine) for one in part]
        if self.world.first:
            self._write(everybody)
        if self._skipped > max(ALWAYS_ADMITTED, self.max_share * self._read):
            raise UserError(
                f"{self._skipped} of the last {self._read} utterances could not be decoded, more than "
                f"data.max_skipped_share={self.max_share:g} admits; {self.path} lists them, the last is "
                f"{everybody[-1].id} ({everybody[-1].why})"
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
            say(f"warning: skipped: {skipped[0].why}; {self.path} lists all that is")
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(one)) + "\n" for one in new.values())
        self._listed |= new.keys()


def _ids(path: Path) -> set[str]:
    """Of the utterances listed; a last line that a killed run left in pieces is cut off."""
    if not path.exists():
        return set()
    whole = path.read_bytes().rpartition(b"\n")
    with path.open("r+b") as file:
        file.truncate(len(whole[0]) + len(whole[1]))
    return {record["id"] for record in read_skipped(path)}

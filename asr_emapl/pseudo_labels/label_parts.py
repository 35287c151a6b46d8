"""The parts in which a manifest is labelled: their rows, their files, and the process that labels each.

Parts depend only on the manifest and their length, so that any number of processes can continue with the
parts that are missing.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.permutation import Indices

FOLDER = "parts"
_NAME = re.compile(r"([0-9]{5,})\.jsonl")


@dataclass(frozen=True)
class LabelParts:
    """Consecutive rows of a manifest.

    Attributes:
        ends: row after the last one of each part.
        samples: audio of each part.
        hours: approximate length of a part.
    """

    ends: tuple[int, ...]
    samples: tuple[int, ...]
    hours: float

    @staticmethod
    def of(samples: Indices, hours: float) -> LabelParts:
        """Parts of about `hours` of audio; an utterance belongs to the part in which it begins.

        Args:
            samples: length of each utterance, int64 [utterances].
        """
        limit = max(1, round(hours * 3600 * SAMPLE_RATE_HZ))
        ends = np.cumsum(samples)
        part = (ends - samples) // limit
        last = np.flatnonzero(np.append(part[1:] != part[:-1], True))
        audio = np.diff(ends[last], prepend=0)
        return LabelParts(tuple((last + 1).tolist()), tuple(audio.tolist()), hours)

    def __len__(self) -> int:
        return len(self.ends)

    def rows(self, number: int) -> slice:
        """The rows of a part."""
        return slice(self.ends[number - 1] if number else 0, self.ends[number])

    def seconds(self, numbers: Iterable[int]) -> float:
        """Audio of these parts."""
        return sum(self.samples[number] for number in numbers) / SAMPLE_RATE_HZ

    def share(self, numbers: Iterable[int], rank: int, world_size: int) -> list[int]:
        """Which of these parts a process labels: each process gets about the same audio."""
        loads = [(0, other) for other in range(world_size)]
        mine = []
        for number in sorted(numbers, key=lambda number: (-self.samples[number], number)):
            load, chosen = heapq.heappop(loads)
            heapq.heappush(loads, (load + self.samples[number], chosen))
            if chosen == rank:
                mine.append(number)
        return sorted(mine)

    def missing(self, folder: Path) -> list[int]:
        """The parts that have no file yet."""
        names = folder.joinpath(FOLDER).iterdir() if folder.joinpath(FOLDER).is_dir() else ()
        found = {int(match[1]) for path in names if (match := _NAME.fullmatch(path.name))}
        return [number for number in range(len(self)) if number not in found]


def part_path(folder: Path, number: int) -> Path:
    """The file of a part. It appears when the part is complete, and never changes after that."""
    return folder / FOLDER / f"{number:05d}.jsonl"

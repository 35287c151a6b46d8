"""The checkpoints of one run, by step, and which of them stay."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from asr_emapl.checkpoints.files import State, load, save
from asr_emapl.errors import UserError
from asr_emapl.storage.atomic import replace_link

# As `CheckpointFolder.path` writes it. What else lies there (step-final.pt, step-000000004-average.pt) is the
# user's.
_NAME = re.compile(r"step-([0-9]{9,})\.pt")


@dataclass
class CheckpointConfig:
    """When a run is saved, and what stays on the disk."""

    # Hours of audio between checkpoints; 0: only at the end.
    every_hours: float = field(default=1.0, metadata={"least": 0.0, "most": 1e9})
    # How many of the newest stay.
    keep: int = field(default=2, metadata={"least": 1, "most": 2**31})
    # The one with the teacher's lowest WER stays too, saved when it is measured: on this validation split, or
    # "mean" over all of them; null: none stays for its WER.
    best_by: str | None = "mean"
    # One every so many hours of audio stays for good; 0: none.
    keep_every_hours: float = field(default=0.0, metadata={"least": 0.0, "most": 1e9})
    # With the mean of the weights so far (float64), for `asr-emapl average`.
    running_mean: bool = False

    def require(self, splits: Collection[str]) -> None:
        """Refuse a `best_by` that is none of the validation splits.

        Raises:
            UserError: it is not.
        """
        if self.best_by not in (None, "mean", *splits):
            names = ", ".join(["null", "mean", *splits])
            raise UserError(f"checkpoint.best_by {self.best_by!r} is none of {names}")

    def selection_wer(self, rates: Mapping[str, float], splits: Collection[str]) -> float | None:
        """Of the rates by "model/split", the teacher's by which the best is chosen.

        None if there is none, or not for all of the splits over which the mean is to be taken.
        """
        if self.best_by != "mean" or "mean" in splits:
            return rates.get(f"teacher/{self.best_by}")
        teacher = [rates[f"teacher/{split}"] for split in splits if f"teacher/{split}" in rates]
        return sum(teacher) / len(teacher) if splits and len(teacher) == len(splits) else None


class CheckpointFolder:
    """The newest `keep` checkpoints of a run, the best, and those that stay for good.

    `best.pt` is a link to the best one. Which ones stay is itself part of each checkpoint, under "kept".
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, max(1, keep)
        self._kept: State = {"best": None, "rate": math.inf, "for_good": []}
        self._lowest = math.inf

    def paths(self) -> list[Path]:
        """The checkpoints of steps, oldest first; no other file, whatever it is called."""
        found = ((_NAME.fullmatch(path.name), path) for path in self.folder.glob("step-*.pt"))
        return [path for _, path in sorted((int(n[1]), path) for n, path in found if n and path.is_file())]

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies, or would."""
        return self.folder / f"step-{step:09d}.pt"

    def record_if_best(self, rate: float | None) -> bool:
        """Whether a word error rate is lower than all that this was asked about before; NaN never is."""
        if rate is None or not rate < self._lowest:
            return False
        self._lowest = rate
        return True

    def write(self, step: int, state: State, *, rate: float | None = None, for_good: bool = False) -> Path:
        """Save, and only then remove what is no longer kept.

        Args:
            rate: word error rate by which the best is chosen, if it was measured at this step; if it is
                measured later, `choose` takes it.
            for_good: never remove this one.

        Raises:
            OSError: it cannot be written; the others are as they were, and so is which of them is best.
        """
        kept = dict(self._kept)
        if rate is not None and rate < kept["rate"]:
            kept |= {"best": step, "rate": rate}
        if for_good:
            kept["for_good"] = [*kept["for_good"], step]
        path = self.path(step)
        save(path, state | {"kept": kept})
        self._kept = kept
        self._tidy(path)
        return path

    def choose(self, step: int, rate: float) -> None:
        """Take the checkpoint of a step, the last that was written, as the best.

        Which one is best is stored in the next checkpoint: a run that goes on from this one has to call this
        again.
        """
        self._kept |= {"best": step, "rate": rate}
        self._tidy(self.path(step))

    def _tidy(self, newest: Path) -> None:
        """Link the best, and remove what is no longer kept."""
        paths = self.paths()
        # A later one was passed over as torn when the run went on from an earlier one.
        until = paths.index(newest) + 1
        stay = {*paths[max(0, until - self.keep) : until], *map(self.path, self._kept["for_good"])}
        if self._kept["best"] is not None:
            stay.add(self.path(self._kept["best"]))
            self._link(self.path(self._kept["best"]))
        for other in paths:
            if other not in stay:
                other.unlink(missing_ok=True)

    def _link(self, best: Path) -> None:
        # Some file systems have no links; the run's log says which one is best.
        with contextlib.suppress(OSError):
            replace_link(self.folder / "best.pt", best.name)

    def newest(self) -> tuple[Path, State, list[str]] | None:
        """The newest checkpoint that can be read, and what was wrong with newer ones; None if there are none.

        Raises:
            UserError: there are checkpoints, but none that can be read.
        """
        problems: list[str] = []
        for path in reversed(self.paths()):
            try:
                return path, load(path), problems
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError(f"no checkpoint in {self.folder} can be read: {'; '.join(problems)}")
        return None

    def go_on_from(self, state: State) -> None:
        """Keep what was kept when `state`, a checkpoint of this folder, was written."""
        self._kept = dict(state.get("kept", self._kept))
        # A later one had taken its place, and is torn.
        if self._kept["best"] is not None and not self.path(self._kept["best"]).exists():
            self._kept |= {"best": None, "rate": math.inf}
        self._lowest = self._kept["rate"]

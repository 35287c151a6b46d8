"""Save the checkpoints of a run; keep the newest ones, the best one and permanent ones."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from asr_emapl.checkpoints.async_save import BackgroundSave, Saved
from asr_emapl.checkpoints.files import (
    Found,
    State,
    checkpoint_path,
    checkpoint_paths,
    newest_checkpoint,
    save,
)
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError
from asr_emapl.settings import PositiveCount, PositiveHours
from asr_emapl.storage import replace_link


@dataclass
class CheckpointConfig:
    """When to save checkpoints, and which ones to keep."""

    every_hours: PositiveHours | None = 1.0
    """Hours of audio between checkpoints; null: only at the end."""
    keep: PositiveCount = 2
    """Number of newest checkpoints to keep."""
    best_by: str | None = "mean"
    """Also keep the checkpoint with the teacher's lowest WER on this validation split; mean: mean WER over
    all splits; null: none."""
    keep_every_hours: PositiveHours | None = None
    """Hours of audio between checkpoints that are never removed; null: none."""
    running_mean: bool = False
    """Save the mean of all weights so far (float64), for `asr-emapl average`."""
    bias_corrected: bool = False
    """Save a bias-corrected average of the weights (BEMA), for `asr-emapl average --bias-corrected`."""

    def require(self, splits: Collection[str]) -> None:
        """Check that `best_by` is a validation split, "mean" or None.

        Raises:
            UserError: it is not.
        """
        if self.best_by not in (None, "mean", *splits):
            names = ", ".join(["null", "mean", *splits])
            raise UserError(f"checkpoint.best_by {self.best_by!r} is not one of {names}")

    def selection_wer(self, rates: Mapping[str, float], splits: Collection[str]) -> float | None:
        """The teacher's WER by which the best checkpoint is selected, from rates by "model/split".

        None if it is missing; for the mean, if it is missing for any split.
        """
        if self.best_by != "mean" or "mean" in splits:
            return rates.get(f"teacher/{self.best_by}")
        teacher = [rates[f"teacher/{split}"] for split in splits if f"teacher/{split}" in rates]
        return sum(teacher) / len(teacher) if splits and len(teacher) == len(splits) else None


class CheckpointManager:
    """Saves a run's checkpoints. All processes call it at the same points; process 0 writes.

    `best.pt` links to the best checkpoint. Each checkpoint lists the ones that are kept ("kept").

    Args:
        splits: names of the validation splits.
        report: called with the result of each save.

    Attributes:
        step: step of the last checkpoint; 0 if there is none.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        splits: Collection[str],
        group: ProcessGroup,
        report: Callable[[Saved], None],
    ) -> None:
        self.folder, self.config, self.splits, self.group = folder, config, splits, group
        self.step = 0
        self._kept: State = {"best": None, "rate": math.inf, "for_good": []}
        self._lowest = math.inf
        self._saving = BackgroundSave(report)
        self.wait, self.poll = self._saving.wait, self._saving.poll

    def restore(self) -> Found | None:
        """Load the newest checkpoint, and its list of kept checkpoints."""
        found = newest_checkpoint(self.folder)
        if found is not None:
            self.step = found[1]["step"]
            self._kept = dict(found[1].get("kept", self._kept))
            # It was replaced by a later best checkpoint, which cannot be read.
            best = self._kept["best"]
            if best is not None and not checkpoint_path(self.folder, best).exists():
                self._kept |= {"best": None, "rate": math.inf}
            self._lowest = self._kept["rate"]
        return found

    def save(self, step: int, state: State, rate: float | None = None, *, for_good: bool = False) -> None:
        """Copy the state, and write it in the background.

        Args:
            rate: WER by which the best checkpoint is selected, if measured at this step.
            for_good: never remove this checkpoint.
        """
        self.step = step
        if self.group.sharded:
            from asr_emapl.distributed.fsdp import gather_state  # DTensor is slow to import

            state = gather_state(state, keep=self.group.is_first)
        if self.group.is_first:
            self._saving.start(step, state, lambda copy: self._write(step, copy, rate, for_good))

    def keep_best(self, step: int, rates: dict[str, float], save: Callable[[float | None], None]) -> None:
        """Keep the checkpoint of a step as the best if its selection WER is the lowest so far.

        Args:
            rates: WER of the validation at this step, by "model/split".
            save: called with the selection WER, on all processes, if the checkpoint was not written.
        """
        rate = self.config.selection_wer(rates, self.splits)
        is_best = self.group.is_first and self.record_if_best(rate)
        last = self._saving.finish() if is_best else None
        is_missing = self.step != step or (last is not None and last.failure is not None)
        if self.group.all_reduce_sum([float(is_best and is_missing)])[0] > 0.0:
            save(rate)
        elif is_best:
            # The next checkpoint stores which one is best; a run that resumes from this one repeats the call.
            self._kept |= {"best": step, "rate": rate}
            self._remove_others(checkpoint_path(self.folder, step))

    def record_if_best(self, rate: float | None) -> bool:
        """Record a WER if it is the lowest so far, and return whether it is; NaN never is."""
        if rate is None or not rate < self._lowest:
            return False
        self._lowest = rate
        return True

    def last(self) -> Path | None:
        """Wait for the last checkpoint and return its path; None if there is none, or on other processes.

        Raises:
            UserError: it could not be written.
        """
        if not self.group.is_first or self.step == 0:
            return None
        return self._saving.last() or checkpoint_path(self.folder, self.step)

    def _write(self, step: int, state: State, rate: float | None, for_good: bool) -> Path:
        """Write a checkpoint, and only then remove those no longer kept."""
        kept = dict(self._kept)
        if rate is not None and rate < kept["rate"]:
            kept |= {"best": step, "rate": rate}
        if for_good:
            kept["for_good"] = [*kept["for_good"], step]
        path = checkpoint_path(self.folder, step)
        save(path, state | {"kept": kept})
        self._kept = kept
        self._remove_others(path)
        return path

    def _remove_others(self, newest: Path) -> None:
        """Link the best checkpoint, and remove those no longer kept."""
        paths = checkpoint_paths(self.folder)
        # Checkpoints of later steps could not be read when the run resumed.
        until = paths.index(newest) + 1
        steps = {*self._kept["for_good"], *({self._kept["best"]} - {None})}
        stay = {newest, *paths[max(0, until - self.config.keep) : until]}
        stay |= {checkpoint_path(self.folder, step) for step in steps}
        if self._kept["best"] is not None:
            with contextlib.suppress(OSError):  # some file systems have no links
                replace_link(self.folder / "best.pt", checkpoint_path(self.folder, self._kept["best"]).name)
        for other in paths:
            if other not in stay:
                other.unlink(missing_ok=True)

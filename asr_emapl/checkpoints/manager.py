"""Saves a run while it trains, and keeps the best of what was saved."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from asr_emapl.checkpoints.async_save import BackgroundSave, Saved
from asr_emapl.checkpoints.files import State
from asr_emapl.checkpoints.folder import CheckpointFolder
from asr_emapl.distributed.fsdp import gather
from asr_emapl.distributed.process_group import ProcessGroup


class CheckpointManager:
    """Called by all processes at the same points of the run; process 0 writes.

    Args:
        selection_wer: of the rates of a validation, the one by which the best is chosen, if there is one.
        step: whose checkpoint the run goes on from; 0: none.
        report: called with what became of each checkpoint.
    """

    def __init__(
        self,
        checkpoints: CheckpointFolder,
        selection_wer: Callable[[dict[str, float]], float | None],
        world: ProcessGroup,
        step: int,
        report: Callable[[Saved], None],
    ) -> None:
        self.checkpoints, self.selection_wer, self.world, self.step = checkpoints, selection_wer, world, step
        self._saving = BackgroundSave(report)
        self.wait, self.poll = self._saving.wait, self._saving.poll

    def save(self, step: int, state: State, rate: float | None, *, for_good: bool) -> None:
        """Copy the state, and write it while training goes on; see `CheckpointFolder.write`."""
        self.step = step
        state = gather(state, keep=self.world.first)
        if self.world.first:
            write = functools.partial(self.checkpoints.write, step, rate=rate, for_good=for_good)
            self._saving.start(step, state, write)

    def keep_best(self, step: int, rates: dict[str, float], save: Callable[[float | None], None]) -> None:
        """Keep the checkpoint of a step as the best if its selection_wer rate is the lowest so far.

        Args:
            rates: of the validation at this step, by "model/split".
            save: called with the selection_wer rate, on all processes, if the checkpoint is not there.
        """
        rate = self.selection_wer(rates)
        best = self.world.first and self.checkpoints.record_if_best(rate)
        last = self._saving.finish() if best else None
        absent = self.step != step or (last is not None and last.failure is not None)
        if self.world.all_reduce_sum([float(best and absent)])[0] > 0.0:
            save(rate)
        elif best and rate is not None:
            self.checkpoints.choose(step, rate)

    def last(self) -> Path | None:
        """Where the last checkpoint lies, once it is there; None on processes other than the first.

        Raises:
            UserError: it could not be written.
        """
        if not self.world.first:
            return None
        return self._saving.last() if self._saving.finish() else self.checkpoints.path(self.step)

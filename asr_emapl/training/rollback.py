"""Go back to a healthy checkpoint with a slower teacher, after pseudo-labels have collapsed."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from asr_emapl.checkpoints.files import checkpoint_path, checkpoint_paths
from asr_emapl.config import RunConfig
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.label_guard import CollapsedLabelsError
from asr_emapl.runs.line_file import LineFile
from asr_emapl.runs.reader import CHECKPOINTS, ROLLBACKS, read_rollbacks
from asr_emapl.terminal import RUN_LOGGER

Result = TypeVar("Result")

FACTOR = 2.0
"""Each time, the half-life of the teacher is multiplied by this."""

MOST = 3
"""Number of times that a run goes back before it stops."""


def with_rollbacks(config: RunConfig, world: ProcessGroup, run: Callable[[RunConfig], Result]) -> Result:
    """The result of `run`; after a collapse, it runs again if `on_collapse` is slower_teacher.

    Args:
        run: trains with a config, resuming from the newest checkpoint.

    Raises:
        UserError: see `go_back`.
    """
    while True:
        try:
            return run(with_slower_teacher(config))
        except CollapsedLabelsError as error:
            if config.pseudo_labels.on_collapse != "slower_teacher":
                raise
            outcome = go_back(Path(config.run_dir), error, world)
        if world.is_first:
            logging.getLogger(RUN_LOGGER).info(outcome)
        gc.collect()  # the models of the run that collapsed


def with_slower_teacher(config: RunConfig) -> RunConfig:
    """The config with the half-life that results from the times that the run went back."""
    times = len(read_rollbacks(Path(config.run_dir)))
    factor = config.teacher.half_life_factor * FACTOR**times
    return replace(config, teacher=replace(config.teacher, half_life_factor=factor))


def go_back(folder: Path, error: CollapsedLabelsError, world: ProcessGroup) -> str:
    """Set aside the checkpoints after the last healthy step, so that the run resumes from that step.

    They are moved to `checkpoints/collapsed`. Call it on all processes.

    Returns:
        What was done.

    Raises:
        UserError: there is no checkpoint of a healthy step, or the run went back `MOST` times.
    """
    before = len(read_rollbacks(folder))
    paths = checkpoint_paths(folder / CHECKPOINTS)
    healthy = [path for path in paths if path <= checkpoint_path(path.parent, error.alarm.healthy_step)]
    world.barrier()  # all processes have read the folder
    if before >= MOST:
        raise UserError(f"{error} (the run has gone back {before} times)") from error
    if not healthy:
        raise UserError(
            f"{error} (no checkpoint of step {error.alarm.healthy_step} or before is kept; set "
            "checkpoint.keep_every_hours to go back)"
        ) from error
    if world.is_first:
        aside = folder / CHECKPOINTS / "collapsed"
        aside.mkdir(exist_ok=True)
        for path in paths:
            if path not in healthy:
                path.replace(aside / path.name)
        best = folder / CHECKPOINTS / "best.pt"
        if best.is_symlink() and not best.exists():
            best.unlink()
        record = {
            "reason": str(error.alarm),
            "from": healthy[-1].name,
            "half_life_factor": FACTOR ** (before + 1),
        }
        lines = LineFile(folder / ROLLBACKS)
        lines.write(json.dumps(record))
        lines.close()
    world.barrier()
    return f"{error.alarm}: going back to {healthy[-1].name} with {FACTOR:g} times the half-life"

"""The WER of the checkpoint that a run starts from, read from the log of the checkpoint's own run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asr_emapl.errors import UserError
from asr_emapl.runs.curves import Curve, curves_of
from asr_emapl.runs.reader import CHECKPOINTS, LOG, read_log


def with_seed(
    curves: Mapping[str, Curve], folder: Path, config: Mapping[str, Any] | None
) -> dict[str, Curve]:
    """Return the curves, each starting with the WER of the run's `init.checkpoint`.

    Curves are unchanged if the run starts from random weights, or if the log of the checkpoint's run is
    not found or has no validation of that split.

    Args:
        folder: the run directory.
        config: the run's config.yaml.
    """
    seed = _seed(folder, config or {})
    return {name: ([seed[name]] if name in seed else []) + curve for name, curve in curves.items()}


def _seed(folder: Path, config: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    init = config.get("init")
    if not isinstance(init, dict) or not isinstance(init.get("checkpoint"), str):
        return {}
    path = _base(folder, config.get("run_dir")) / init["checkpoint"]
    last_step = None
    if path.suffix == ".pt":
        number = path.stem.rpartition("-")[2]
        if not number.isdigit():
            return {}  # best.pt: the file name does not give the step
        path, last_step = path.parent, int(number)
    log = (path.parent if path.name == CHECKPOINTS else path) / LOG
    try:
        records = read_log(log)
    except UserError:
        return {}
    curves = curves_of(r for r in records if last_step is None or r.get("step", 0) <= last_step)
    restarts = init.get("keep") == "weights"
    return {name: (0.0 if restarts else curve[-1][0], curve[-1][1]) for name, curve in curves.items()}


def _base(folder: Path, run_dir: object) -> Path:
    """Return the folder that the paths of a config are relative to, even if the run was moved since."""
    folder = folder.resolve()
    parts = Path(run_dir).parts if isinstance(run_dir, str) and not Path(run_dir).is_absolute() else ()
    if parts and folder.parts[-len(parts) :] == parts:
        return folder.parents[len(parts) - 1]
    return Path()

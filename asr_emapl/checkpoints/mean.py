"""The mean of the weights of several checkpoints of a run: the last ones, or those with the lowest WER."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from asr_emapl.checkpoints.entries import State
from asr_emapl.checkpoints.files import checkpoint_path, checkpoints_of, load
from asr_emapl.errors import UserError, counted
from asr_emapl.runs.reader import LOG, read_log


def checkpoints_to_average(path: Path, count: int, *, best: bool, model: str) -> list[Path]:
    """The checkpoints of a run to average, oldest first.

    Args:
        path: run directory, or its folder of checkpoints.
        best: those with the lowest mean WER over the validation splits in the run's log; otherwise the last.
        model: teacher or student, whose WER is compared.

    Raises:
        UserError: there are fewer checkpoints, or fewer of them are validated.
    """
    found = checkpoints_of(path) if path.is_dir() else []
    if best and found:
        rates = _rates(found[0].parent.parent / LOG, model)
        by_path = {checkpoint_path(found[0].parent, step): rate for step, rate in rates.items()}
        found = sorted((p for p in found if p in by_path), key=lambda p: (by_path[p], p))[:count]
    if len(found) < count:
        kind = " that were validated" if best else ""
        raise UserError(
            f"--average {count}: {path} has only {counted(len(found), 'checkpoint')}{kind}; raise "
            "checkpoint.keep or checkpoint.keep_every_hours for the run, or average fewer"
        )
    return sorted(found if best else found[-count:])


def mean_weights(paths: Sequence[Path], model: str) -> dict[str, Tensor]:
    """Mean of the weights and float buffers, in their dtypes; other buffers are those of the last checkpoint.

    Raises:
        UserError: a checkpoint cannot be read, or has weights of other names or shapes.
    """
    sums: dict[str, Tensor] = {}
    weights: State = {}
    for path in paths:
        state = load(path)
        weights = state["teacher"]["module"] if model == "teacher" else state["student"]
        floats = {name: w for name, w in weights.items() if _is_float(w)}
        sums = sums or {name: torch.zeros_like(w, dtype=torch.float64) for name, w in floats.items()}
        if {name: w.shape for name, w in floats.items()} != {name: w.shape for name, w in sums.items()}:
            raise UserError(f"checkpoint {path}: weights have other names or shapes than in {paths[0]}")
        for name, weight in floats.items():
            sums[name] += weight
    return {**weights, **{name: (s / len(paths)).to(weights[name].dtype) for name, s in sums.items()}}


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _rates(log: Path, model: str) -> dict[int, float]:
    """Mean WER of a model by step."""
    found = {}
    for record in read_log(log):
        if record["event"] == "validation":
            rates = [rate for name, rate in record["wer"].items() if name.startswith(f"{model}/")]
            if rates:
                found[int(record["step"])] = sum(rates) / len(rates)
    return found

"""Checkpoints: files that are whole or not there, and are checked before anything in them is used.

A checkpoint holds the whole run (student, teacher, optimizer, clock, place in the data, tokenizer, config) as
tensors and primitives alone, and loads with `weights_only=True`. torch.save makes a zip archive with a CRC-32
of every record in it. torch does not look at these when it loads; `load` does, before anything is unpickled.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from asr_emapl.checkpoints.entries import State, require_entries, require_run_entries
from asr_emapl.errors import UserError
from asr_emapl.running_mean import window
from asr_emapl.storage import publish, writing
from asr_emapl.text.tokenizer import Tokenizer, tokenizer_from_state


def save(path: Path, state: State) -> None:
    """Write `state` to `path` in one piece: whoever finds the name finds all of it, on the disk.

    Raises:
        OSError: it cannot be written (the disk is full, for one); what was there under the name still is.
    """
    try:
        with publish(str(path)) as file:
            torch.save(state, file)
    except RuntimeError as error:
        # torch's archive writer complains of its position once a write has failed.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load(path: Path) -> State:
    """Read a checkpoint onto the CPU.

    Raises:
        UserError: the file is absent, torn, damaged (a checksum differs), or not a checkpoint of this
            toolkit: an entry is missing or of the wrong kind.
    """
    try:
        if not path.is_file():
            raise UserError(f"checkpoint {path} does not exist")
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("checksum")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch muses on the pickle protocol of garbage
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    # Garbage makes torch's unpickler stumble in its own way each time: IndexError, KeyError, UnicodeError ...
    # What it says is left out: it may be nothing, or the advice to load without weights_only.
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else None
        reason = reason or f"torn, or no checkpoint: {type(error).__name__}"
        raise UserError(f"checkpoint {path} cannot be read ({reason})") from error
    try:
        return require_entries(state)
    except ValueError as error:
        raise UserError(f"{path} is no asr_emapl checkpoint ({error})") from error


def require_resumable(path: Path, state: State) -> None:
    """Refuse a checkpoint that `load` read from `path` and that lacks what only a resume needs.

    Raises:
        UserError: an entry is missing.
    """
    try:
        require_run_entries(state)
    except ValueError as error:
        raise UserError(
            f"checkpoint {path}: the run cannot resume from it ({error}); start another run from its weights "
            "(init.checkpoint, init.keep=weights)"
        ) from error


def read_tokenizer(path: Path, state: State) -> Tokenizer:
    """The tokenizer inside a checkpoint that `load` read from `path`.

    Raises:
        UserError: it is damaged.
    """
    try:
        return tokenizer_from_state(state["tokenizer"])
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}") from error


@contextmanager
def fitting(path: Path, target: str) -> Iterator[None]:
    """Within it, what a checkpoint holds is loaded into a model and its optimizer.

    Raises:
        UserError: names, shapes or dtypes differ.
    """
    try:
        yield
    except UserError:
        raise
    # torch raises RuntimeError; a model may have a load_state_dict of its own.
    except Exception as error:
        raise UserError(
            f"checkpoint {path} does not fit model {target} with these options "
            f"({' '.join(str(error).split())[:300]})"
        ) from error


def average(start: Path | None, end: Path, out: Path) -> float:
    """Write `end` with the student's mean since `start` (None: since the run's beginning) as its teacher.

    Returns:
        Hours of audio in the window.

    Raises:
        UserError: a checkpoint cannot be read or has no running mean, or there is no window between them.
    """
    last = load(end)
    later = _running_mean(end, last)
    nothing = {"mean": {name: torch.zeros_like(m) for name, m in later["mean"].items()}, "audio": 0.0}
    earlier = nothing if start is None else _running_mean(start, load(start))
    try:
        weights = window(earlier, later)
    except ValueError as error:
        raise UserError(f"{start or 'the beginning'} to {end}: {error}") from error
    student = last["student"]
    with fitting(end, last["config"]["model"]["target"]):
        for name, weight in weights.items():
            if name not in student or student[name].shape != weight.shape:
                raise ValueError(f"running mean of {name}: the student has no such weight of its shape")
    # Buffers, which have no mean, are the student's.
    last["teacher"] |= {"module": {**student, **weights}, "pending": 0.0}
    with writing(out):
        save(out, last)
    return (later["audio"] - earlier["audio"]) / 3600.0


def _running_mean(path: Path, state: State) -> State:
    if not state.get("running_mean"):
        raise UserError(f"checkpoint {path} has no running mean: train with checkpoint.running_mean=true")
    return state["running_mean"]

"""Checkpoints: written beside and renamed, so that a name always stands for a whole file.

A checkpoint holds the whole run (student, teacher, optimizer, clock, place in the data, tokenizer, config) as
tensors and primitives alone, and loads with `weights_only=True`. torch.save makes a zip archive with a CRC-32
of every record in it. torch does not look at these when it loads; `load` does, before anything is unpickled.
"""

from __future__ import annotations

import errno
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from asr_emapl.errors import UserError
from asr_emapl.running_mean import window

State = dict[str, Any]


def save(path: Path, state: State) -> None:
    """Write `state` to `path` in one piece: whoever finds the name finds all of it, on the disk.

    Raises:
        OSError: it cannot be written (the disk is full, for one); what was there under the name still is.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except RuntimeError as error:
        # torch's archive writer complains of its position once a write has failed.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Put the new name on the disk; without it a power cut takes the name and leaves the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems keep names on the disk by themselves
            raise
    finally:
        os.close(descriptor)


def load(path: Path) -> State:
    """Read a checkpoint onto the CPU.

    Raises:
        UserError: the file is absent, torn, damaged (a checksum differs), or no checkpoint of this toolkit.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("checksum")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch muses on the pickle protocol of garbage
            state = torch.load(path, map_location="cpu", weights_only=True)
    # Garbage makes torch's unpickler stumble in its own way each time: IndexError, KeyError, UnicodeError ...
    # What it says is left out: it may be nothing, or the advice to load without weights_only.
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else None
        reason = reason or f"torn, or no checkpoint: {type(error).__name__}"
        raise UserError(f"checkpoint {path} cannot be read ({reason})") from error
    if not isinstance(state, dict) or not {"student", "teacher", "tokenizer", "config"} <= state.keys():
        raise UserError(f"{path} is no asr_emapl checkpoint")
    return state


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
    # Buffers, which have no mean, are the student's.
    last["teacher"] |= {"module": {**last["student"], **weights}, "pending": 0.0}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save(out, last)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})") from error
    return (later["audio"] - earlier["audio"]) / 3600.0


def _running_mean(path: Path, state: State) -> State:
    if not state.get("running_mean"):
        raise UserError(f"checkpoint {path} has no running mean: train with checkpoint.running_mean=true")
    return state["running_mean"]

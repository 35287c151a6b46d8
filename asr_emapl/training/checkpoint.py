"""Checkpoints: written beside and renamed, so that a name always stands for a whole file.

A checkpoint holds the whole run (student, teacher, optimizer, clock, place in the data, tokenizer, config) as
tensors and primitives alone, and loads with `weights_only=True`.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from asr_emapl.errors import UserError

State = dict[str, Any]


def save(path: Path, state: State) -> None:
    """Write `state` to `path` in one piece: whoever finds the name finds all of it, on the disk."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path) -> State:
    """Read a checkpoint onto the CPU.

    Raises:
        UserError: the file is absent, torn, or no checkpoint of this toolkit.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    try:
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


class CheckpointFolder:
    """The checkpoints of one run, by step; the newest `keep` of them are kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, max(1, keep)

    def paths(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def write(self, step: int, state: State) -> Path:
        """Save, and only then remove what is no longer kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:09d}.pt"
        save(path, state)
        for old in self.paths()[: -self.keep]:
            old.unlink()
        return path

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

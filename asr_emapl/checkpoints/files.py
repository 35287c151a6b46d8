"""The checkpoint format: files are written atomically, and verified before their content is used.

A checkpoint has the state of the whole run (student, teacher, optimizer, clock, data cursor, tokenizer,
config) as tensors and primitives, and loads with `weights_only=True`. torch.save writes a zip archive with a
CRC-32 per record. torch.load ignores them; `load` verifies them before unpickling.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from asr_emapl.checkpoints.entries import State, require_entries, require_run_entries
from asr_emapl.errors import UserError
from asr_emapl.running_mean import window
from asr_emapl.storage import publish, require_file, writing
from asr_emapl.text.tokenizer import Tokenizer, tokenizer_from_state

_logger = logging.getLogger(__name__)
# Other files (step-final.pt, step-000000004-average.pt) are the user's.
_NAME = re.compile(r"step-([0-9]{9,})\.pt")

Found = tuple[Path, State, list[str]]
"""A checkpoint's path and state, and errors of newer checkpoints that cannot be read."""


def save(path: Path, state: State) -> None:
    """Write a checkpoint atomically.

    Raises:
        OSError: it cannot be written, or the path is not a regular file; an existing file is unchanged.
    """
    require_file(path)
    try:
        with publish(path) as file:
            torch.save(state, file)
    except RuntimeError as error:
        # torch's archive writer raises a RuntimeError after a failed write.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load(path: Path) -> State:
    """Load a checkpoint onto the CPU.

    Raises:
        UserError: the file is missing, incomplete, damaged (a checksum differs), or not a checkpoint of this
            package: an entry is missing or has the wrong type.
    """
    try:
        if not path.is_file():
            raise UserError(
                f"checkpoint {path} does not exist; specify a run directory, its checkpoints/ or a file in it"
            )
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("checksum")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about the pickle protocol of a damaged file
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    # torch's unpickler can raise any exception on a damaged file: IndexError, KeyError, UnicodeError ... Its
    # message is omitted, because it is empty or recommends loading without weights_only.
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else None
        reason = reason or f"incomplete, or not a checkpoint: {type(error).__name__}"
        raise UserError(f"checkpoint {path} cannot be read ({reason})") from error
    try:
        return require_entries(state)
    except ValueError as error:
        raise UserError(f"{path} is not an asr_emapl checkpoint ({error})") from error


def checkpoint_path(folder: Path, step: int) -> Path:
    """Path of the checkpoint of a step."""
    return folder / f"step-{step:09d}.pt"


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first; other files are ignored."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("step-*.pt"))
    return [path for _, path in sorted((int(n[1]), path) for n, path in found if n and path.is_file())]


def newest_checkpoint(folder: Path) -> Found | None:
    """Load the newest checkpoint of a folder that can be read; None if there are no checkpoints.

    Raises:
        UserError: there are checkpoints, but none of them can be read.
    """
    problems: list[str] = []
    for path in reversed(checkpoint_paths(folder)):
        try:
            return path, load(path), problems
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(f"no checkpoint in {folder} can be read: {'; '.join(problems)}")
    return None


def weights_digest(path: Path) -> str:
    """A hash of the tensors of a checkpoint, from the checksums in the file, without reading the tensors.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            checksums = sorted(one.CRC for one in archive.infolist() if "/data/" in one.filename)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"checkpoint {path} cannot be read ({error})") from error
    return hashlib.blake2b(",".join(map(str, checksums)).encode(), digest_size=16).hexdigest()


def checkpoints_of(path: Path) -> list[Path]:
    """A checkpoint file, or the checkpoints of a run directory or of its `checkpoints/`, oldest first.

    Empty if there are none. See `find`.
    """
    if not path.is_dir():
        return [path] if path.is_file() else []
    return checkpoint_paths(path) or checkpoint_paths(path / "checkpoints")


def find(path: Path) -> Found:
    """Load a checkpoint file, or the newest one of a run directory or of its folder of checkpoints.

    Raises:
        UserError: the checkpoint cannot be read, or the folder has none.
    """
    try:
        if not path.is_dir():
            return path, load(path), []
        folder = path if checkpoint_paths(path) else path / "checkpoints"
        found = newest_checkpoint(folder)
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read ({error.strerror})") from error
    if found is None:
        raise UserError(
            f"{path}: has no checkpoint; specify a run directory, its checkpoints/ or a file in it"
        )
    return found


def require_resumable(path: Path, state: State) -> None:
    """Check that a checkpoint, loaded from `path`, has the entries required for a resume.

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
    """The tokenizer of a checkpoint, loaded from `path`.

    Raises:
        UserError: it is damaged, or there is none because the run was self-supervised.
    """
    if not state["tokenizer"]:
        raise UserError(
            f"checkpoint {path} is of a self-supervised run, which has no tokenizer and no output layer; "
            f"train a model from it with init.weights={path}"
        )
    try:
        return tokenizer_from_state(state["tokenizer"])
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}") from error


@contextmanager
def fitting(path: Path, target: str) -> Iterator[None]:
    """Context in which a checkpoint's states are loaded into a model and its optimizer.

    Raises:
        UserError: names, shapes or dtypes differ.
    """
    try:
        yield
    except UserError:
        raise
    # Any exception, because a model may have its own load_state_dict.
    except Exception as error:
        raise UserError(
            f"checkpoint {path} does not fit model {target} with these options "
            f"({' '.join(str(error).split())[:300]})"
        ) from error


def average(start: Path | None, end: Path, out: Path) -> float:
    """Write a copy of checkpoint `end` whose teacher is the student's mean since checkpoint `start`.

    Args:
        start: None: the start of the run.

    Returns:
        Hours of audio in the window.

    Raises:
        UserError: a checkpoint cannot be read, has no running mean, or `end` is not after `start`.
    """
    end, last = _find_logged(end)
    later = _running_mean(end, last)
    if start is None:
        earlier = {"mean": {name: torch.zeros_like(m) for name, m in later["mean"].items()}, "audio": 0.0}
    else:
        start, first = _find_logged(start)
        earlier = _running_mean(start, first)
    try:
        weights = window(earlier, later)
    except ValueError as error:
        raise UserError(f"{start or 'the start'} to {end}: {error}") from error
    _write_teacher(end, last, weights, out)
    return (later["audio"] - earlier["audio"]) / 3600.0


def bias_corrected(end: Path, out: Path) -> float:
    """Write a copy of checkpoint `end` whose teacher is the bias-corrected average of the student.

    Returns:
        Hours of audio of the average.

    Raises:
        UserError: the checkpoint cannot be read, or has no such average.
    """
    end, last = _find_logged(end)
    found = last.get("bias_corrected")
    if not found:
        raise UserError(
            f"checkpoint {end} has no bias-corrected average; train with checkpoint.bias_corrected=true"
        )
    _write_teacher(end, last, found["average"], out)
    return float(found["audio"]) / 3600.0


def _write_teacher(path: Path, state: State, weights: State, out: Path) -> None:
    """Write the state from `path` with an average of the student in place of the teacher."""
    student = state["student"]
    with fitting(path, state["config"]["model"]["target"]):
        for name, weight in weights.items():
            if name not in student or student[name].shape != weight.shape:
                raise ValueError(f"average of {name}: the student has no weight of that name and shape")
    # Buffers are not averaged, but copied from the student.
    state["teacher"] |= {"module": {**student, **weights}, "pending": 0.0}
    with writing(out):
        save(out, state)


def _find_logged(path: Path) -> tuple[Path, State]:
    path, state, problems = find(path)
    for problem in problems:
        _logger.warning("%s: using the previous checkpoint", problem)
    return path, state


def _running_mean(path: Path, state: State) -> State:
    if not state.get("running_mean"):
        raise UserError(f"checkpoint {path} has no running mean; train with checkpoint.running_mean=true")
    return state["running_mean"]

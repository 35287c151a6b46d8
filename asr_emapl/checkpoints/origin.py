"""The checkpoint that a run started from (`init.checkpoint`), and whether there is another one in its place.

A run reads `init.checkpoint` only at its first start. If the seed is trained longer afterwards, a resume of
the run would continue from the earlier seed without saying so.
"""

from __future__ import annotations

from pathlib import Path

from asr_emapl.checkpoints.files import State, checkpoints_of, find, weights_digest
from asr_emapl.errors import UserError
from asr_emapl.scaling import AudioClock

FOLDER = "earlier"
"""Folder, beside a run directory, for runs that were set aside."""


def origin_of(path: Path, state: State) -> State:
    """The entry "origin" of a run that starts from a checkpoint, loaded from `path`."""
    return {"checkpoint": str(path), "hours": _hours(state), "digest": weights_digest(path)}


def require_origin(folder: Path, state: State, init: str | None, *, allowed: bool) -> list[str]:
    """Compare the checkpoint that a run started from with `init.checkpoint` of the run that resumes it.

    Args:
        folder: the run directory.
        state: the checkpoint that the run resumes from.
        init: init.checkpoint.
        allowed: accept another checkpoint.

    Returns:
        One line if another checkpoint was accepted, otherwise none.

    Raises:
        UserError: there is another checkpoint now.
    """
    change = _change(state, None if init is None else Path(init))
    if change is None:
        return []
    if allowed:
        return [f"{folder} {change}; the run continues from the earlier one"]
    raise UserError(
        f"{folder} {change}; to start again from it, move {folder} away or use another run_dir; to continue "
        "from the earlier one, use --allow-changes"
    )


def set_aside(folder: Path, seed: Path) -> Path | None:
    """Move a run directory to `earlier/` beside it if its seed has another checkpoint since it started.

    Args:
        seed: run directory or checkpoint that the run would start from.

    Returns:
        Where it is now; None if it was not moved.

    Raises:
        UserError: its newest checkpoint cannot be read.
    """
    if not checkpoints_of(folder) or _change(find(folder)[1], seed) is None:
        return None
    places = (folder.parent / FOLDER / f"{folder.name}-{number}" for number in range(1, 10_000))
    place = next(place for place in places if not place.exists())
    place.parent.mkdir(exist_ok=True)
    return folder.rename(place)


def _change(state: State, init: Path | None) -> str | None:
    """What has changed since the run started; None if nothing has, or nothing is known."""
    origin, found = state.get("origin"), [] if init is None else checkpoints_of(init)
    # The seed may have been removed since; the run does not need it.
    if not origin or not found or weights_digest(found[-1]) == origin["digest"]:
        return None
    now = _hours(find(found[-1])[1])
    return (
        f"started from {origin['checkpoint']} ({origin['hours']:.3f} h of audio), but init.checkpoint is now "
        f"{found[-1]} ({now:.3f} h)"
    )


def _hours(state: State) -> float:
    """Hours of audio on the clock; 0 if there is none, as in a checkpoint for decoding only."""
    clock = AudioClock()
    if "clock" in state:
        clock.load_state_dict(state["clock"])
    return clock.hours

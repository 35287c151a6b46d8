"""Checkpoints written while training goes on: copied at once, written by a thread, one at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asr_emapl.checkpoints.files import State
from asr_emapl.errors import UserError


@dataclass
class Saved:
    """What became of one checkpoint, and what it cost in seconds of wall-clock.

    Training stood still while it waited for the checkpoint before and while the state was copied, not while
    it was written.
    """

    step: int
    path: Path | None = None
    bytes: int = 0
    wait_s: float = 0.0
    copy_s: float = 0.0
    write_s: float = 0.0
    failure: OSError | None = None


class Snapshot:
    """Copies of a state in host memory that is kept from one copy to the next, page-locked for a GPU's.

    The memory that it takes is that of one checkpoint.
    """

    def __init__(self) -> None:
        self._memory: dict[tuple[Any, ...], torch.Tensor] = {}

    def take(self, state: State) -> State:
        """The state with tensors of its own, which hold until the next call."""
        before, self._memory = self._memory, {}
        copied = self._copy(state, (), before)
        if any(tensor.is_pinned() for tensor in self._memory.values()):
            torch.cuda.synchronize()
        return copied

    def _copy(self, value: Any, place: tuple[Any, ...], before: dict[tuple[Any, ...], torch.Tensor]) -> Any:
        if isinstance(value, dict):
            return {key: self._copy(item, (*place, key), before) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(item, (*place, i), before) for i, item in enumerate(value))
        if not isinstance(value, torch.Tensor):
            return value
        own = before.get(place)
        if own is None or (own.shape, own.dtype) != (value.shape, value.dtype):
            own = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
        self._memory[place] = own
        return own.copy_(value.detach(), non_blocking=value.is_cuda)


class BackgroundSave:
    """Saves in a thread.

    Args:
        report: called with each `Saved`, in the thread that calls the methods here.
    """

    def __init__(self, report: Callable[[Saved], None]) -> None:
        self._report = report
        self._snapshot = Snapshot()
        self._thread: threading.Thread | None = None
        self._saved: Saved | None = None
        self._fault: BaseException | None = None

    def start(self, step: int, state: State, write: Callable[[State], Path]) -> None:
        """Copy the state and have `write` called with the copy; waits first for the checkpoint before.

        Raises:
            Exception: whatever the write before raised, unless it was an OSError: that is reported.
        """
        saved, began = Saved(step), time.monotonic()
        self.finish()
        saved.wait_s = time.monotonic() - began
        copy = self._snapshot.take(state)
        saved.copy_s = time.monotonic() - began - saved.wait_s
        self._saved = saved
        self._thread = threading.Thread(target=self._run, args=(saved, copy, write), name="checkpoint")
        self._thread.start()

    def _run(self, saved: Saved, copy: State, write: Callable[[State], Path]) -> None:
        began = time.monotonic()
        try:
            saved.path = write(copy)
            saved.bytes = saved.path.stat().st_size
        except OSError as error:
            saved.failure = error
        except BaseException as error:
            self._fault = error
        saved.write_s = time.monotonic() - began

    def poll(self) -> None:
        """Report what has been written, without waiting."""
        if self._thread is not None and not self._thread.is_alive():
            self.finish()

    def wait(self) -> None:
        """Until nothing is being written; from any thread."""
        if self._thread is not None:
            self._thread.join()

    def finish(self) -> Saved | None:
        """Wait for what is being written and report it; returns the last of all.

        Raises:
            Exception: as `start`.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            if self._fault is not None:
                fault, self._fault = self._fault, None
                raise fault
            assert self._saved is not None
            self._report(self._saved)
        return self._saved

    def last(self) -> Path:
        """Where the last checkpoint of a run lies, once it is there.

        Raises:
            UserError: it could not be written.
        """
        saved = self.finish()
        assert saved is not None
        if saved.path is None:
            reason = saved.failure.strerror if saved.failure else "interrupted"
            raise UserError(
                f"the run's last checkpoint, of step {saved.step}, could not be written ({reason}): "
                "mend that and give the same command again, which goes on from the one before"
            )
        return saved.path

"""Write checkpoints in a background thread, one at a time, while training continues."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asr_emapl.checkpoints.entries import State
from asr_emapl.errors import UserError


@dataclass
class Saved:
    """The result of a save, and its wall-clock times in seconds.

    Training pauses during `wait_s` (for the previous save) and `copy_s`, but not during `write_s`.
    """

    step: int
    path: Path | None = None
    bytes: int = 0
    wait_s: float = 0.0
    copy_s: float = 0.0
    write_s: float = 0.0
    failure: OSError | None = None


class Snapshot:
    """Copies a state to host memory that is reused for the next copy; pinned memory for GPU tensors."""

    def __init__(self) -> None:
        self._memory: dict[tuple[Any, ...], torch.Tensor] = {}

    def take(self, state: State) -> State:
        """Copy the state; the copy is valid until the next call."""
        before, self._memory = self._memory, {}
        copied = self._copy(state, (), before)
        if any(tensor.is_pinned() for tensor in self._memory.values()):
            torch.cuda.synchronize()
        return copied

    def _copy(self, value: Any, key: tuple[Any, ...], before: dict[tuple[Any, ...], torch.Tensor]) -> Any:
        if isinstance(value, dict):
            return {name: self._copy(item, (*key, name), before) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(item, (*key, i), before) for i, item in enumerate(value))
        if not isinstance(value, torch.Tensor):
            return value
        own = before.get(key)
        if own is None or (own.shape, own.dtype) != (value.shape, value.dtype):
            own = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
        self._memory[key] = own
        return own.copy_(value.detach(), non_blocking=value.is_cuda)


class BackgroundSave:
    """Writes states in a background thread.

    Args:
        report: called with each `Saved`, in the thread that calls the methods.
    """

    def __init__(self, report: Callable[[Saved], None]) -> None:
        self._report = report
        self._snapshot = Snapshot()
        self._thread: threading.Thread | None = None
        self._saved: Saved | None = None
        self._error: BaseException | None = None

    def start(self, step: int, state: State, write: Callable[[State], Path]) -> None:
        """Wait for the previous save, copy the state, and start `write` with the copy.

        Raises:
            Exception: any error of the previous save except OSError, which is reported.
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
            self._error = error
        saved.write_s = time.monotonic() - began

    def poll(self) -> None:
        """Report a save if it has ended; does not wait."""
        if self._thread is not None and not self._thread.is_alive():
            self.finish()

    def wait(self) -> None:
        """Wait until the save has ended; any thread may call it."""
        if self._thread is not None:
            self._thread.join()

    def finish(self) -> Saved | None:
        """Wait until the save has ended and report it; returns the last one, None if there was none.

        Raises:
            Exception: see `start`.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            assert self._saved is not None
            self._report(self._saved)
        return self._saved

    def last(self) -> Path | None:
        """Wait for the last checkpoint; returns its path, None if none was started.

        Raises:
            UserError: it could not be written.
        """
        saved = self.finish()
        if saved is not None and saved.path is None:
            reason = saved.failure.strerror if saved.failure else "interrupted"
            raise UserError(
                f"the last checkpoint, of step {saved.step}, could not be written ({reason}); fix that and "
                "rerun the same command to resume from the previous one"
            )
        return None if saved is None else saved.path

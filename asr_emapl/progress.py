"""Progress on standard error: a bar on a terminal, otherwise one line every 30 seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from asr_emapl.terminal import put, time_text, visible, warn

AUDIO = "s of audio"
LINE_EVERY_S = 30.0
"""Time between two lines; shorter tasks print nothing."""
_NAME_CHARACTERS = 30  # last characters of a file name that are shown

T = TypeVar("T")


class Progress:
    """Shows how much is done, the remaining time, and for audio the speed.

    Args:
        label: the task, for example "decoding dev-clean".
        total: seconds of audio in total, or number of units; None: not known.
        unit: what is counted, for example "files".
        done: what was done before.
        is_shown: whether to print; False for all but one of several processes.
    """

    def __init__(
        self, label: str, total: float | None, unit: str = AUDIO, *, done: float = 0.0, is_shown: bool = True
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self._begin = done
        self._console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=self._console,
            disable=not (self._console.is_terminal and is_shown),
            redirect_stdout=False,
            transient=True,
        )
        self._task = self._bar.add_task(label, total=total, state="")
        self._start = self._last = time.monotonic()
        self._has_lines = is_shown and not self._console.is_terminal
        self._lock, self._ended = threading.Lock(), threading.Event()

    def __enter__(self) -> Progress:
        self._start = self._last = time.monotonic()
        self._bar.start()
        if self._has_lines:
            # A thread, because a step of the task can take minutes.
            threading.Thread(target=self._print_lines, name="progress", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._bar.stop()

    def at(self, name: str) -> None:
        """Show the name of the current file."""
        shown = visible(name.rpartition("/")[2][-_NAME_CHARACTERS:], keep="")
        self._bar.update(self._task, description=f"{self.label} {shown}".strip())

    def advance(self, amount: float = 1.0) -> None:
        """Add processed seconds of audio, or units."""
        self.done += amount
        self._bar.update(self._task, completed=self.done, state=self._state())
        if self._has_lines:
            self._print_line_if_due()

    def print(self, text: str) -> None:
        """Print to standard output, above the bar if both are on one terminal."""
        if self._console.is_terminal and sys.stdout.isatty():
            self._console.print(Text(visible(text)), end="", soft_wrap=True)
        else:
            put(text)

    def _state(self) -> str:
        """What is done, for example "60 of 400 s of audio, 2 x real time, 3 min left"."""
        of_all = "" if self.total is None else f" of {self.total:.0f}"
        state = f"{self.done:.0f}{of_all} {self.unit}"
        if self.done <= self._begin:
            return state
        per_second = (self.done - self._begin) / max(time.monotonic() - self._start, 1e-9)
        if self.unit == AUDIO:
            state += f", {per_second:.0f} x real time"
        if self.total is not None:
            state += f", {time_text(max(0.0, self.total - self.done) / per_second)} left"
        return state

    def _print_line_if_due(self) -> float:
        """Print a line if the last one is long ago; returns the seconds until the next one."""
        with self._lock:
            left = self._last + LINE_EVERY_S - time.monotonic()
            if left > 0.0:
                return left
            self._last = time.monotonic()
        warn(f"{self.label}: {self._state()}")
        return LINE_EVERY_S

    def _print_lines(self) -> None:
        left = LINE_EVERY_S
        while not self._ended.wait(left):
            left = self._print_line_if_due()


def track(items: Iterable[T], label: str, total: int, unit: str) -> Iterator[T]:
    """Yield the items, and show how many of them were made."""
    with Progress(label, total, unit) as progress:
        for item in items:
            progress.advance()
            yield item

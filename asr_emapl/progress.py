"""Progress on standard error: a bar on a terminal, otherwise one line every 30 seconds."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from asr_emapl.terminal import put, time_text, visible, warn

_LINE_EVERY_S = 30.0  # shorter tasks print nothing
_NAME_CHARACTERS = 30  # last characters of a file name that are shown


class Progress:
    """Shows seconds of audio done, speed and remaining time.

    Args:
        label: the task, for example "decoding dev-clean".
        total: total seconds of audio.
        is_shown: whether to print; False for all but one of several processes.
    """

    def __init__(self, label: str, total: float, *, is_shown: bool = True) -> None:
        self.label, self.total, self.is_shown = label, total, is_shown
        self.done = 0.0
        self._console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (self._console.is_terminal and is_shown),
            redirect_stdout=False,
            transient=True,
        )
        self._task = self._bar.add_task(label, total=total, speed="")
        self._start = self._last = time.monotonic()

    def __enter__(self) -> Progress:
        self._start = self._last = time.monotonic()
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def at(self, name: str) -> None:
        """Show the name of the current file."""
        shown = visible(name.rpartition("/")[2][-_NAME_CHARACTERS:], keep="")
        self._bar.update(self._task, description=f"{self.label} {shown}".strip())

    def advance(self, seconds: float) -> None:
        """Add processed seconds of audio."""
        self.done += seconds
        now = time.monotonic()
        speed = self.done / max(now - self._start, 1e-9)
        self._bar.update(self._task, completed=self.done, speed=f"{speed:.0f} x real time")
        is_due = self.is_shown and now - self._last >= _LINE_EVERY_S
        if is_due and not self._console.is_terminal:
            self._last = now
            left = max(0.0, self.total - self.done) / max(speed, 1e-9)
            warn(
                f"{self.label}: {self.done:.0f} of {self.total:.0f} s of audio, {speed:.0f} x real time, "
                f"{time_text(left)} left"
            )

    def print(self, text: str) -> None:
        """Print to standard output, above the bar if both are on one terminal."""
        if self._console.is_terminal and sys.stdout.isatty():
            self._console.print(Text(visible(text)), end="", soft_wrap=True)
        else:
            put(text)

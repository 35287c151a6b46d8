"""What `asr-emapl transcribe` does with its files: where each goes, one after another, and the faults."""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from asr_emapl.audio.decode import probe
from asr_emapl.audio.voice_activity import Detector, LevelOnly, VoiceActivity
from asr_emapl.decoding.beam import BeamSearch
from asr_emapl.decoding.long_audio import MIN_SECONDS, Segment, Transcript, transcribe_file
from asr_emapl.decoding.recognizer import Recognizer
from asr_emapl.decoding.transcript_formats import FORMATS
from asr_emapl.errors import UserError
from asr_emapl.storage import write
from asr_emapl.terminal import put, visible, warn

_STDIN = "-"
_NAME_LETTERS = 30  # of a file's name that a terminal shows, from its end


@dataclass(frozen=True)
class Request:
    """A file as it was named, and where its transcript goes (None: standard output)."""

    name: str
    target: Path | None


def check_requests(files: Sequence[str], form: str, out: Path | None, max_seconds: float) -> list[Request]:
    """Where each transcript goes.

    Raises:
        UserError: an unknown format, two transcripts of one name, subtitles of several files without a
            folder, or a length at which nothing can be cut.
    """
    if form not in FORMATS:
        raise UserError(f"--format {form!r} is none of {', '.join(FORMATS)}")
    if not max(1.0, 2.0 * MIN_SECONDS) <= max_seconds < math.inf:
        raise UserError(f"--max-seconds {max_seconds:g}: take 1 or more")
    if out is None:
        if form in ("srt", "vtt") and len(files) > 1:
            raise UserError(f"--format {form} of several files: name a folder with --out")
        return [Request(name, None) for name in files]
    named: dict[Path, str] = {}
    for name in files:
        stem = "stdin" if name == _STDIN else Path(name).stem
        target = out / (stem + FORMATS[form][0])
        if target in named:
            raise UserError(
                f"{name}: would be written to {target}, as {named[target]} is (rename one of them)"
            )
        named[target] = name
    return [Request(name, target) for target, name in named.items()]


class Terminal:
    """What is seen meanwhile: how far all is, if there is a terminal to say it on, and texts as they come."""

    def __init__(self, seconds: float) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            redirect_stdout=False,
        )
        self._task = self._bar.add_task("", total=seconds)

    def __enter__(self) -> Terminal:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def at(self, name: str, seconds: float) -> None:
        """The file at hand, and the seconds of audio before it."""
        shown = visible(Path(name).name[-_NAME_LETTERS:], keep="")
        self._bar.update(self._task, description=shown, completed=seconds)

    def advance(self, seconds: float) -> None:
        """So much more is done."""
        self._bar.advance(self._task, seconds)

    def print(self, text: str) -> None:
        """To standard output; above the bar where both are one terminal, and as long as its lines are."""
        if self._console.is_terminal and sys.stdout.isatty():
            self._console.print(Text(visible(text)), end="", soft_wrap=True)
        else:
            put(text)


def transcribe_all(
    requests: Sequence[Request],
    recognizer: Recognizer,
    search: BeamSearch | None,
    form: str,
    max_seconds: float,
) -> list[str]:
    """Transcribe one after another; what was wrong with those that could not be read, a line each.

    Text for standard output is printed segment by segment.
    """
    faults = []
    with ExitStack() as stack:
        files = [_local(request.name, stack) for request in requests]
        lengths = [_seconds(file) for file in files]
        detector = _detector() if any(seconds > max_seconds for seconds in lengths) else LevelOnly()
        transcribe = partial(
            transcribe_file, recognizer, detector=detector, max_seconds=max_seconds, search=search
        )
        terminal = stack.enter_context(Terminal(sum(lengths)))
        for number, (request, file) in enumerate(zip(requests, files, strict=True)):
            terminal.at(request.name, sum(lengths[:number]))
            if form == "text" and request.target is None and len(requests) > 1:
                terminal.print(f"# {request.name}\n")
            try:
                _transcribe(request, file, form, transcribe, terminal)
            except UserError as error:
                faults.append(str(error).replace(str(file), request.name))
        terminal.at("", sum(lengths))
    return faults


def _transcribe(
    request: Request, file: Path, form: str, transcribe: Callable[..., Transcript], terminal: Terminal
) -> None:
    live = form == "text" and request.target is None

    def advance(seconds: float, segments: Sequence[Segment]) -> None:
        terminal.advance(seconds)
        if live:
            terminal.print("".join(f"{segment.text}\n" for segment in segments))

    content = FORMATS[form][1](replace(transcribe(file, advance=advance), audio=request.name))
    if request.target is not None:
        write(request.target, content)
        terminal.print(visible(f"{request.target}\n"))
    elif not live:
        terminal.print(content)


def _seconds(audio: Path) -> float:
    """Its length; 0 if it cannot be read, which will be told when its turn comes."""
    try:
        return probe(audio)[0]
    except UserError:
        return 0.0


def _detector() -> Detector:
    try:
        return VoiceActivity()
    except UserError as error:
        warn(f"note: {error}; until then, long audio is cut where it is quietest")
        return LevelOnly()


def _local(name: str, stack: ExitStack) -> Path:
    """The path of a file; standard input is read to its end into one, since formats seek."""
    if name != _STDIN:
        return Path(name)
    path = Path(stack.enter_context(tempfile.TemporaryDirectory()), "stdin")
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path

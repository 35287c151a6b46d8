"""What `asr-emapl transcribe` does with its files: where each goes, one after another, and the faults."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from asr_emapl.audio.decode import probe
from asr_emapl.audio.voice_activity import Detector, LevelOnly, VoiceActivity
from asr_emapl.decoding.beam import BeamSearch
from asr_emapl.decoding.long_audio import MIN_SECONDS, transcribe_file
from asr_emapl.decoding.recognizer import Recognizer
from asr_emapl.decoding.transcript_formats import FORMATS
from asr_emapl.errors import UserError
from asr_emapl.storage import publish

_STDIN = "-"


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
    if max_seconds < max(1.0, 2.0 * MIN_SECONDS):
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


def transcribe_all(
    requests: Sequence[Request],
    recognizer: Recognizer,
    search: BeamSearch | None,
    form: str,
    max_seconds: float,
) -> list[str]:
    """Transcribe one after another; what was wrong with those that could not be read, a line each."""
    faults = []
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[share]}"))
    with ExitStack() as stack:
        bar = stack.enter_context(
            Progress(
                *columns,
                TimeRemainingColumn(),
                console=console,
                disable=not console.is_terminal,
                # Else what is printed into a file would come out above the bar.
                redirect_stdout=sys.stdout.isatty(),
            )
        )
        detector: Detector | None = None
        for request in requests:
            audio = _local(request.name, stack)
            try:
                seconds = probe(audio)[0]
                if detector is None and seconds > max_seconds:
                    detector = _detector()
                task = bar.add_task(request.name, total=seconds, share=f"{seconds:.0f} s")
                transcript = transcribe_file(
                    recognizer,
                    audio,
                    detector or LevelOnly(),
                    max_seconds=max_seconds,
                    search=search,
                    advance=lambda done, task=task: bar.advance(task, done),  # type: ignore[misc]
                )
            except UserError as error:
                faults.append(str(error).replace(str(audio), request.name))
                continue
            content = FORMATS[form][1](replace(transcript, audio=request.name))
            if request.target is not None:
                _write(request.target, content)
                print(request.target)
            else:
                head = f"# {request.name}\n" if form == "text" and len(requests) > 1 else ""
                print(head + content, end="", flush=True)
    return faults


def _detector() -> Detector:
    try:
        return VoiceActivity()
    except UserError as error:
        print(f"note: {error}; until then, long audio is cut where it is quietest", file=sys.stderr)
        return LevelOnly()


def _local(name: str, stack: ExitStack) -> Path:
    """The path of a file; standard input is read to its end into one, since formats seek."""
    if name != _STDIN:
        return Path(name)
    path = Path(stack.enter_context(tempfile.TemporaryDirectory()), "stdin")
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path


def _write(path: Path, content: str) -> None:
    try:
        with publish(str(path)) as file:
            file.write(content.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error

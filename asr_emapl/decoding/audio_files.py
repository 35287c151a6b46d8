"""Transcribe audio files one after another: where each transcript goes, and which files cannot be read."""

from __future__ import annotations

import logging
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from asr_emapl.audio.decode import probe
from asr_emapl.audio.voice_activity import Detector, LevelOnly, VoiceActivity
from asr_emapl.decoding.beam import BeamSearch
from asr_emapl.decoding.long_audio import MIN_SECONDS, Segment, Transcript, transcribe_file
from asr_emapl.decoding.recognizer import Recognizer
from asr_emapl.decoding.transcript_formats import FORMATS
from asr_emapl.errors import UserError
from asr_emapl.progress import Progress
from asr_emapl.storage import write
from asr_emapl.terminal import visible

_logger = logging.getLogger(__name__)
_STDIN = "-"


@dataclass(frozen=True)
class TranscriptionJob:
    """An audio file as the user named it, and the file of its transcript (None: standard output)."""

    name: str
    target: Path | None


def plan_jobs(
    files: Sequence[str], form: str, out: Path | None, max_seconds: float
) -> list[TranscriptionJob]:
    """The job of each file.

    Raises:
        UserError: the format is unknown, two transcripts have the same name, subtitles of several files have
            no folder, or `max_seconds` is too short to cut audio.
    """
    if form not in FORMATS:
        raise UserError(f"--format {form!r} is not one of {', '.join(FORMATS)}")
    if not max(1.0, 2.0 * MIN_SECONDS) <= max_seconds < math.inf:
        raise UserError(f"--max-seconds {max_seconds:g}: give at least 1")
    if out is None:
        if form in ("srt", "vtt") and len(files) > 1:
            raise UserError(f"--format {form} of several files: name a folder with --out")
        return [TranscriptionJob(name, None) for name in files]
    named: dict[Path, str] = {}
    for name in files:
        stem = "stdin" if name == _STDIN else Path(name).stem
        target = out / (stem + FORMATS[form][0])
        if target in named:
            raise UserError(
                f"{name}: its transcript would replace that of {named[target]}, {target} (rename one file)"
            )
        named[target] = name
    return [TranscriptionJob(name, target) for target, name in named.items()]


def transcribe_files(
    jobs: Sequence[TranscriptionJob],
    recognizer: Recognizer,
    search: BeamSearch | None,
    form: str,
    max_seconds: float,
) -> list[str]:
    """Transcribe files, and write or print the transcripts; text is printed segment by segment.

    Returns:
        One line per file that could not be read.
    """
    faults = []
    with ExitStack() as stack:
        files = [_local(job.name, stack) for job in jobs]
        lengths = [_seconds(file) for file in files]
        detector = _detector() if any(seconds > max_seconds for seconds in lengths) else LevelOnly()
        transcribe = partial(
            transcribe_file, recognizer, detector=detector, max_seconds=max_seconds, search=search
        )
        progress = stack.enter_context(Progress("transcribing", sum(lengths)))
        for number, (job, file) in enumerate(zip(jobs, files, strict=True)):
            progress.at(job.name)
            if form == "text" and job.target is None and len(jobs) > 1:
                progress.print(f"# {job.name}\n")
            try:
                _transcribe(job, file, form, transcribe, progress)
            except UserError as error:
                faults.append(str(error).replace(str(file), job.name))
            progress.advance(sum(lengths[: number + 1]) - progress.done)
    return faults


def _transcribe(
    job: TranscriptionJob, file: Path, form: str, transcribe: Callable[..., Transcript], progress: Progress
) -> None:
    is_live = form == "text" and job.target is None

    def advance(seconds: float, segments: Sequence[Segment]) -> None:
        progress.advance(seconds)
        if is_live:
            progress.print("".join(f"{segment.text}\n" for segment in segments))

    content = FORMATS[form][1](replace(transcribe(file, advance=advance), audio=job.name))
    if job.target is not None:
        write(job.target, content)
        progress.print(visible(f"{job.target}\n"))
    elif not is_live:
        progress.print(content)


def _seconds(audio: Path) -> float:
    """Length of a file; 0 if it cannot be read, which is reported when it is transcribed."""
    try:
        return probe(audio)[0]
    except UserError:
        return 0.0


def _detector() -> Detector:
    try:
        return VoiceActivity()
    except UserError as error:
        _logger.warning("%s; until then, long audio is cut where it is quietest", error)
        return LevelOnly()


def _local(name: str, stack: ExitStack) -> Path:
    """The path of a file; standard input is copied into one, because audio formats need to seek."""
    if name != _STDIN:
        return Path(name)
    path = Path(stack.enter_context(tempfile.TemporaryDirectory()), "stdin")
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path

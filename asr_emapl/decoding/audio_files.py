"""Transcribe audio files of any length, with times. Long files are cut at pauses."""

from __future__ import annotations

import logging
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from asr_emapl.audio.decode import probe
from asr_emapl.audio.segmentation import SegmentConfig
from asr_emapl.audio.voice_activity import Detector, LevelOnly, VoiceActivity
from asr_emapl.ctc import Search
from asr_emapl.data.recordings import Recording, cut_recording
from asr_emapl.data.utterance import Utterance
from asr_emapl.decoding.spans import TimedText
from asr_emapl.decoding.transcribe import Recognizer, timed_hypotheses
from asr_emapl.decoding.transcript import FORMATS, Transcript, TranscriptSegment
from asr_emapl.errors import UserError
from asr_emapl.progress import Progress
from asr_emapl.storage import write
from asr_emapl.terminal import visible

_logger = logging.getLogger(__name__)

_MIN_SECONDS = 0.4
"""Minimum segment length: twice the silence kept at the edges, so that no speech is dropped."""
_STEP_SECONDS = 120.0
_STDIN = "-"


@dataclass(frozen=True)
class TranscriptionJob:
    """Audio file as given by the user, and output file for its transcript (None: standard output)."""

    name: str
    target: Path | None


def plan_jobs(
    files: Sequence[str], form: str, out: Path | None, max_seconds: float
) -> list[TranscriptionJob]:
    """Return the job for each file.

    Raises:
        UserError: the format is unknown; two transcripts would have the same name; subtitles are requested
            for several files without an output folder; or `max_seconds` is too short.
    """
    if form not in FORMATS:
        raise UserError(f"--format {form!r} is not one of {', '.join(FORMATS)}")
    if not 1.0 <= max_seconds < math.inf:
        raise UserError(f"--max-seconds {max_seconds:g} is too short; it must be at least 1")
    if out is None:
        if form in ("srt", "vtt") and len(files) > 1:
            raise UserError(f"--format {form} for several files requires a folder; pass --out")
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
    search: Search | None,
    form: str,
    max_seconds: float,
) -> list[str]:
    """Transcribe files, and write or print the transcripts. Text is printed segment by segment.

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
                _run(job, file, form, transcribe, progress)
            except UserError as error:
                faults.append(str(error).replace(str(file), job.name))
            progress.advance(sum(lengths[: number + 1]) - progress.done)
    return faults


def _run(
    job: TranscriptionJob, file: Path, form: str, transcribe: Callable[..., Transcript], progress: Progress
) -> None:
    is_live = form == "text" and job.target is None

    def advance(seconds: float, segments: Sequence[TranscriptSegment]) -> None:
        progress.advance(seconds)
        if is_live:
            progress.print("".join(f"{segment.text}\n" for segment in segments))

    transcript = transcribe(file, advance=advance)
    if not transcript.segments:
        _logger.warning("nothing recognised in %s", job.name)
    content = FORMATS[form][1](replace(transcript, audio=job.name))
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
        _logger.warning("%s; without it, long audio is cut where it is quietest", error)
        return LevelOnly()


def _local(name: str, stack: ExitStack) -> Path:
    """The path of a file; standard input is copied to a file, because decoding needs seeking."""
    if name != _STDIN:
        return Path(name)
    path = Path(stack.enter_context(tempfile.TemporaryDirectory()), "stdin")
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path


def transcribe_file(
    recognizer: Recognizer,
    audio: Path,
    detector: Detector,
    *,
    max_seconds: float,
    search: Search | None = None,
    advance: Callable[[float, Sequence[TranscriptSegment]], None] = lambda seconds, segments: None,
) -> Transcript:
    """Transcribe one file.

    Args:
        detector: speech detector, used only if the file is longer than `max_seconds`.
        max_seconds: maximum length of a segment; longer audio is cut.
        search: None: greedy decoding.
        advance: called in time order with the seconds of audio just processed and their segments.

    Raises:
        UserError: the file cannot be decoded.
    """
    seconds = probe(audio)[0]
    segments: list[TranscriptSegment] = []
    done = 0.0
    for group in _groups(_utterances(audio, seconds, detector, max_seconds)):
        found = sorted(_segments(recognizer, group, search), key=lambda segment: segment.begin)
        segments += found
        end = group[-1].offset + group[-1].duration
        advance(end - done, found)
        done = end
    advance(seconds - done, [])
    return Transcript(str(audio), seconds, tuple(segments))


def _groups(utterances: Sequence[Utterance]) -> Iterator[list[Utterance]]:
    """Yield groups of consecutive utterances, so that text can be shown before the file is finished."""
    group: list[Utterance] = []
    for utterance in utterances:
        if group and sum(u.duration for u in group) + utterance.duration > _STEP_SECONDS:
            yield group
            group = []
        group.append(utterance)
    if group:
        yield group


def _segments(
    recognizer: Recognizer, utterances: Sequence[Utterance], search: Search | None
) -> Iterator[TranscriptSegment]:
    """Yield a segment for each utterance with non-empty text."""
    by_id = {utterance.id: utterance for utterance in utterances}
    for batch in recognizer.posteriors(utterances, blank_silent=True):
        for h in timed_hypotheses(batch, recognizer.tokenizer, recognizer.frame_seconds, search):
            begin = by_id[h.id].offset
            end = begin + by_id[h.id].duration
            # The last frame of a model may end after the audio.
            words = tuple(
                TimedText(w.text, min(begin + w.begin, end), min(begin + w.end, end), w.confidence)
                for w in h.words
            )
            if h.text:
                yield TranscriptSegment(begin, end, h.text, h.confidence, words)


def _utterances(audio: Path, seconds: float, detector: Detector, max_seconds: float) -> Sequence[Utterance]:
    """The whole file if it is short and has no digital silence of a second, otherwise its segments."""
    is_short = seconds <= max_seconds
    target = max_seconds if is_short else max(_MIN_SECONDS, max_seconds / 2.0)
    edge = 0.0 if is_short else _MIN_SECONDS / 2.0
    limits = SegmentConfig(_MIN_SECONDS, max_seconds, target, edge_seconds=edge)
    cut = cut_recording(Recording("0", str(audio)), limits, LevelOnly() if is_short else detector)
    if cut.fault:
        raise UserError(cut.fault)
    used = sum(utterance.duration for utterance in cut.utterances)
    if is_short and (cut.lost_seconds or used > seconds - limits.pause_seconds):
        return [Utterance("0", str(audio), seconds)]
    return cut.utterances

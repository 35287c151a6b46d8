"""Segment long recordings into utterances, given as offsets into the original files."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Generator, Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.decode import LENGTH_TOLERANCE_S, probe, read_blocks
from asr_emapl.audio.segmentation import SegmentConfig, segment
from asr_emapl.audio.source import ByteRange, Source
from asr_emapl.audio.voice_activity import FRAME_SECONDS, Detector, VoiceActivity
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UnreachableError, UserError, list_findings
from asr_emapl.processes import kill, serve_parent

_MANIFEST_ENDINGS = (".jsonl", ".json")
# Formats of recordings that libsndfile decodes.
_AUDIO_ENDINGS = (
    *(".flac", ".wav", ".ogg", ".oga", ".opus", ".mp3"),
    *(".aif", ".aiff", ".au", ".caf", ".rf64", ".w64", ".sph"),
)


@dataclass(frozen=True)
class Recording:
    """A file to segment, or a part of a file from a manifest (in seconds)."""

    id: str
    audio: str
    speaker: str | None = None
    offset: float = 0.0
    duration: float | None = None
    byte_range: ByteRange | None = None
    channel: int | None = None

    @property
    def source(self) -> Source:
        """Location of the bytes, and the channel."""
        return Source(self.audio, self.byte_range, self.id, self.channel)


@dataclass(frozen=True)
class Cut:
    """The result for one recording.

    Attributes:
        utterances: utterances in order; empty if there is no speech.
        seconds: length of the recording.
        lost_seconds: speech in segments that are too short for an utterance.
        fault: error if the recording could not be read, or None.
    """

    utterances: list[Utterance] = field(default_factory=list)
    seconds: float = 0.0
    lost_seconds: float = 0.0
    fault: str | None = None


def find_recordings(sources: Sequence[Path]) -> list[Recording]:
    """Find recordings in audio files, folders (recursively) and manifests, in the given order.

    The id of a file is its name without the extension, or its path relative to the folder with - instead of
    /. An utterance of a manifest keeps its id and speaker. Duplicate files are used once.

    Raises:
        UserError: a source is missing or unreadable, a folder has no audio, or two recordings share an id.
    """
    unique: dict[Hashable, Recording] = {}
    for source in sources:
        for recording in _recordings(source):
            unique.setdefault(replace(recording, id="", speaker=None), recording)
    recordings = list(unique.values())
    first: dict[str, Recording] = {}
    findings = [
        f"{r.audio}: would have the same id {r.id!r} as {first[r.id].audio} "
        "(rename it, or specify a common parent folder)"
        for r in recordings
        if first.setdefault(r.id, r) is not r
    ]
    if findings:
        raise UserError(list_findings(findings))
    return recordings


def cut_recordings(
    recordings: Sequence[Recording], config: SegmentConfig, workers: int = 1
) -> Generator[Cut, None, None]:
    """Segment recordings in the given order; a recording that cannot be read has a `fault`.

    Args:
        workers: number of processes; 1: only this process.

    Raises:
        UserError: the detector is not installed, or a worker process died.
    """
    detector = VoiceActivity()
    if min(workers, len(recordings)) <= 1:
        yield from (cut_recording(recording, config, detector) for recording in recordings)
        return
    # Spawn, because a forked process would inherit locks of NumPy's and torch's threads.
    context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    with ProcessPoolExecutor(min(workers, len(recordings)), context, _begin) as pool:
        try:
            # Not pool.map, which cancels its futures: the pool cannot report killed workers to such futures.
            cuts = [pool.submit(_cut_in_worker, recording, config) for recording in recordings]
            yield from (cut.result() for cut in cuts)
        except BrokenProcessPool as error:
            raise UserError("a worker process died, probably out of memory (use fewer --workers)") from error
        # After an interruption, do not wait for the current recordings, which may take minutes.
        except BaseException:
            kill(set(multiprocessing.active_children()) - others)
            raise


def cut_recording(recording: Recording, config: SegmentConfig, detector: Detector) -> Cut:
    """Segment one recording into utterances with ids <recording>-<start>-<end> in milliseconds."""
    try:
        length = probe(recording.source)[0]
        blocks = read_blocks(recording.source, offset=recording.offset, duration=recording.duration)
        segments = segment(detector(blocks), config)
    except UnreachableError:
        raise
    except UserError as error:
        return Cut(fault=str(error))
    end = length if recording.duration is None else min(length, recording.offset + recording.duration)
    utterances = [_utterance(recording, span, end) for span in segments.spans]
    if len(utterances) == 1:
        utterances = [_distinct_from_whole(utterances[0], length)]
    return Cut(utterances, end - recording.offset, segments.lost_frames * FRAME_SECONDS)


def summary(cuts: Sequence[Cut]) -> str:
    """Summarise the results of all recordings in one line."""
    lengths = [u.duration for cut in cuts for u in cut.utterances]
    hours = sum(cut.seconds for cut in cuts) / 3600.0
    faults = sum(cut.fault is not None for cut in cuts)
    lost = sum(cut.lost_seconds for cut in cuts)
    kept = sum(lengths)
    return (
        f"{len(lengths)} utterances, {kept / 3600.0:.2f} h of the {hours:.2f} h in {len(cuts) - faults} "
        f"recordings (mean {kept / max(1, len(lengths)):.1f} s, longest {max(lengths, default=0.0):.1f} s); "
        f"{lost:.0f} s of speech in segments that are too short; {faults} recordings could not be read"
    )


def _utterance(recording: Recording, span: tuple[int, int], end_seconds: float) -> Utterance:
    begin = recording.offset + span[0] * FRAME_SECONDS
    # The last frame may extend beyond the recording.
    end = min(recording.offset + span[1] * FRAME_SECONDS, end_seconds)
    return Utterance(
        id=f"{recording.id}-{round(1000 * begin):08d}-{round(1000 * end):08d}",
        audio=recording.audio,
        duration=round(end - begin, 7),
        speaker=recording.speaker,
        offset=round(begin, 7),
        byte_range=recording.byte_range,
        channel=recording.channel,
    )


def _distinct_from_whole(utterance: Utterance, length: float) -> Utterance:
    """Remove the first sample of a file's only utterance if it starts at 0 and is not the whole file.

    In a manifest, an utterance at offset 0 that is the only one of its file has to be all of it (`verify`).
    """
    if utterance.offset > 0.0 or utterance.duration >= length - LENGTH_TOLERANCE_S:
        return utterance
    sample = 1.0 / SAMPLE_RATE_HZ
    return replace(utterance, offset=sample, duration=utterance.duration - sample)


def _recordings(source: Path) -> Iterator[Recording]:
    if source.suffix.lower() in _MANIFEST_ENDINGS:
        for u in read_manifest(source):
            yield Recording(u.id, u.audio, u.speaker, u.offset, u.duration, u.byte_range, u.channel)
    elif source.is_dir():
        files = _audio_below(source)
        if not files:
            raise UserError(f"{source}: has no audio files (specify a folder with audio files)")
        for path in files:
            name = "-".join(path.relative_to(source).with_suffix("").parts)
            yield Recording(name, str(path.absolute()))
    elif source.is_file():
        yield Recording(source.stem, str(source.absolute()))
    else:
        raise UserError(f"{source}: no such file or folder (correct the path)")


def _audio_below(folder: Path) -> list[Path]:
    """The audio files in a folder and its subfolders, sorted, without hidden files."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed: {error.strerror} (check its permissions)")

    return sorted(
        Path(place, name)
        for place, _, names in os.walk(folder, onerror=refuse)
        for name in names
        if Path(name).suffix.lower() in _AUDIO_ENDINGS and not name.startswith(".")
    )


@cache
def _detector() -> VoiceActivity:
    """One per worker process, because loading the network takes longer than a short file."""
    return VoiceActivity()


def _begin() -> None:
    """Initialise a worker process, before torch is imported for resampling."""
    os.environ["OMP_NUM_THREADS"] = "1"
    serve_parent(signal.SIGTERM, signal.SIGINT)


def _cut_in_worker(recording: Recording, config: SegmentConfig) -> Cut:
    return cut_recording(recording, config, _detector())

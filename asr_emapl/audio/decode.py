"""Decode audio files to mono waveforms, and read their headers.

soundfile reads the files (FLAC, WAV, Ogg, MP3 and the other formats of its libsndfile). torch is imported
with the first waveform and torchaudio with the first file that is resampled, so that importing this module
and reading headers is fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from asr_emapl import storage
from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.joined_streams import has_another_stream
from asr_emapl.audio.mpeg_messages import without_mpeg_messages
from asr_emapl.audio.source import Source
from asr_emapl.errors import UnreachableError, UserError

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]

LENGTH_TOLERANCE_S = 0.05
"""Maximum difference between stated and actual duration in seconds; a larger one is an error."""

MAX_AMPLITUDE = 1e12
"""Largest absolute value of a sample; full scale is 1.

A Hann window of 10 s, the longest that a config allows, sums to 80,000. The power of its spectrum, times the
weights of the filter bank (which sum to 10 at that length), stays within float32 for amplitudes below 7e13.
32-bit integers stored as floats without scaling reach 2e9. Much larger values overflow in the features and
make the gradient of the whole batch infinite.
"""

_MP3 = "MP3"
# Extensions of files that the MP3 decoder does not read; a shard may contain MP3 files.
_NOT_MP3 = (".flac", ".wav", ".ogg", ".opus")
# libsndfile's error code for an .mp3 file without frames.
_NO_MP3_FRAMES = 7
# libsndfile reports 2**63 - 1 frames if a header does not state the length.
_UNKNOWN_FRAMES = 2**62
# Maximum size of the resampling filter bank (70,560 for 44.1 kHz to 16 kHz). It explodes if the two rates
# have a small common divisor.
_MAX_FILTER_SIZE = 4_000_000


def amplitude_fault(samples: Floats) -> str | None:
    """What is wrong with samples of any shape; None if features can be computed from them."""
    # NaN fails every comparison. min and max allocate no memory, unlike abs.
    peak = max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))
    if peak <= MAX_AMPLITUDE:
        return None
    if not np.isfinite(peak):
        return "has NaN or infinite samples"
    return f"has samples of amplitude {peak:.3g}, more than {MAX_AMPLITUDE:g} times full scale"


def probe(audio: str | Path | Source) -> tuple[float, int, int]:
    """Duration (seconds), sample rate (Hz) and number of channels, from the header only.

    Raises:
        UserError: the file is missing, cannot be decoded, has no samples or is no longer in its shard; or it
            consists of several MP3 or Ogg files, of which only the first would be decoded.
    """
    source = _source(audio)
    with _open(source) as file:
        _require_one_stream(source)
        return file.frames / file.samplerate, file.samplerate, file.channels


def probe_whole(path: str | Path) -> tuple[float, int, int]:
    """Like `probe`, but also check that the file is as long as its header states.

    The last sample is decoded, and the size stated by a WAV file is compared with the file's size. This costs
    no more than reading the header. Truncation is not detected for formats that do not store a length (Ogg,
    most MP3).

    Raises:
        UserError: as `probe`, or the file is truncated.
    """
    source = _source(path)
    with _open(source) as file:
        _require_one_stream(source)
        try:
            with without_mpeg_messages(file.format == _MP3):
                file.seek(file.frames - 1)
                is_whole = len(file.read(1)) == 1 and not _is_truncated_riff(path)
        except (soundfile.SoundFileError, OSError):
            is_whole = False
        if not is_whole:
            raise UserError(
                f"{path}: is shorter than its header states (the copy is incomplete; copy it again)"
            )
        return file.frames / file.samplerate, file.samplerate, file.channels


def read_audio(
    audio: str | Path | Source,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    sample_rate: int = SAMPLE_RATE_HZ,
) -> torch.Tensor:
    """A mono waveform, float32 [samples] at `sample_rate`; integer formats are scaled to -1..1.

    Channels are averaged unless the source selects one. A file of another sample rate is resampled.
    Floating-point samples beyond -1..1 are not changed.

    Args:
        audio: path or URL of the audio file, or its location in a shard.
        offset: start in seconds from the beginning of the file.
        duration: in seconds; None: to the end of the file.
        sample_rate: sample rate of the returned waveform in Hz.

    Raises:
        UserError: the file is missing, unreadable, empty or not in its shard, or cannot be decoded; it ends
            more than `LENGTH_TOLERANCE_S` before `offset + duration` or before the length stated in its
            header; a sample is NaN or larger than `MAX_AMPLITUDE`.
        ValueError: offset, duration or sample_rate is out of range.
    """
    if not (math.isfinite(offset) and offset >= 0):
        raise ValueError(f"offset must be finite and >= 0, got {offset} s")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"duration must be finite and > 0, got {duration} s")
    if sample_rate <= 0:
        raise ValueError(f"sample_rate must be > 0, got {sample_rate} Hz")

    import torch

    source = _source(audio)
    with _open(source) as file:
        rate = file.samplerate
        start, frames = _span(source, file, offset, duration)
        blocks = list(_decoded(source, file, start, frames, frames))
    waveform = torch.from_numpy(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))
    return waveform if rate == sample_rate else _resample(source, waveform, rate, sample_rate)


def read_blocks(
    audio: str | Path | Source,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    block_seconds: float = 30.0,
) -> Iterator[Floats]:
    """Like `read_audio` at 16 kHz, but yield blocks of about `block_seconds`, for hours-long recordings.

    Resampling produces no artefacts at block boundaries.

    Raises:
        UserError: as `read_audio`, raised when the faulty block is reached.
    """
    source = _source(audio)
    with _open(source) as file:
        rate = file.samplerate
        start, frames = _span(source, file, offset, duration)
        blocks = _decoded(source, file, start, frames, max(1, round(block_seconds * rate)))
        yield from blocks if rate == SAMPLE_RATE_HZ else _resampled(source, blocks, rate)


def open_audio(file: str | BinaryIO, source: Source) -> soundfile.SoundFile:
    """Open the file, or the bytes, of `source`.

    Raises:
        UserError: it cannot be decoded, or has no samples according to its header.
    """
    if source.stored_by is not None:
        raise UserError(f"{source}: stored features, not audio (use the manifest of the audio)")
    try:
        with without_mpeg_messages(not source.place.lower().endswith(_NOT_MP3)):
            opened = soundfile.SoundFile(file)
    # TypeError: formats without a header (.raw), whose sample rate is unknown.
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        if _is_empty(file):
            raise UserError(f"{source}: 0 bytes (copy the file again, or remove it)") from None
        raise UserError(f"{source}: not decodable: {_reason(error)} (convert it to FLAC or WAV)") from error
    if opened.samplerate > 0 and 0 < opened.frames < _UNKNOWN_FRAMES:
        return opened
    fault = "has no samples" if opened.frames <= 0 else "its header does not state the length"
    opened.close()
    raise UserError(f"{source}: {fault} (remove it, or encode it again)")


def _reason(error: Exception) -> str:
    """Why libsndfile cannot open a file that exists."""
    if not isinstance(error, soundfile.LibsndfileError):
        return str(error)
    # libsndfile's text says that the file does not exist.
    return "no MP3 audio found" if error.code == _NO_MP3_FRAMES else error.error_string.rstrip(".")


def _is_empty(file: str | BinaryIO) -> bool:
    if isinstance(file, str):
        return Path(file).is_file() and Path(file).stat().st_size == 0
    return file.seek(0, 2) == 0


def _require_one_stream(source: Source) -> None:
    """Raise UserError if the file consists of several files, of which only the first would be decoded."""
    # Files in shards were checked when they were packed.
    if source.byte_range is None and not storage.is_url(source.place) and has_another_stream(source.place):
        raise UserError(
            f"{source}: consists of several audio files, of which only the first can be decoded "
            "(split them, or convert the file to one FLAC with ffmpeg)"
        )


def _source(audio: str | Path | Source) -> Source:
    return audio if isinstance(audio, Source) else Source(str(audio))


@contextmanager
def _open(source: Source) -> Iterator[soundfile.SoundFile]:
    """Open the source and check that its header states at least one sample.

    Raises:
        UserError: it cannot be opened.
        UnreachableError: a server fails while the file is opened or read.
    """
    try:
        file = source.open()
        if isinstance(file, str):
            # libsndfile would report "System error" for any fault.
            storage.open_file(file).close()
    except IsADirectoryError:
        raise UserError(f"{source}: is a folder (specify an audio file)") from None
    except UnreachableError:
        raise
    except FileNotFoundError:
        raise UserError(f"{source}: no such audio file (correct the path, or copy the file)") from None
    # ValueError: the path contains a NUL.
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: cannot be read: {error} (specify a readable file)") from error
    try:
        with open_audio(file, source) as opened:
            yield opened
    finally:
        source.check(file)


def _is_truncated_riff(path: str | Path) -> bool:
    """Whether a WAV file is shorter than its header states, which libsndfile does not detect.

    Writers that cannot seek back put a placeholder size of 2 or 4 GiB in the header. The byte that pads an
    odd length may be missing.
    """
    with Path(path).open("rb") as file:
        head = file.read(8)
        stated = int.from_bytes(head[4:], "little")
        return head[:4] == b"RIFF" and stated < 0x7FFF0000 and file.seek(0, 2) + 1 < stated + 8


def _span(
    source: Source, file: soundfile.SoundFile, offset: float, duration: float | None
) -> tuple[int, int]:
    """First frame and number of frames, at the file's own rate."""
    length = file.frames / file.samplerate
    end = offset if duration is None else offset + duration
    if offset >= length or end > length + LENGTH_TOLERANCE_S:
        raise UserError(
            f"{source}: {length:.2f} s long, but audio up to {end:.2f} s is requested "
            "(correct offset and duration in the manifest)"
        )
    start = min(round(offset * file.samplerate), file.frames - 1)
    rest = file.frames - start
    return start, rest if duration is None else min(max(1, round(duration * file.samplerate)), rest)


def _decoded(
    source: Source, file: soundfile.SoundFile, start: int, frames: int, block: int
) -> Iterator[Floats]:
    """`frames` mono frames of the file from `start`, at its own rate, `block` at a time."""
    left, is_mp3 = frames, file.format == _MP3
    try:
        if start:  # avoid the seek, which is slow even to the current position
            with without_mpeg_messages(is_mp3):
                file.seek(start)
        while left > 0:
            with without_mpeg_messages(is_mp3):
                x_TC = file.read(min(block, left), dtype="float32", always_2d=True)
            if len(x_TC) == 0:
                break
            left -= len(x_TC)
            yield _mono(source, x_TC)
    # MemoryError: a damaged header may state terabytes.
    except (soundfile.SoundFileError, OSError, MemoryError) as error:
        raise UserError(f"{source}: decoding failed: {error} (copy or convert the file again)") from error
    if left == frames or left > LENGTH_TOLERANCE_S * file.samplerate:
        raise UserError(
            f"{source}: ends {left / file.samplerate:.2f} s before its header states "
            "(the copy is incomplete; copy or download it again)"
        )


def _mono(source: Source, x_TC: Floats) -> Floats:
    """The requested channel, or the mean of all channels, [samples].

    Raises:
        UserError: there is no such channel, or a sample is NaN or too large.
    """
    channels = x_TC.shape[1]
    mono: Floats
    if source.channel is not None:
        if source.channel >= channels:
            raise UserError(
                f"{source}: has {channels} channel{'s' * (channels > 1)}, but channel {source.channel} "
                "is requested (channels are counted from 0; correct the manifest)"
            )
        # Make the channel contiguous; strided memory slows down all later operations.
        mono = np.ascontiguousarray(x_TC[:, source.channel])
    else:
        mono = x_TC[:, 0] if channels == 1 else x_TC.mean(axis=1)
    fault = amplitude_fault(mono)
    if fault is not None:
        raise UserError(f"{source}: {fault} (convert the file again, to 16-bit FLAC or WAV)")
    return mono


def _resampled(source: Source, blocks: Iterator[Floats], rate: int) -> Iterator[Floats]:
    """Blocks at `rate` resampled to 16 kHz.

    Samples near the end of a block are carried over to the next one.
    """
    import torch

    divisor = math.gcd(rate, SAMPLE_RATE_HZ)
    down, up = rate // divisor, SAMPLE_RATE_HZ // divisor  # `down` frames in give `up` samples out
    # torchaudio's filter has 6 zero crossings per side and a cutoff of 0.99 times the lower Nyquist
    # frequency.
    margin = math.ceil((6 / 0.99 * max(1.0, rate / SAMPLE_RATE_HZ) + 1) / down)
    silence = np.zeros(margin * down, dtype=np.float32)

    def cut(held: Floats, samples: int) -> Floats:
        y = _resample(source, torch.from_numpy(held), rate, SAMPLE_RATE_HZ).numpy()
        return y[margin * up : margin * up + samples]

    held = silence
    for block in blocks:
        held = np.concatenate([held, block])
        ready = (len(held) - 2 * len(silence)) // down
        if ready > 0:
            yield cut(held[: ready * down + 2 * len(silence)], ready * up)
            held = held[ready * down :]
    rest = math.ceil((len(held) - len(silence)) * up / down)
    if rest:
        yield cut(np.concatenate([held, silence]), rest)


def _resample(source: Source, waveform: torch.Tensor, rate: int, sample_rate: int) -> torch.Tensor:
    """Resample the waveform [samples] from `rate` to `sample_rate` (Hz)."""
    divisor = math.gcd(rate, sample_rate)
    if (rate // divisor) * (sample_rate // divisor) > _MAX_FILTER_SIZE:
        raise UserError(
            f"{source}: {rate} Hz cannot be resampled to {sample_rate} Hz here, because their common divisor "
            f"is too small (convert the file to {sample_rate} Hz with sox or ffmpeg)"
        )
    from torchaudio.functional import resample

    resampled: torch.Tensor = resample(waveform, rate, sample_rate)
    return resampled

"""Decode audio files to mono waveforms, and read their headers.

soundfile reads the files (FLAC, WAV, Ogg, MP3: all formats of its libsndfile). torch is loaded on the first
waveform and torchaudio on the first file of another sample rate, so that importing this module and reading
headers is fast.
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
from asr_emapl.audio.amplitude import amplitude_fault
from asr_emapl.audio.joined_streams import holds_another_stream
from asr_emapl.audio.source import Source
from asr_emapl.errors import UnreachableError, UserError

if TYPE_CHECKING:
    import torch

LENGTH_TOLERANCE_S = 0.05
"""Seconds by which a stated duration and the file's own length may differ before it counts as an error."""

# libsndfile gives 2**63 - 1 frames where a header does not state the length.
_UNSTATED_FRAMES = 2**62
# Cells of the filter bank that resampling between two rates takes: 44.1 kHz to 16 kHz takes 70,560. Rates
# with hardly a common divisor would fill the memory.
_MAX_FILTER_CELLS = 4_000_000


def probe(audio: str | Path | Source) -> tuple[float, int, int]:
    """Duration (seconds), sample rate (Hz) and number of channels, from the header only.

    Raises:
        UserError: the file is absent, is no audio that can be decoded, or has no samples; or a shard does
            not hold it any more; or several MP3 or Ogg files were joined to one, of which only the first
            would be decoded.
    """
    source = _source(audio)
    with _open(source) as file:
        _require_one_stream(source)
        return file.frames / file.samplerate, file.samplerate, file.channels


def probe_whole(path: str | Path) -> tuple[float, int, int]:
    """As `probe`, for a file that is as long as its header says.

    A broken copy shows at its end: the last sample is decoded, and the size that a WAV file states is
    compared with its own. That costs no more than the header does. A format that states no length (Ogg, most
    MP3) is as long as what is there, so what such a file lost is not noticed.

    Raises:
        UserError: as `probe`, or the file breaks off.
    """
    source = _source(path)
    with _open(source) as file:
        _require_one_stream(source)
        try:
            file.seek(file.frames - 1)
            is_whole = len(file.read(1)) == 1 and not _is_cut_riff(path)
        except (soundfile.SoundFileError, OSError):
            is_whole = False
        if not is_whole:
            raise UserError(
                f"{path}: breaks off before its header says (a broken copy: download the file again)"
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

    Channels are averaged unless the source names one; a file of another sample rate is resampled.
    Floating-point samples beyond -1..1 stay as they are.

    Args:
        audio: path or URL of the audio file, or where in a shard it is.
        offset: where to begin, in seconds from the file's start.
        duration: how much to read, in seconds; to the end of the file if None.
        sample_rate: of the waveform returned, in Hz.

    Raises:
        UserError: the file is absent, unreadable, undecodable or empty; a shard does not hold it; it ends
            more than `LENGTH_TOLERANCE_S` before `offset + duration`, or before its header says (a broken
            copy); a sample is NaN, or larger than `MAX_AMPLITUDE`.
        ValueError: offset, duration or sample_rate out of range.
    """
    if not (math.isfinite(offset) and offset >= 0):
        raise ValueError(f"offset is {offset} s, it has to be finite and >= 0")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"duration is {duration} s, it has to be finite and > 0")
    if sample_rate <= 0:
        raise ValueError(f"sample_rate is {sample_rate} Hz, it has to be > 0")

    import torch

    source = _source(audio)
    with _open(source) as file:
        rate = file.samplerate
        start, frames = _span(source, file, offset, duration)
        try:
            if start:  # seeking costs, even to where the file stands
                file.seek(start)
            x_TC = file.read(frames, dtype="float32", always_2d=True)  # T samples, C channels
        # MemoryError: a damaged header may claim terabytes.
        except (soundfile.SoundFileError, OSError, MemoryError) as error:
            raise UserError(f"{source}: decoding failed: {error} (copy or convert the file again)") from error
    if len(x_TC) == 0 or frames - len(x_TC) > LENGTH_TOLERANCE_S * rate:
        raise UserError(
            f"{source}: ends {(frames - len(x_TC)) / rate:.2f} s before its header says "
            "(a broken copy: download the file again)"
        )
    waveform = torch.from_numpy(_mono(source, x_TC))
    return waveform if rate == sample_rate else _resample(source, waveform, rate, sample_rate)


def read_blocks(
    audio: str | Path | Source,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    block_seconds: float = 30.0,
) -> Iterator[NDArray[np.float32]]:
    """The samples of `read_audio` at 16 kHz, in blocks of about `block_seconds`: for recordings of hours.

    Resampled blocks join without a seam, since each is resampled with its neighbourhood.

    Raises:
        UserError: as `read_audio`, once the block that it concerns is reached.
    """
    source = _source(audio)
    with _open(source) as file:
        rate = file.samplerate
        start, frames = _span(source, file, offset, duration)
        blocks = _decoded(source, file, start, frames, max(1, round(block_seconds * rate)))
        yield from blocks if rate == SAMPLE_RATE_HZ else _resampled(source, blocks, rate)


def open_audio(file: str | BinaryIO, source: Source) -> soundfile.SoundFile:
    """The file, or the bytes, of `source`, opened.

    Raises:
        UserError: it cannot be decoded, or has no samples by its header.
    """
    try:
        opened = soundfile.SoundFile(file)
    # TypeError: headerless formats (.raw), whose sample rate only the caller could know.
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        if _is_empty(file):
            raise UserError(f"{source}: 0 bytes (fetch the file again, or leave it out)") from None
        raise UserError(f"{source}: not decodable: {error} (convert it to FLAC or WAV)") from error
    if opened.samplerate > 0 and 0 < opened.frames < _UNSTATED_FRAMES:
        return opened
    fault = "has no samples" if opened.frames <= 0 else "its header does not state the length"
    opened.close()
    raise UserError(f"{source}: {fault} (leave it out, or encode it again)")


def _is_empty(file: str | BinaryIO) -> bool:
    if isinstance(file, str):
        return Path(file).is_file() and Path(file).stat().st_size == 0
    return file.seek(0, 2) == 0


def _require_one_stream(source: Source) -> None:
    """UserError if the file is several, one after another, of which only the first would be decoded."""
    # In shards lie files that were probed when they were packed.
    if source.byte_range is None and not storage.is_url(source.place) and holds_another_stream(source.place):
        raise UserError(
            f"{source}: several audio files joined to one, of which only the first can be decoded "
            "(split them, or convert the file to one FLAC with ffmpeg)"
        )


def _source(audio: str | Path | Source) -> Source:
    return audio if isinstance(audio, Source) else Source(str(audio))


@contextmanager
def _open(source: Source) -> Iterator[soundfile.SoundFile]:
    """The source, opened, with at least one sample by its header; UserError otherwise.

    UnreachableError also where reading in the context failed for want of a server.
    """
    try:
        file = source.open()
        if isinstance(file, str):
            # libsndfile would say "System error", whatever is wrong.
            storage.open_file(file).close()
    except IsADirectoryError:
        raise UserError(f"{source}: is a folder (name the audio files in it)") from None
    except UnreachableError:
        raise
    except FileNotFoundError:
        raise UserError(f"{source}: no such audio file (correct the path, or fetch the file)") from None
    # ValueError: a NUL in the path.
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: cannot be read: {error} (name a readable file)") from error
    try:
        with open_audio(file, source) as opened:
            yield opened
    finally:
        source.check(file)


def _is_cut_riff(path: str | Path) -> bool:
    """Whether a WAV file is shorter than it states; libsndfile takes such a one for whole.

    Writers that cannot go back in their output state the largest size that they know, 2 or 4 GiB. The byte
    that pads an odd length may be absent.
    """
    with Path(path).open("rb") as file:
        head = file.read(8)
        stated = int.from_bytes(head[4:], "little")
        return head[:4] == b"RIFF" and stated < 0x7FFF0000 and file.seek(0, 2) + 1 < stated + 8


def _span(
    source: Source, file: soundfile.SoundFile, offset: float, duration: float | None
) -> tuple[int, int]:
    """First frame and number of frames, at the file's own rate, that the seconds asked for amount to."""
    length = file.frames / file.samplerate
    end = offset if duration is None else offset + duration
    if offset >= length or end > length + LENGTH_TOLERANCE_S:
        raise UserError(
            f"{source}: {length:.2f} s long, but audio up to {end:.2f} s was asked for "
            "(correct offset and duration in the manifest)"
        )
    start = min(round(offset * file.samplerate), file.frames - 1)
    rest = file.frames - start
    return start, rest if duration is None else min(max(1, round(duration * file.samplerate)), rest)


def _decoded(
    source: Source, file: soundfile.SoundFile, start: int, frames: int, block: int
) -> Iterator[NDArray[np.float32]]:
    """`frames` mono frames of the file from `start` on, at its own rate, `block` at a time."""
    left = frames
    try:
        file.seek(start)
        while left > 0:
            x_TC = file.read(min(block, left), dtype="float32", always_2d=True)
            if len(x_TC) == 0:
                break
            left -= len(x_TC)
            yield _mono(source, x_TC)
    except (soundfile.SoundFileError, OSError, MemoryError) as error:
        raise UserError(f"{source}: decoding failed: {error} (copy or convert the file again)") from error
    if left == frames or left > LENGTH_TOLERANCE_S * file.samplerate:
        raise UserError(
            f"{source}: ends {left / file.samplerate:.2f} s before its header says "
            "(a broken copy: download the file again)"
        )


def _mono(source: Source, x_TC: NDArray[np.float32]) -> NDArray[np.float32]:
    """The channel that is meant, or the mean of all, [samples].

    Raises:
        UserError: there is no such channel, or a sample is not a number or too large.
    """
    channels = x_TC.shape[1]
    mono: NDArray[np.float32]
    if source.channel is not None:
        if source.channel >= channels:
            raise UserError(
                f"{source}: has {channels} channel{'s' * (channels > 1)}, but channel {source.channel} "
                "was asked for (channels are counted from 0; correct the manifest)"
            )
        # Strided memory would slow down all that follows.
        mono = np.ascontiguousarray(x_TC[:, source.channel])
    else:
        mono = x_TC[:, 0] if channels == 1 else x_TC.mean(axis=1)
    fault = amplitude_fault(mono)
    if fault is not None:
        raise UserError(f"{source}: {fault} (convert the file again, to 16-bit FLAC or WAV)")
    return mono


def _resampled(
    source: Source, blocks: Iterator[NDArray[np.float32]], rate: int
) -> Iterator[NDArray[np.float32]]:
    """Blocks at `rate` as blocks at 16 kHz; of each, what lies too near its end waits for the next."""
    import torch

    divisor = math.gcd(rate, SAMPLE_RATE_HZ)
    down, up = rate // divisor, SAMPLE_RATE_HZ // divisor  # `down` frames in give `up` samples out
    # torchaudio's filter reaches 6 zero crossings, at 0.99 of the lower Nyquist frequency, to either side.
    margin = math.ceil((6 / 0.99 * max(1.0, rate / SAMPLE_RATE_HZ) + 1) / down)
    silence = np.zeros(margin * down, dtype=np.float32)

    def cut(held: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
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
    """The waveform [samples] at `sample_rate` instead of `rate` (both Hz)."""
    divisor = math.gcd(rate, sample_rate)
    if (rate // divisor) * (sample_rate // divisor) > _MAX_FILTER_CELLS:
        raise UserError(
            f"{source}: {rate} Hz has too small a divisor in common with {sample_rate} Hz to be resampled "
            f"here (convert the file to {sample_rate} Hz with sox or ffmpeg)"
        )
    from torchaudio.functional import resample

    resampled: torch.Tensor = resample(waveform, rate, sample_rate)
    return resampled

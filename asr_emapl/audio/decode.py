"""Audio files to mono waveforms, and the facts in their headers.

soundfile does the reading (FLAC, WAV, Ogg, MP3: whatever its libsndfile knows). torch is loaded on the first
waveform and torchaudio on the first file of another sample rate, so that importing this module, and looking
at headers, stays cheap.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import soundfile

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.errors import UserError

if TYPE_CHECKING:
    import torch

LENGTH_TOLERANCE_S = 0.05
"""Seconds by which a stated duration and the file's own length may differ before it counts as an error."""

# libsndfile gives 2**63 - 1 frames where a header does not state the length.
_UNSTATED_FRAMES = 2**62
# Cells of the filter bank that resampling between two rates takes: 44.1 kHz to 16 kHz takes 70,560. Rates
# with hardly a common divisor would fill the memory.
_MAX_FILTER_CELLS = 4_000_000


def probe(path: str | Path) -> tuple[float, int, int]:
    """Duration (seconds), sample rate (Hz) and number of channels, from the header only.

    Raises:
        UserError: the file is absent, is no audio that can be decoded, or holds no samples.
    """
    with _open(path) as file:
        return file.frames / file.samplerate, file.samplerate, file.channels


def read_audio(
    path: str | Path, *, offset: float = 0.0, duration: float | None = None, sample_rate: int = SAMPLE_RATE_HZ
) -> torch.Tensor:
    """A mono waveform, float32 [samples] at `sample_rate`; integer formats are scaled to -1..1.

    Channels are averaged; a file of another sample rate is resampled.

    Args:
        path: the audio file.
        offset: where to begin, in seconds from the file's start.
        duration: how much to read, in seconds; to the end of the file if None.
        sample_rate: of the waveform returned, in Hz.

    Raises:
        UserError: the file is absent, undecodable or empty; it ends more than `LENGTH_TOLERANCE_S` before
            `offset + duration`, or before its header says (a broken copy); a sample is NaN or infinite.
        ValueError: offset, duration or sample_rate out of range.
    """
    if not (math.isfinite(offset) and offset >= 0):
        raise ValueError(f"offset is {offset} s, it has to be finite and >= 0")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"duration is {duration} s, it has to be finite and > 0")
    if sample_rate <= 0:
        raise ValueError(f"sample_rate is {sample_rate} Hz, it has to be > 0")

    import torch

    with _open(path) as file:
        rate = file.samplerate
        start, frames = _span(path, file, offset, duration)
        try:
            if start:  # seeking costs, even to where the file stands
                file.seek(start)
            x_TC = file.read(frames, dtype="float32", always_2d=True)  # T samples, C channels
        # MemoryError: a damaged header may claim terabytes.
        except (soundfile.SoundFileError, OSError, MemoryError) as error:
            raise UserError(f"{path}: decoding failed: {error} (copy or convert the file again)") from error
    if len(x_TC) == 0 or frames - len(x_TC) > LENGTH_TOLERANCE_S * rate:
        raise UserError(
            f"{path}: ends {(frames - len(x_TC)) / rate:.2f} s before its header says "
            "(a broken copy: fetch the file again)"
        )
    waveform = torch.from_numpy(x_TC[:, 0] if x_TC.shape[1] == 1 else x_TC.mean(axis=1))
    # The sum of finite samples is finite, unless they are absurd; looking at each takes longer than adding.
    if not math.isfinite(float(waveform.sum())) and not bool(torch.isfinite(waveform).all()):
        raise UserError(
            f"{path}: holds NaN or infinite samples (convert the file again, to 16-bit FLAC or WAV)"
        )
    return waveform if rate == sample_rate else _resample(path, waveform, rate, sample_rate)


def _open(path: str | Path) -> soundfile.SoundFile:
    """The file, opened, with at least one sample by its header; UserError otherwise."""
    try:
        # libsndfile's own message for an absent file is "System error".
        if not Path(path).is_file():
            raise UserError(f"{path}: no such audio file (mend the path, or fetch the file)")
        file = soundfile.SoundFile(path)
    # TypeError: headerless formats (.raw), whose sample rate only the caller could know.
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not decodable: {error} (convert it to FLAC or WAV)") from error
    if file.samplerate > 0 and 0 < file.frames < _UNSTATED_FRAMES:
        return file
    fault = "holds no samples" if file.frames <= 0 else "its header does not state the length"
    file.close()
    raise UserError(f"{path}: {fault} (leave it out, or encode it again)")


def _span(
    path: str | Path, file: soundfile.SoundFile, offset: float, duration: float | None
) -> tuple[int, int]:
    """First frame and number of frames, at the file's own rate, that the seconds asked for amount to."""
    length = file.frames / file.samplerate
    end = offset if duration is None else offset + duration
    if offset >= length or end > length + LENGTH_TOLERANCE_S:
        raise UserError(
            f"{path}: {length:.2f} s long, but audio up to {end:.2f} s was asked for "
            "(correct offset and duration in the manifest)"
        )
    start = min(round(offset * file.samplerate), file.frames - 1)
    rest = file.frames - start
    return start, rest if duration is None else min(max(1, round(duration * file.samplerate)), rest)


def _resample(path: str | Path, waveform: torch.Tensor, rate: int, sample_rate: int) -> torch.Tensor:
    """The waveform [samples] at `sample_rate` instead of `rate` (both Hz)."""
    divisor = math.gcd(rate, sample_rate)
    if (rate // divisor) * (sample_rate // divisor) > _MAX_FILTER_CELLS:
        raise UserError(
            f"{path}: {rate} Hz has too small a divisor in common with {sample_rate} Hz to be resampled here "
            f"(convert the file to {sample_rate} Hz with sox or ffmpeg)"
        )
    from torchaudio.functional import resample

    resampled: torch.Tensor = resample(waveform, rate, sample_rate)
    return resampled

"""Shards of audio: whole files or re-encoded utterances in large tar files; see `data.shard_writer`."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.decode import open_audio, read_audio
from asr_emapl.data.read_ahead import read_ahead
from asr_emapl.data.shard_writer import Packed, ShardFile, write_shards
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UnreachableError, UserError

# libsndfile's format and subtype of a re-encoded file, and its file extension.
_ENCODINGS = {"flac": ("FLAC", "PCM_16", "flac"), "opus": ("OGG", "OPUS", "opus")}
CODECS = ("as-is", *_ENCODINGS)


@dataclass(frozen=True)
class ShardConfig:
    """Options of packing.

    The codec `as-is` copies whole files, even if they have several utterances. `flac` and `opus` extract each
    utterance and convert it to 16 kHz mono. flac has 16 bits per sample; opus is lossy, has a fifth of the
    size of flac, and encodes at about 30 times real time per core.
    """

    codec: str = "as-is"
    # A shard is complete when it reaches this size.
    mib: float = 512.0
    # Number of files that are read and encoded in parallel.
    workers: int = 2


def pack(
    manifest: str | Path,
    out: str | Path,
    config: ShardConfig | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Packed:
    """Pack the audio of a manifest; see `write_shards`. Re-encoding clips samples at -1 and 1.

    Raises:
        UserError: see `write_shards`; also if the audio cannot be read, or the config is out of range.
    """
    config = config or ShardConfig()
    _check(config)
    return write_shards(manifest, out, _AudioFiles(config), config.mib, say)


def _check(config: ShardConfig) -> None:
    if config.codec not in CODECS:
        raise UserError(f"codec {config.codec!r} is not one of {', '.join(CODECS)}")
    if config.workers < 1:
        raise UserError(f"{config.workers} workers are too few (use 1 or more)")


class _AudioFiles:
    """See `ShardContent`; prefetches a few files."""

    suffix = ".tar"

    def __init__(self, config: ShardConfig) -> None:
        self.config, self.identity, self.whole = config, config.codec, config.codec == "as-is"

    def files(self, utterances: Sequence[Utterance]) -> Generator[ShardFile, None, None]:
        """See `ShardContent.files`."""
        encode = partial(_encode, codec=self.config.codec)
        for _, file in read_ahead(utterances, encode, threads=self.config.workers):
            yield file


def _encode(utterance: Utterance, codec: str) -> ShardFile:
    """The utterance's whole file, or only the utterance if re-encoded. UserError: it cannot be read."""
    source = utterance.source
    if codec == "as-is":
        try:
            content = source.content()
        except UnreachableError:
            raise
        except OSError as error:
            raise UserError(
                f"{source}: cannot be read: {error} (correct the path, or copy the file)"
            ) from error
        with open_audio(io.BytesIO(content), source) as file:
            return ShardFile(content, "wav" if file.format == "WAVEX" else file.format.lower(), False)
    samples = read_audio(source, offset=utterance.offset, duration=utterance.duration).numpy()
    # libsndfile would scale by 32,767, which would change 16-bit audio.
    pcm = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    format_, coding, ending = _ENCODINGS[codec]
    encoded = io.BytesIO()
    soundfile.write(encoded, pcm, SAMPLE_RATE_HZ, format=format_, subtype=coding)
    return ShardFile(encoded.getvalue(), ending, bool(np.abs(samples).max() > 1))

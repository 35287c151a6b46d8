"""Shards: pack the audio of a manifest into a few large tar files, which are read by byte ranges.

The tar files are not compressed. Their members are complete audio files, which any tar program can list and
extract. The manifest beside the shards has the shard and the byte range of each utterance, so random access
takes one seek, or one request to a server, per utterance.

Order and durations, and therefore the batch plan, are those of the original manifest.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soundfile

from asr_emapl import storage
from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.decode import open_audio, read_audio
from asr_emapl.audio.source import ByteRange
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UnreachableError, UserError
from asr_emapl.storage import check_outputs, read_object

# libsndfile's format and subtype of a re-encoded file, and its file extension.
_ENCODINGS = {"flac": ("FLAC", "PCM_16", "flac"), "opus": ("OGG", "OPUS", "opus")}
CODECS = ("as-is", *_ENCODINGS)
# A tar file consists of blocks, and ends with two blocks of zeros.
_BLOCK_BYTES = 512


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


@dataclass(frozen=True)
class Packed:
    """The written manifest, and the shards beside it."""

    manifest: str
    utterances: int
    shards: list[str]


def pack(
    manifest: str | Path,
    out: str | Path,
    config: ShardConfig | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Packed:
    """Pack the audio of a manifest NAME.jsonl as NAME-000000.tar and so on, and write NAME.jsonl beside them.

    Shards are written atomically, and the manifest after the last shard. After an interruption, the same call
    resumes after the last complete shard; the config and the manifest up to there must not have changed.
    Re-encoding clips samples at -1 and 1.

    Args:
        manifest: path or URL.
        out: folder for shards and manifest: a path or a writable URL.
        config: options of packing.
        say: called with one line per shard.

    Raises:
        UserError: the manifest is invalid; its audio cannot be read; `out` already has a manifest of that
            name, or shards from another call, or shards that are the manifest's audio; `out` cannot be
            written; the config is out of range.
    """
    config = config or ShardConfig()
    _check(config)
    utterances = read_manifest(manifest)
    name = storage.split(manifest)[1]
    out = str(out) if storage.is_url(out) else str(Path(out).absolute())
    target = storage.join(out, name)
    shards = _Shards(out, PurePath(name).stem, utterances, config, say)
    try:
        if storage.size(target) is not None:
            raise UserError(f"{target}: already exists (use another folder, or remove it to pack again)")
        check_outputs(shards.existing(), {u.audio for u in utterances})
        shards.resume()
        shards.pack_rest()
        write_manifest(target, shards.packed())
        shards.forget(0)
    except UnreachableError:
        raise
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written: {error} (fix that, then rerun the same command to resume)"
        ) from error
    return Packed(target, len(utterances), [shards.place(i) for i in range(shards.count)])


def _check(config: ShardConfig) -> None:
    if config.codec not in CODECS:
        raise UserError(f"codec {config.codec!r} is not one of {', '.join(CODECS)}")
    if not config.mib > 0:
        raise UserError(f"shard size {config.mib} MiB is not positive (use a size > 0)")
    if config.workers < 1:
        raise UserError(f"{config.workers} workers are too few (use 1 or more)")


class _Shards:
    """The shards of one manifest: their number, and the positions of the utterances packed so far.

    Until all shards are written, each has a hidden record beside it, with its content and a hash of its
    input. After an interruption, packing resumes after the last shard with a record.
    """

    def __init__(
        self,
        folder: str,
        stem: str,
        utterances: Sequence[Utterance],
        config: ShardConfig,
        say: Callable[[str], None],
    ) -> None:
        self._folder, self._stem, self._say = folder, stem, say
        self._utterances, self._config = utterances, config
        self.count = 0
        # A hash of the config and the utterances so far.
        self._made_from = f"{config.codec} {config.mib}"
        # Shard and byte range of each utterance so far.
        self._entries: list[tuple[int, ByteRange]] = []
        # For each utterance, the first with the same file, which is packed only once in whole files.
        first: dict[object, int] = {}
        whole = config.codec == "as-is"
        self._origins = [
            first.setdefault((u.audio, u.byte_range) if whole else i, i) for i, u in enumerate(utterances)
        ]

    def place(self, shard: int) -> str:
        """Path or URL of a shard."""
        return storage.join(self._folder, f"{self._stem}-{shard:06d}.tar")

    def existing(self) -> list[str]:
        """The existing shards, up to the first missing one."""
        places: list[str] = []
        while storage.size(place := self.place(len(places))) is not None:
            places.append(place)
        return places

    def resume(self) -> None:
        """Keep the complete shards of an interrupted call."""
        while (record := self._read_record(self.count)) is not None:
            place = self.place(self.count)
            made_from = self._made_from_next(len(record["entries"]))
            if record["made_from"] != made_from:
                raise UserError(
                    f"{place}: was packed from another manifest or with another config (finish that first, "
                    f"use another folder, or remove {self._stem}-*.tar and .{self._stem}-*.json here)"
                )
            if storage.size(place) != record["bytes"]:
                break
            self._entries += [(shard, ByteRange(*part)) for shard, *part in record["entries"]]
            self._made_from = made_from
            self.count += 1
            self._say(f"{place}: already exists")
        self.forget(self.count)

    def pack_rest(self) -> None:
        """Pack the remaining utterances."""
        rest = range(len(self._entries), len(self._utterances))
        files = [self._utterances[i] for i in rest if self._origins[i] == i]
        with closing(_encoded(files, self._config)) as encoded:
            while len(self._entries) < len(self._utterances):
                self._pack_one(encoded)

    def packed(self) -> list[Utterance]:
        """All utterances, with their positions in the shards."""
        whole = self._config.codec == "as-is"
        return [
            replace(u, audio=self.place(shard), byte_range=part)
            if whole
            else replace(u, audio=self.place(shard), byte_range=part, offset=0.0, channel=None)
            for u, (shard, part) in zip(self._utterances, self._entries, strict=True)
        ]

    def forget(self, start: int) -> None:
        """Remove the records from shard `start` on, the last one first, so that no gap is left."""
        end = start
        while storage.size(self._record(end)) is not None:
            end += 1
        for shard in reversed(range(start, end)):
            storage.remove(self._record(shard))

    def _pack_one(self, encoded: Iterator[_File]) -> None:
        place = self.place(self.count)
        with storage.publish(place) as tar:
            made, clipped = self._fill(tar, encoded)
            length = tar.tell()
        self._made_from = self._made_from_next(len(made))
        self._entries += made
        entries = [(shard, part.start, part.length, part.crc32) for shard, part in made]
        record = {"made_from": self._made_from, "bytes": length, "entries": entries}
        with storage.publish(self._record(self.count)) as file:
            file.write(json.dumps(record).encode())
        self.count += 1
        line = f"{place}: {len(made)} utterances, {length / 2**20:.1f} MiB"
        self._say(line + (f"; {clipped} of them clipped at -1..1" if clipped else ""))

    def _fill(self, tar: BinaryIO, encoded: Iterator[_File]) -> tuple[list[tuple[int, ByteRange]], int]:
        """Write one shard; return the new entries and the number of clipped files."""
        done, limit = len(self._entries), self._config.mib * 2**20
        made: list[tuple[int, ByteRange]] = []
        clipped = 0
        for i in range(done, len(self._utterances)):
            origin = self._origins[i]
            if origin < i:
                made.append(self._entries[origin] if origin < done else made[origin - done])
                continue
            if tar.tell() >= limit:
                break
            file = next(encoded)
            clipped += file.clipped
            # A slash would create a folder.
            member = tarfile.TarInfo(f"{self._utterances[i].id.replace('/', '_')}.{file.ending}")
            made.append((self.count, _add(tar, member, file.content)))
        tar.write(bytes(2 * _BLOCK_BYTES))
        return made, clipped

    def _record(self, shard: int) -> str:
        return storage.join(self._folder, f".{self._stem}-{shard:06d}.json")

    def _read_record(self, shard: int) -> dict[str, Any] | None:
        place = self._record(shard)
        if storage.size(place) is None:
            return None
        expected = f"the record of an interrupted call (remove it and {self.place(shard)})"
        record = read_object(place, expected)
        if not _is_record(record):
            raise UserError(f"{place}: not {expected}")
        return record

    def _made_from_next(self, count: int) -> str:
        """`_made_from` after the next `count` utterances."""
        digest = hashlib.sha256(self._made_from.encode())
        done = len(self._entries)
        for utterance in self._utterances[done : done + count]:
            digest.update(repr(utterance).encode())
        return digest.hexdigest()


def _is_record(record: dict[str, Any]) -> bool:
    """Whether a JSON object has the entries of a record."""
    entries = record.get("entries")
    return (
        isinstance(record.get("made_from"), str)
        and isinstance(record.get("bytes"), int)
        and isinstance(entries, list)
        and all(isinstance(e, list) and len(e) == 4 and all(type(n) is int for n in e) for e in entries)
    )


def _add(tar: BinaryIO, member: tarfile.TarInfo, content: bytes) -> ByteRange:
    """Append a file to a tar."""
    member.size = len(content)
    tar.write(member.tobuf(tarfile.PAX_FORMAT))
    start = tar.tell()
    tar.write(content)
    tar.write(bytes(-len(content) % _BLOCK_BYTES))
    return ByteRange(start, len(content), zlib.crc32(content))


class _File(NamedTuple):
    """An audio file to pack. `clipped`: samples were clipped at -1 or 1."""

    content: bytes
    ending: str
    clipped: bool


def _encoded(utterances: Sequence[Utterance], config: ShardConfig) -> Generator[_File, None, None]:
    """Yield the file of each utterance in order; prefetches a few."""
    with ThreadPoolExecutor(config.workers) as pool:
        ahead: deque[Future[_File]] = deque()
        try:
            for utterance in utterances:
                ahead.append(pool.submit(_encode, utterance, config.codec))
                if len(ahead) > config.workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _encode(utterance: Utterance, codec: str) -> _File:
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
            return _File(content, "wav" if file.format == "WAVEX" else file.format.lower(), False)
    samples = read_audio(source, offset=utterance.offset, duration=utterance.duration).numpy()
    # libsndfile would scale by 32,767, which would change 16-bit audio.
    pcm = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    format_, coding, ending = _ENCODINGS[codec]
    encoded = io.BytesIO()
    soundfile.write(encoded, pcm, SAMPLE_RATE_HZ, format=format_, subtype=coding)
    return _File(encoded.getvalue(), ending, bool(np.abs(samples).max() > 1))

"""Shards: the audio of a manifest in a few large tar files, read by byte ranges.

A tar file is not compressed: its members are complete audio files, and any tar program lists and extracts
them. The manifest beside the shards has the shard and the byte range of each utterance. So reading in any
order takes one seek, or one request to a server, per utterance.

The order and the durations, and so the batch plan, are those of the original manifest.
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

# libsndfile's names for the format and coding of a re-encoded file, and its ending.
_ENCODINGS = {"flac": ("FLAC", "PCM_16", "flac"), "opus": ("OGG", "OPUS", "opus")}
CODECS = ("as-is", *_ENCODINGS)
# A tar consists of blocks, and ends with two that are zero.
_BLOCK_BYTES = 512


@dataclass(frozen=True)
class ShardConfig:
    """How audio is packed.

    `as-is` copies files, and a recording of several utterances as a whole. `flac` and `opus` cut out each
    utterance and convert it to 16 kHz mono: flac with 16 bits per sample; opus is lossy, a fifth of the size
    of flac, and encodes at about 30 times real time per core.
    """

    codec: str = "as-is"
    # A shard ends with the file that reaches this size.
    mib: float = 512.0
    # Files that are read and encoded at the same time.
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

    A shard appears under its name when it is complete, and the manifest after the last shard. After an
    interruption, the same call resumes after the last complete shard; the config and the manifest up to there
    must not have changed. Re-encoding clips samples at -1 and 1.

    Args:
        manifest: path or URL.
        out: folder for shards and manifest: a path, or a URL that can be written to.
        config: how to pack.
        say: called with one line per shard.

    Raises:
        UserError: the manifest is wrong; its audio cannot be read; `out` already has a manifest of that name,
            or shards of another packing, or shards that the manifest reads; `out` cannot be written; the
            config is out of range.
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
            raise UserError(f"{target}: exists already (name another folder, or remove it to pack again)")
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
        raise UserError(f"shards of {config.mib} MiB are impossible (give a size > 0)")
    if config.workers < 1:
        raise UserError(f"{config.workers} workers are too few (give 1 or more)")


class _Shards:
    """The shards of one manifest: their number, and the places of the utterances packed so far.

    Until all are written, each shard has a hidden record beside it, with its content and what it was made
    from. An interrupted packing resumes after the last shard that has one.
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
        # For each utterance, the first with the same file, which is packed once if files stay whole.
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
        """Keep the complete shards of an interrupted packing."""
        while (record := self._read_record(self.count)) is not None:
            place = self.place(self.count)
            made_from = self._made_from_next(len(record["entries"]))
            if record["made_from"] != made_from:
                raise UserError(
                    f"{place}: was packed from another manifest or with another config (finish that, name "
                    f"another folder, or remove {self._stem}-*.tar and .{self._stem}-*.json from this one)"
                )
            if storage.size(place) != record["bytes"]:
                break
            self._entries += [(shard, ByteRange(*part)) for shard, *part in record["entries"]]
            self._made_from = made_from
            self.count += 1
            self._say(f"{place}: exists already")
        self.forget(self.count)

    def pack_rest(self) -> None:
        """Pack the remaining utterances."""
        rest = range(len(self._entries), len(self._utterances))
        files = [self._utterances[i] for i in rest if self._origins[i] == i]
        with closing(_encoded(files, self._config)) as encoded:
            while len(self._entries) < len(self._utterances):
                self._pack_one(encoded)

    def packed(self) -> list[Utterance]:
        """All utterances, with their places in the shards."""
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
        """Write one shard; returns the new entries and the number of clipped files."""
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
        expected = f"the record of an interrupted packing (remove it and {self.place(shard)})"
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
    """Whether it has the entries of a record."""
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
    """Yield the file of each utterance in order; a few are encoded ahead."""
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
    """The whole file of the utterance, or only the utterance if re-encoded. UserError: it cannot be read."""
    source = utterance.source
    if codec == "as-is":
        try:
            content = source.content()
        except UnreachableError:
            raise
        except OSError as error:
            raise UserError(
                f"{source}: cannot be read: {error} (correct the path, or fetch the file)"
            ) from error
        with open_audio(io.BytesIO(content), source) as file:
            return _File(content, "wav" if file.format == "WAVEX" else file.format.lower(), False)
    samples = read_audio(source, offset=utterance.offset, duration=utterance.duration).numpy()
    # libsndfile would scale by 32,767, which changes 16-bit audio.
    pcm = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    format_, coding, ending = _ENCODINGS[codec]
    encoded = io.BytesIO()
    soundfile.write(encoded, pcm, SAMPLE_RATE_HZ, format=format_, subtype=coding)
    return _File(encoded.getvalue(), ending, bool(np.abs(samples).max() > 1))

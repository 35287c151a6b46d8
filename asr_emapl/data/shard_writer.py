"""Write one file per utterance into a few large tar files, which are read by byte ranges.

The tar files are not compressed. Their members are complete files, which any tar program can list and
extract. The manifest beside the shards has the shard and the byte range of each utterance, so random access
takes one seek, or one request to a server, per utterance.

Order and durations, and therefore the batch plan, are those of the original manifest.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple, Protocol

from asr_emapl import storage
from asr_emapl.audio.source import ByteRange
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UnreachableError, UserError
from asr_emapl.storage import check_outputs, read_object

# A tar file consists of blocks, and ends with two blocks of zeros.
_BLOCK_BYTES = 512


class ShardFile(NamedTuple):
    """A file to pack. `clipped`: samples of the audio were clipped at -1 or 1."""

    content: bytes
    ending: str
    clipped: bool = False


class ShardContent(Protocol):
    """What is packed.

    Attributes:
        identity: everything besides the utterances that determines the files.
        whole: whether the utterances of one audio file share one file in the shard.
        suffix: of the shards' names, which are NAME-000000SUFFIX.
    """

    identity: str
    whole: bool
    suffix: str

    def files(self, utterances: Sequence[Utterance]) -> Generator[ShardFile, None, None]:
        """Yield the file of each utterance, in order."""
        ...


@dataclass(frozen=True)
class Packed:
    """The written manifest, and the shards beside it."""

    manifest: str
    utterances: int
    shards: list[str]


def write_shards(
    manifest: str | Path,
    out: str | Path,
    content: ShardContent,
    mib: float,
    say: Callable[[str], None] = lambda line: None,
) -> Packed:
    """Pack a manifest NAME.jsonl as NAME-000000.tar and so on, and write NAME.jsonl beside them.

    Shards are written atomically, and the manifest after the last shard. After an interruption, the same call
    resumes after the last complete shard; the content and the manifest up to there must not have changed.

    Args:
        manifest: path or URL.
        out: folder for shards and manifest: a path or a writable URL.
        mib: a shard is complete when it reaches this size.
        say: called with one line per shard.

    Raises:
        UserError: the manifest is invalid; a file cannot be made; `out` already has a manifest of that name,
            or shards from another call, or shards that are the manifest's audio; `out` cannot be written.
    """
    if not mib > 0:
        raise UserError(f"shard size {mib} MiB is not positive (use a size > 0)")
    utterances = read_manifest(manifest)
    name = storage.split(manifest)[1]
    out = str(out) if storage.is_url(out) else str(Path(out).absolute())
    target = storage.join(out, name)
    shards = _Shards(out, PurePath(name).stem, utterances, content, mib, say)
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
        content: ShardContent,
        mib: float,
        say: Callable[[str], None],
    ) -> None:
        self._folder, self._stem, self._say = folder, stem, say
        self._utterances, self._content, self._mib = utterances, content, mib
        self.count = 0
        # A hash of the content's identity and the utterances so far.
        self._made_from = f"{content.identity} {mib}"
        # Shard and byte range of each utterance so far.
        self._entries: list[tuple[int, ByteRange]] = []
        # For each utterance, the first with the same file, which is packed only once in whole files.
        first: dict[object, int] = {}
        self._origins = [
            first.setdefault((u.audio, u.byte_range) if content.whole else i, i)
            for i, u in enumerate(utterances)
        ]

    def place(self, shard: int) -> str:
        """Path or URL of a shard."""
        return storage.join(self._folder, f"{self._stem}-{shard:06d}{self._content.suffix}")

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
                    f"{place}: was packed from another manifest or with other options (finish that first, "
                    f"use another folder, or remove {self._stem}-*{self._content.suffix} and "
                    f".{self._stem}-*.json here)"
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
        with closing(self._content.files(files)) as encoded:
            while len(self._entries) < len(self._utterances):
                self._pack_one(encoded)

    def packed(self) -> list[Utterance]:
        """All utterances, with their positions in the shards."""
        return [
            replace(u, audio=self.place(shard), byte_range=part)
            if self._content.whole
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

    def _pack_one(self, encoded: Iterator[ShardFile]) -> None:
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

    def _fill(self, tar: BinaryIO, encoded: Iterator[ShardFile]) -> tuple[list[tuple[int, ByteRange]], int]:
        """Write one shard; return the new entries and the number of clipped files."""
        done, limit = len(self._entries), self._mib * 2**20
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

"""Where the bytes of an audio file are: in a local file, at a URL, or in a shard with other files."""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from asr_emapl import storage
from asr_emapl.errors import UnreachableError, UserError

# Larger files are read in parts, because an utterance may be a small part of a long recording.
_WHOLE_BYTES = 4 << 20
# Read size: a compromise between few requests and few unneeded bytes.
_BUFFER_BYTES = 128 << 10
_FEATURES = re.compile(r"\.([0-9a-f]{12})\.features\.tar$")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Position of an audio file in a shard, in bytes, and its CRC-32."""

    start: int
    length: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Source:
    """One audio file.

    Attributes:
        place: path or URL of the file, or of the shard that contains it.
        byte_range: position in the shard; None: `place` is the audio file.
        name: id of the utterance, used in error messages about a shard.
        channel: channel to read, counted from 0; None: the mean of all channels.
    """

    place: str
    byte_range: ByteRange | None = None
    name: str = ""
    channel: int | None = None

    def __str__(self) -> str:
        return self.place if self.byte_range is None else f"{self.place}: utterance {self.name}"

    @property
    def stored_by(self) -> str | None:
        """The fingerprint of the extractor whose features the shard has; None: it has audio."""
        found = None if self.byte_range is None else _FEATURES.search(self.place)
        return found.group(1) if found else None

    def open(self) -> str | BinaryIO:
        """Return a path or a file object, which soundfile can open.

        Files of up to 4 MiB in a shard are read at once and checksummed. Larger files are read in parts
        without verification. libsndfile cannot propagate read errors; call `check` to raise them.

        Raises:
            UserError: the checksum is wrong.
            OSError: the bytes cannot be read (UnreachableError if a server fails).
        """
        if self.byte_range is None and not storage.is_url(self.place):
            return self.place
        length = storage.size(self.place) if self.byte_range is None else self.byte_range.length
        if length is None:
            raise FileNotFoundError(self.place)
        if length <= _WHOLE_BYTES:
            return io.BytesIO(self.content())
        start = 0 if self.byte_range is None else self.byte_range.start
        return io.BufferedReader(_Window(self.place, start, length), _BUFFER_BYTES)

    def content(self) -> bytes:
        """All bytes of the file. Bytes from a shard are verified.

        Raises:
            UserError, OSError: as `open`.
        """
        if self.byte_range is None:
            return storage.read(self.place)
        content = self._packed(self.byte_range)
        if content is None:
            # The shard may have been replaced since it was opened.
            storage.close_files()
            content = self._packed(self.byte_range)
        if content is None:
            start, end = self.byte_range.start, self.byte_range.start + self.byte_range.length
            raise UserError(
                f"{self}: bytes {start} to {end} are not those that were packed "
                "(copy the shard again, or pack the manifest again)"
            )
        return content

    @staticmethod
    def check(file: str | BinaryIO) -> None:
        """Raise the UnreachableError, if any, that occurred while reading a file returned by `open`."""
        window = getattr(file, "raw", None)
        if isinstance(window, _Window) and window.failure is not None:
            raise window.failure

    def _packed(self, part: ByteRange) -> bytes | None:
        content = storage.read(self.place, part.start, part.length)
        return content if len(content) == part.length and zlib.crc32(content) == part.crc32 else None


class _Window(io.RawIOBase):
    """File object for a byte range of a file."""

    def __init__(self, place: str, start: int, length: int) -> None:
        self._place, self._start, self._length, self._position = place, start, length, 0
        self.failure: UnreachableError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), self._length - self._position)
        if size <= 0 or self.failure is not None:
            return 0
        try:
            piece = storage.read(self._place, self._start + self._position, size)
        except (
            UnreachableError
        ) as error:  # libsndfile would print and discard an exception raised in its callback
            self.failure = error
            return 0
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

"""Detect files of several recordings joined to one, of which decoders read only the first."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_HEAD_BYTES = 4096
_OGG_PAGE_BYTES = 65307  # the longest there is
_OGG_FIRST = 0x02  # in the flags of a page: the first of its stream
# Some encoders leave the frame that states the size out of it.
_SLACK_BYTES, _SLACK_SHARE = 4096, 0.01


def holds_another_stream(path: str | Path) -> bool:
    """Whether an MP3 file continues after its stated end, or an Ogg file ends with a second stream.

    Only a few kilobytes at both ends are read. MP3 files that state no size are decoded to their end, so
    nothing is lost of these. FLAC states no size in bytes: joined FLAC files are not recognised.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if head.startswith(b"OggS"):
            return _is_chained(file)
        start = _id3_bytes(head)
        file.seek(start)
        return _goes_on(file, start)


def _goes_on(file: BinaryIO, start: int) -> bool:
    """Of an MP3 file whose frames begin at `start`: whether frames follow after the bytes that it states."""
    frame = file.read(_HEAD_BYTES)
    tag = max(frame[:64].find(b"Xing"), frame[:64].find(b"Info"))
    if not _is_frame(frame) or tag < 0 or not frame[tag + 7] & 2:
        return False
    # Flags; then, if the flags say so, the number of frames and of bytes.
    place = tag + 8 + 4 * (frame[tag + 7] & 1)
    stated = int.from_bytes(frame[place : place + 4], "big")
    rest = file.seek(0, 2) - start - stated
    if stated == 0 or rest <= max(_SLACK_BYTES, _SLACK_SHARE * stated):
        return False
    file.seek(start + stated)
    following = file.read(3)
    return following == b"ID3" or _is_frame(following)


def _is_frame(head: bytes) -> bool:
    """Whether a frame of MPEG audio, layer III, begins so."""
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2


def _id3_bytes(head: bytes) -> int:
    """The length of an ID3v2 tag at the start; 0 if there is none."""
    if len(head) < 10 or not head.startswith(b"ID3"):
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size


def _is_chained(file: BinaryIO) -> bool:
    """Whether the last page of an Ogg file is of a stream that does not begin with the file."""
    file.seek(0)
    serials = set()
    while (page := file.read(27)).startswith(b"OggS") and len(page) == 27 and page[5] & _OGG_FIRST:
        serials.add(page[14:18])
        file.seek(sum(file.read(page[26])), 1)
    size = file.seek(0, 2)
    file.seek(max(0, size - 2 * _OGG_PAGE_BYTES))
    tail = file.read()
    last = tail.rfind(b"OggS\0")
    return bool(serials) and last >= 0 and tail[last + 14 : last + 18] not in serials

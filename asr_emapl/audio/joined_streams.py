"""Detect files that consist of several recordings, of which decoders read only the first."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_HEAD_BYTES = 4096
_OGG_PAGE_BYTES = 65307  # the maximum
_OGG_FIRST = 0x02  # flag of the first page of a stream
# Some encoders exclude the header frame from the stated size.
_SLACK_BYTES, _SLACK_RATIO = 4096, 0.01


def has_another_stream(path: str | Path) -> bool:
    """Whether an MP3 file continues after its stated end, or an Ogg file ends with a second stream.

    Reads only a few kilobytes at both ends. MP3 files without a stated size are decoded to their end, so no
    audio is lost. FLAC headers do not state the size in bytes, so joined FLAC files are not detected.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        head = file.read(_HEAD_BYTES)
        return _is_chained_ogg(file) if head.startswith(b"OggS") else _is_joined_mp3(file, _id3_bytes(head))


def _is_joined_mp3(file: BinaryIO, start: int) -> bool:
    """Whether an MP3 file has frames after its stated end. Its first frame begins at `start`."""
    file.seek(start)
    frame = file.read(_HEAD_BYTES)
    tag = max(frame[:64].find(b"Xing"), frame[:64].find(b"Info"))
    if not _is_mp3_frame(frame) or tag < 0 or not frame[tag + 7] & 2:
        return False
    # The flags are followed by the optional numbers of frames and of bytes.
    place = tag + 8 + 4 * (frame[tag + 7] & 1)
    stated = int.from_bytes(frame[place : place + 4], "big")
    rest = file.seek(0, 2) - start - stated
    if stated == 0 or rest <= max(_SLACK_BYTES, _SLACK_RATIO * stated):
        return False
    file.seek(start + stated)
    following = file.read(3)
    return following == b"ID3" or _is_mp3_frame(following)


def _is_mp3_frame(head: bytes) -> bool:
    """Whether bytes begin with a frame of MPEG audio, layer III."""
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2


def _id3_bytes(head: bytes) -> int:
    """The length of an ID3v2 tag at the start; 0 if there is none."""
    if len(head) < 10 or not head.startswith(b"ID3"):
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size


def _is_chained_ogg(file: BinaryIO) -> bool:
    """Whether the last page of an Ogg file belongs to a different stream than the first page."""
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

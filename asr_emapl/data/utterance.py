"""An utterance, and the line of a manifest that describes it.

    {"id": "84-121123-0000", "audio": "84-121123-0000.flac", "duration": 2.085, "text": "GO", "speaker": "84"}

`text` and `speaker` are optional. `offset` is in seconds and 0 by default. `channel` (0 is the first)
selects one channel of the file; without it, channels are averaged. If `audio` is a shard with many audio
files, `byte_range` has the bytes of one file and their checksum:

    "audio": "dev-000000.tar", "byte_range": {"start": 512, "length": 52016, "crc32": 1394829}

NeMo's field names are also supported: `audio_filepath` for `audio`, `utt_id` for `id`. So are lhotse's cuts
(`asr_emapl.data.lhotse_cuts`). Other fields are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from asr_emapl import storage
from asr_emapl.audio import MAX_SECONDS, SAMPLE_RATE_HZ
from asr_emapl.audio.source import ByteRange, Source
from asr_emapl.data.lhotse_cuts import from_cut, is_cut
from asr_emapl.storage import json_text

Record = Mapping[str, object]
"""The fields of `Utterance` in a line; None if absent."""

# Largest number of channels that libsndfile reads.
_MAX_CHANNELS = 1024
_NAMES = ("id", "audio", "duration", "text", "speaker", "offset", "byte_range", "channel")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One segment of speech in one audio file.

    Attributes:
        id: unique within its manifest.
        audio: path or URL of the audio file or shard; absolute once read from a manifest.
        duration: seconds.
        text: the transcript, or None for unlabelled audio.
        speaker: the speaker, if known.
        offset: start of the segment in the file, seconds.
        byte_range: position of the file in a shard; None: `audio` is the file itself.
        channel: channel of the file, from 0; None: the mean of all channels.
    """

    id: str
    audio: str
    duration: float
    text: str | None = None
    speaker: str | None = None
    offset: float = 0.0
    byte_range: ByteRange | None = None
    channel: int | None = None

    @property
    def source(self) -> Source:
        """Location of the bytes of the file, and the channel."""
        return Source(self.audio, self.byte_range, self.id, self.channel)

    @property
    def samples(self) -> int:
        """Length in samples at 16 kHz."""
        return round(self.duration * SAMPLE_RATE_HZ)

    @staticmethod
    def of(record: Record, folder: str) -> Utterance:
        """The utterance of a record without faults; `folder` is the manifest's."""
        text, speaker, channel = record["text"], record["speaker"], record["channel"]
        return Utterance(
            id=str(record["id"]),
            audio=storage.join(folder, str(record["audio"])),
            duration=json_text.number(record["duration"]) or 0.0,
            text=None if text is None else str(text),
            speaker=None if speaker is None else str(speaker),
            offset=json_text.number(record["offset"]) or 0.0,
            byte_range=_byte_range(record["byte_range"]),
            channel=channel if isinstance(channel, int) else None,
        )


def parse_line(line: bytes) -> dict[str, object]:
    """Parse a line into a record; NeMo's names and lhotse's cuts are converted.

    Raises:
        ValueError: it is not a JSON object, or a cut that is not a segment of one file.
    """
    fields = json_text.parse_object(line)
    if "type" in fields and is_cut(fields):
        fields = from_cut(fields)
    record = {name: fields.get(name) for name in _NAMES}
    for name, nemo in (("id", "utt_id"), ("audio", "audio_filepath")):
        if record[name] is None:
            record[name] = fields.get(nemo)
    return record


def faults(record: Record) -> Iterator[str]:
    """Yield the faults of a record, each with a remedy."""
    if _is_plain(record):
        return
    for field in ("id", "audio", "text", "speaker"):
        value = record[field]
        if value is None:
            if field in ("id", "audio"):
                yield f"{field} is missing (add it)"
        elif not isinstance(value, str):
            yield f"{field} is not a string (put it in quotes)"
        elif not _is_unicode(value):
            yield f"{field} has an unpaired surrogate (write the character as UTF-8)"
        elif field in ("id", "audio") and (not value.strip() or "\0" in value):
            yield f"{field} is blank or has a NUL character (set a valid {field})"
    yield from _faults_of_times(record)
    if record["byte_range"] is not None and _byte_range(record["byte_range"]) is None:
        yield "byte_range is not {start, length, crc32} in integers (pack the audio again)"
    channel = record["channel"]
    if channel is not None and (type(channel) is not int or not 0 <= channel < _MAX_CHANNELS):
        yield "channel is not an integer of at least 0 (the first channel is 0)"


def has_text(record: Record) -> bool:
    """Whether the transcript is neither missing nor blank; a wrong type is a separate fault."""
    text = record["text"]
    return text is not None and (not isinstance(text, str) or bool(text.strip()))


def _is_plain(record: Record) -> bool:
    """Whether a record is obviously valid; takes a tenth of the time of all checks."""
    id_, audio, duration = record["id"], record["audio"], record["duration"]
    return (
        type(duration) is float
        and 1e-3 < duration <= MAX_SECONDS
        and type(id_) is str
        and type(audio) is str
        and id_.isascii()
        and audio.isascii()
        and id_.isprintable()
        and audio.isprintable()
        and not id_.isspace()
        and not audio.isspace()
        and bool(id_ and audio)
        and (record["text"] is None or (type(record["text"]) is str and record["text"].isascii()))
        and (record["speaker"] is None or (type(record["speaker"]) is str and record["speaker"].isascii()))
        and record["offset"] is record["byte_range"] is record["channel"] is None
    )


def _faults_of_times(record: Record) -> Iterator[str]:
    duration, offset = json_text.number(record["duration"]), json_text.number(record["offset"])
    if record["duration"] is None:
        yield "duration is missing (add the seconds of audio)"
    elif duration is None:
        yield "duration is not a number (use seconds)"
    elif not (0.0 < duration <= MAX_SECONDS and round(duration * SAMPLE_RATE_HZ) > 0):
        yield f"duration is {duration} s (use seconds above 0 and at most {MAX_SECONDS:g})"
    if record["offset"] is not None and offset is None:
        yield "offset is not a number (use seconds)"
    elif offset is not None and not 0 <= offset <= MAX_SECONDS:
        yield f"offset is {offset} s (use seconds from 0 to {MAX_SECONDS:g})"


def _byte_range(value: object) -> ByteRange | None:
    """Convert to a byte range; None if the value is invalid."""
    names = ("start", "length", "crc32")
    if not isinstance(value, dict) or any(type(value.get(name)) is not int for name in names):
        return None
    found = ByteRange(*(value[name] for name in names))
    # File sizes are below 2**63.
    fits = 0 <= found.start < 2**63 and 0 < found.length < 2**63 and 0 <= found.crc32 < 2**32
    return found if fits else None


def _is_unicode(value: str) -> bool:
    """Whether the value can be encoded as UTF-8; JSON's escapes allow others."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True

"""The manifest: one JSON object a line, one utterance an object.

    {"id": "84-121123-0000", "audio": "84-121123-0000.flac", "duration": 2.085, "text": "GO", "speaker": "84"}

`text` and `speaker` may be absent, `offset` (seconds into the file) is 0 unless given. `channel` (0 for the
first) selects one channel of the file; without it, channels are averaged. Where `audio` is a
shard, which holds many audio files, `byte_range` says which bytes of it are the file, and their checksum:

    "audio": "dev-000000.tar", "byte_range": {"start": 512, "length": 52016, "crc32": 1394829}

Manifests and audio may lie at URLs, any that fsspec can read. The names that NeMo's manifests use are read
too: `audio_filepath` for `audio`, `utt_id` for `id`; an utterance without an id is named after its audio
(`asr_emapl.data.ids`). So are lhotse's cuts (`asr_emapl.data.lhotse_cuts`), and all of it compressed by gzip.
Other fields are ignored.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from asr_emapl import storage
from asr_emapl.audio import MAX_SECONDS, SAMPLE_RATE_HZ
from asr_emapl.audio.decode import LENGTH_TOLERANCE_S, probe
from asr_emapl.audio.source import ByteRange, Source
from asr_emapl.data.ids import derived_ids
from asr_emapl.data.lhotse_cuts import from_cut, is_cut
from asr_emapl.errors import UnreachableError, UserError
from asr_emapl.storage import check_outputs, json_text, raw_lines, writing
from asr_emapl.storage.atomic import sync
from asr_emapl.text.normalise import outside

_Place = TypeVar("_Place", str, Path, str | Path)
_MAX_LINES = 20
"""Findings that an error report lists before it only counts the rest."""
# Largest number of channels that libsndfile reads.
_MAX_CHANNELS = 1024


@dataclass(frozen=True, slots=True)
class Utterance:
    """One stretch of speech in one audio file.

    Attributes:
        id: unique within its manifest.
        audio: path or URL of the audio file or shard; a path is absolute once read from a manifest.
        duration: seconds.
        text: the transcript, or None for unlabelled audio.
        speaker: who speaks, if known.
        offset: where in the file the stretch begins, seconds.
        byte_range: where in a shard the file lies; None: `audio` is the file itself.
        channel: of the file, counted from 0; None: the mean of all channels.
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
        """Where the bytes of the file are, and which channel of it is meant."""
        return Source(self.audio, self.byte_range, self.id, self.channel)

    @property
    def samples(self) -> int:
        """Length in samples at 16 kHz."""
        return round(self.duration * SAMPLE_RATE_HZ)


def read_manifest(path: str | Path, *, require_text: bool = False) -> list[Utterance]:
    """The utterances of a manifest, in the order of its lines.

    Relative audio paths are taken from the manifest's own folder (or URL). The audio itself is not looked at:
    `verify` does that. Blank lines, a byte order mark and Windows line ends are passed over.

    Args:
        path: the manifest, or its URL.
        require_text: whether an utterance without a transcript (or with a blank one) is an error.

    Raises:
        UserError: the file is absent, unreadable or empty; or lines of it are wrong, and then the message has
            one line `path:line: what (remedy)` for each of them.
    """
    path = path if storage.is_url(path) else Path(path)
    faults: list[tuple[int, str]] = []
    records: list[tuple[int, dict[str, object]]] = []
    for number, line in raw_lines(path, remedy="name a manifest, or write it with asr-emapl prepare"):
        if not records and not faults:
            json_text.check_json_lines(path, [(number, line.decode("utf-8", "replace"))])
        try:
            records.append((number, _record(line)))
        except ValueError as error:
            faults.append((number, str(error)))
    if not records and not faults:
        raise UserError(f"{path}: the manifest holds no utterances (write it again with data_prep)")
    folder = storage.split(path)[0]
    _derive_ids([record for _, record in records], folder)

    first_seen: dict[str, int] = {}
    for number, record in records:
        faults.extend((number, fault) for fault in _faults(record, require_text))
        id_ = record["id"]
        if isinstance(id_, str) and first_seen.setdefault(id_, number) != number:
            faults.append((number, f"id {id_!r} stands on line {first_seen[id_]} too (make ids unique)"))
    if faults:
        # A stable sort: several faults of one line stay in the order of the fields.
        faults.sort(key=lambda fault: fault[0])
        raise UserError(report([f"{path}:{number}: {fault}" for number, fault in faults]))
    return [_utterance(record, folder) for _, record in records]


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest that `read_manifest` reads back; whoever looks sees the old file or the whole new one.

    Audio paths are written absolute; only a shard in the manifest's own folder goes by its name, so that the
    folder can be moved. Missing folders are made.

    Raises:
        UserError: there are no utterances, or some that could not be read back (as `read_manifest` says); the
            file is audio of the manifest; or it cannot be written. An older manifest of that name is then
            left as it was.
    """
    write_manifests({path: list(utterances)})


def write_manifests(manifests: Mapping[_Place, Sequence[Utterance]]) -> None:
    """Write several manifests, all of them or none: no name appears before all contents are on disk.

    Raises:
        UserError: as `write_manifest`.
    """
    contents = {path: _serialise(path, utterances) for path, utterances in manifests.items()}
    check_outputs(list(contents), {u.audio for utterances in manifests.values() for u in utterances})
    with ExitStack() as stack:
        for path, content in contents.items():
            stack.enter_context(writing(path))
            file = stack.enter_context(storage.publish(str(path)))
            file.write(content)
            sync(file)


def verify(utterances: Iterable[Utterance], alphabet: str | None) -> list[str]:
    """What is wrong with the audio and the transcripts, one line a finding; empty if all is well.

    Looked for: audio that is absent or whose header cannot be decoded; a duration more than 0.05 s off the
    header's; letters outside `alphabet` (None: any letter will do). Only headers are read, each file's once,
    but in a shard all that `Source.open` checks. Where several utterances share a file, or one begins inside
    it, they only have to end within it.
    """
    utterances = list(utterances)
    shares = Counter(_file(utterance) for utterance in utterances)
    lengths: dict[tuple[str, ByteRange | None], float | str] = {}  # seconds, or what is wrong
    findings = []
    for utterance in utterances:
        file = _file(utterance)
        if file not in lengths:
            try:
                lengths[file] = probe(utterance.source)[0]
            except UnreachableError:
                raise
            except UserError as error:
                lengths[file] = str(error)
        length = lengths[file]
        fault = length if isinstance(length, str) else _length_fault(utterance, length, shares[file] > 1)
        if fault is not None:
            findings.append(f"{utterance.id}: {fault}")
        letters = "" if alphabet is None else outside(utterance.text or "", alphabet)
        if letters:
            findings.append(f"{utterance.id}: letters outside the alphabet: {letters!r} (normalise the text)")
    return findings


def report(findings: Sequence[str], limit: int = _MAX_LINES) -> str:
    """The findings, one a line: the first `limit` of them, then how many more there are."""
    lines = list(findings[:limit])
    if len(findings) > limit:
        lines.append(f"... and {len(findings) - limit} more")
    return "\n".join(lines)


def _file(utterance: Utterance) -> tuple[str, ByteRange | None]:
    """What the utterances of one recording have in common."""
    return utterance.audio, utterance.byte_range


def _record(line: bytes) -> dict[str, object]:
    """The fields of Utterance on a line, None where absent, NeMo's names replaced. ValueError: a bad line."""
    fields = json_text.parse_object(line)
    if is_cut(fields):
        fields = from_cut(fields)
    names = ("id", "audio", "duration", "text", "speaker", "offset", "byte_range", "channel")
    record = {name: fields.get(name) for name in names}
    for name, nemo in (("id", "utt_id"), ("audio", "audio_filepath")):
        if record[name] is None:
            record[name] = fields.get(nemo)
    return record


def _derive_ids(records: Sequence[dict[str, object]], folder: str) -> None:
    """Give each record without an id one that its audio determines; `folder` is the manifest's."""
    nameless = [r for r in records if r["id"] is None and isinstance(r["audio"], str)]
    stretches = [
        (storage.join(folder, str(record["audio"])), _finite(json_text.number(record["offset"])))
        for record in nameless
    ]
    for record, id_ in zip(nameless, derived_ids(stretches), strict=True):
        record["id"] = id_


def _finite(seconds: float | None) -> float:
    """An offset, 0 where there is none that a file can have: `_faults` reports that."""
    return seconds if seconds is not None and 0.0 <= seconds < 1e12 else 0.0


def _faults(record: Mapping[str, object], require_text: bool = False) -> Iterator[str]:
    """What keeps a record from being an Utterance, each with its remedy."""
    for field in ("id", "audio", "text", "speaker"):
        value = record[field]
        if value is None:
            if field in ("id", "audio"):
                yield f"{field} is missing (add it)"
        elif not isinstance(value, str):
            yield f"{field} is not a string (put it in quotes)"
        elif not _is_unicode(value):
            yield f"{field} holds half of a surrogate pair (write it as UTF-8)"
        elif field in ("id", "audio") and (not value.strip() or "\0" in value):
            yield f"{field} is blank or holds a NUL (give a name)"
    text = record["text"]
    if require_text and (text is None or (isinstance(text, str) and not text.strip())):
        yield "text is missing (add the transcript, or use the manifest as unlabelled)"

    duration, offset = json_text.number(record["duration"]), json_text.number(record["offset"])
    if record["duration"] is None:
        yield "duration is missing (add the seconds of audio)"
    elif duration is None:
        yield "duration is not a number (give seconds)"
    elif not (0.0 < duration <= MAX_SECONDS and round(duration * SAMPLE_RATE_HZ) > 0):
        yield f"duration is {duration} s (give seconds, above 0 and at most {MAX_SECONDS:g})"
    if record["offset"] is not None and offset is None:
        yield "offset is not a number (give seconds)"
    elif offset is not None and not 0 <= offset <= MAX_SECONDS:
        yield f"offset is {offset} s (give seconds, from 0 to {MAX_SECONDS:g})"
    if record["byte_range"] is not None and _byte_range(record["byte_range"]) is None:
        yield "byte_range is not {start, length, crc32} in whole numbers (pack the audio again)"
    channel = record["channel"]
    if channel is not None and (type(channel) is not int or not 0 <= channel < _MAX_CHANNELS):
        yield "channel is not a whole number from 0 on (give the channel, 0 for the first)"


def _byte_range(value: object) -> ByteRange | None:
    """The object as a range, None if it is none."""
    names = ("start", "length", "crc32")
    if not isinstance(value, dict) or any(type(value.get(name)) is not int for name in names):
        return None
    found = ByteRange(*(value[name] for name in names))
    # Beyond 2**63 no file reaches.
    fits = 0 <= found.start < 2**63 and 0 < found.length < 2**63 and 0 <= found.crc32 < 2**32
    return found if fits else None


def _is_unicode(value: str) -> bool:
    """Whether it can be stored as UTF-8: JSON's escapes can spell what cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _utterance(record: Mapping[str, object], folder: str) -> Utterance:
    """The utterance of a record in which `_faults` found nothing; `folder` is the manifest's."""
    audio = str(record["audio"])
    text, speaker = record["text"], record["speaker"]
    return Utterance(
        id=str(record["id"]),
        audio=storage.join(folder, audio),
        duration=json_text.number(record["duration"]) or 0.0,
        text=None if text is None else str(text),
        speaker=None if speaker is None else str(speaker),
        offset=json_text.number(record["offset"]) or 0.0,
        byte_range=_byte_range(record["byte_range"]),
        channel=record["channel"] if isinstance(record["channel"], int) else None,
    )


def _serialise(path: str | Path, utterances: Sequence[Utterance]) -> bytes:
    """The content of a manifest; UserError lists the utterances that could not be read back."""
    if not utterances:
        raise UserError(f"{path}: there are no utterances to write (check the corpus and the filter on it)")
    folder = storage.split(path)[0]
    lines: list[str] = []
    findings: list[str] = []
    ids: set[str] = set()
    for utterance in utterances:
        record: dict[str, object] = asdict(utterance)
        faults = list(_faults(record))
        if utterance.id in ids:
            faults.append("id is there twice (make ids unique)")
        ids.add(utterance.id)
        findings.extend(f"{path}: utterance {utterance.id!r}: {fault}" for fault in faults)
        if not faults:
            record["audio"] = _audio_as_written(utterance, folder)
            kept = {k: v for k, v in record.items() if v is not None and (k != "offset" or v != 0)}
            lines.append(json.dumps(kept, ensure_ascii=False, allow_nan=False))
    if findings:
        raise UserError(report(findings))
    return ("\n".join(lines) + "\n").encode("utf-8")


def _audio_as_written(utterance: Utterance, folder: str) -> str:
    """As `write_manifest` says; `folder` is the manifest's."""
    of_audio, name = storage.split(utterance.audio)
    if utterance.byte_range is not None and of_audio == folder:
        return name
    return storage.join(of_audio, name)


def _length_fault(utterance: Utterance, length: float, is_shared: bool) -> str | None:
    """How the utterance's duration contradicts the `length` (seconds) of its file, or None."""
    end = utterance.offset + utterance.duration
    remedy = "(correct the manifest, or fetch the file again)"
    if end > length + LENGTH_TOLERANCE_S:
        return f"{utterance.audio}: {length:.2f} s long, but the manifest goes to {end:.2f} s {remedy}"
    if utterance.offset == 0 and not is_shared and end < length - LENGTH_TOLERANCE_S:
        return f"{utterance.audio}: {length:.2f} s long, but {end:.2f} s in the manifest {remedy}"
    return None

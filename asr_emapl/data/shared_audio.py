"""Find validation audio that is also in the training audio, without decoding audio.

An error rate on audio that a model was trained on says nothing about other audio. Equal ids alone do not show
it, because the files of two folders can have the same names. Audio is the same if it is

- the same stretch of the same file (or of the same bytes in a shard), or parts of it overlap,
- as long, to a sample, with the same bytes, and with the same transcript if both have one, or
- as long, with the same id, and with the same transcript, or in files that cannot be compared by their bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.manifest import Manifest
from asr_emapl.data.utterance import Utterance

# Maximum number of rows of an indexed manifest that are read, and of pairs of files that are compared.
_MAX_ROWS = 20_000
_MAX_PAIRS = 1_000
_BYTES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class SharedAudio:
    """A validation utterance that is also in the training audio.

    Attributes:
        reason: what is the same: "file", "content" or "id".
    """

    utterance: Utterance
    training: Utterance
    reason: str


def shared_audio(training: Sequence[Utterance], validation: Sequence[Utterance]) -> list[SharedAudio]:
    """The validation utterances whose audio is also in `training`, each once.

    In a large manifest, which is read lazily, only utterances as long as one of `validation` are compared,
    and if there are very many of them, only a sample.
    """
    at, of_length = defaultdict(list), defaultdict(list)
    for utterance in validation:
        at[_place(utterance)].append(utterance)
        of_length[utterance.samples].append(utterance)
    found: dict[str, SharedAudio] = {}
    pairs = 0
    for theirs in _candidates(training, of_length):
        for one in at.get(_place(theirs), ()):
            if one.id not in found and _overlap(one, theirs):
                found[one.id] = SharedAudio(one, theirs, "file")
        for one in of_length.get(theirs.samples, ()):
            has_same_id = one.id == theirs.id
            if one.id in found or _contradict(one, theirs) or not (has_same_id or pairs < _MAX_PAIRS):
                continue
            pairs += 1
            have_bytes = _can_compare(one, theirs)
            if have_bytes and _same_bytes(one, theirs):
                found[one.id] = SharedAudio(one, theirs, "content")
            elif has_same_id and (not have_bytes or (one.text is not None and theirs.text is not None)):
                found[one.id] = SharedAudio(one, theirs, "id")
    return list(found.values())


def _candidates(training: Sequence[Utterance], lengths: defaultdict[int, Any]) -> Iterator[Utterance]:
    if not isinstance(training, Manifest) or training.in_memory:
        yield from training
        return
    rows: NDArray[np.int64] = np.flatnonzero(np.isin(training.samples, list(lengths)))
    for row in rows[:: max(1, -(-len(rows) // _MAX_ROWS))].tolist():
        yield training[row]


def _place(utterance: Utterance) -> tuple[object, ...]:
    part = utterance.byte_range
    return utterance.audio, None if part is None else part.start, utterance.channel


def _overlap(one: Utterance, other: Utterance) -> bool:
    """Whether more than a sample of two utterances of one file is the same."""
    begin, end = max(one.offset, other.offset), min(u.offset + u.duration for u in (one, other))
    return end - begin > 1.5 / SAMPLE_RATE_HZ


def _contradict(one: Utterance, other: Utterance) -> bool:
    return one.text is not None and other.text is not None and one.text != other.text


def _can_compare(one: Utterance, other: Utterance) -> bool:
    """Whether equal audio has equal bytes: both are in shards, or both are local files of one format."""
    if one.byte_range is not None or other.byte_range is not None:
        return one.byte_range is not None and other.byte_range is not None
    paths = Path(one.audio), Path(other.audio)
    is_whole = one.offset == other.offset and one.channel == other.channel
    return is_whole and paths[0].suffix == paths[1].suffix and all(path.is_file() for path in paths)


def _same_bytes(one: Utterance, other: Utterance) -> bool:
    """Whether the files have the same bytes; those in shards are compared by length and checksum."""
    if one.byte_range is not None and other.byte_range is not None:
        ranges = one.byte_range, other.byte_range
        return ranges[0].length == ranges[1].length and ranges[0].crc32 == ranges[1].crc32
    paths = Path(one.audio), Path(other.audio)
    try:
        if paths[0].stat().st_size != paths[1].stat().st_size:
            return False
        with paths[0].open("rb") as first, paths[1].open("rb") as second:
            while part := first.read(_BYTES_AT_ONCE):
                if part != second.read(_BYTES_AT_ONCE):
                    return False
    except OSError:
        return False  # the loader reports the error
    return True

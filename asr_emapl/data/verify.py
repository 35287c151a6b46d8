"""Check utterances against their audio files and an alphabet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from asr_emapl.audio.decode import LENGTH_TOLERANCE_S, probe
from asr_emapl.audio.source import ByteRange
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UnreachableError, UserError
from asr_emapl.text.normalise import outside


def verify(utterances: Iterable[Utterance], alphabet: str | None) -> list[str]:
    """Find errors in audio and transcripts; returns one line per finding.

    Finds missing audio, undecodable headers, durations that differ from the header's by more than 0.05 s, and
    characters outside `alphabet` (None: all characters are allowed). Only headers are read, once per file;
    for shards, also the bytes that `Source.open` checks. If several utterances share a file, or one starts
    inside it, they only have to end within it.
    """
    utterances = list(utterances)
    shares = Counter(_file(utterance) for utterance in utterances)
    lengths: dict[tuple[str, ByteRange | None], float | str] = {}  # seconds, or an error
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
        unknown = "" if alphabet is None else outside(utterance.text or "", alphabet)
        if unknown:
            findings.append(
                f"{utterance.id}: characters outside the alphabet: {unknown!r} (normalise the text)"
            )
    return findings


def _file(utterance: Utterance) -> tuple[str, ByteRange | None]:
    """Key of an utterance's audio file."""
    return utterance.audio, utterance.byte_range


def _length_fault(utterance: Utterance, length: float, is_shared: bool) -> str | None:
    """The error if the utterance's duration does not match the `length` of its file in seconds, or None."""
    end = utterance.offset + utterance.duration
    remedy = "(correct the manifest, or download the file again)"
    if end > length + LENGTH_TOLERANCE_S:
        return f"{utterance.audio}: {length:.2f} s long, but ends at {end:.2f} s in the manifest {remedy}"
    if utterance.offset == 0 and not is_shared and end < length - LENGTH_TOLERANCE_S:
        return f"{utterance.audio}: {length:.2f} s long, but {end:.2f} s in the manifest {remedy}"
    return None

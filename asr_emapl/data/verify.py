"""Compare utterances with their audio files and with an alphabet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from asr_emapl.audio.decode import LENGTH_TOLERANCE_S, probe
from asr_emapl.audio.source import ByteRange
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UnreachableError, UserError
from asr_emapl.text.normalise import outside


def verify(utterances: Iterable[Utterance], alphabet: str | None) -> list[str]:
    """What is wrong with the audio and the transcripts, one line per finding.

    Finds audio that is missing or whose header cannot be decoded, durations more than 0.05 s off the
    header's, and characters outside `alphabet` (None: any character is allowed). Only headers are read, once
    per file, and for shards what `Source.open` checks. If several utterances share a file, or one begins
    inside it, they only have to end within it.
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
        unknown = "" if alphabet is None else outside(utterance.text or "", alphabet)
        if unknown:
            findings.append(
                f"{utterance.id}: characters outside the alphabet: {unknown!r} (normalise the text)"
            )
    return findings


def _file(utterance: Utterance) -> tuple[str, ByteRange | None]:
    """What identifies the audio file of an utterance."""
    return utterance.audio, utterance.byte_range


def _length_fault(utterance: Utterance, length: float, is_shared: bool) -> str | None:
    """How the utterance's duration contradicts the `length` (seconds) of its file, or None."""
    end = utterance.offset + utterance.duration
    remedy = "(correct the manifest, or download the file again)"
    if end > length + LENGTH_TOLERANCE_S:
        return f"{utterance.audio}: {length:.2f} s long, but the manifest goes to {end:.2f} s {remedy}"
    if utterance.offset == 0 and not is_shared and end < length - LENGTH_TOLERANCE_S:
        return f"{utterance.audio}: {length:.2f} s long, but {end:.2f} s in the manifest {remedy}"
    return None

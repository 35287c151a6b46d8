"""The utterances with the most errors, with the hypothesis of each system and the audio."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UnreachableError, UserError
from asr_emapl.report.comparison import Decoded
from asr_emapl.scoring.alignment import Alignment, align

# Longer recordings are truncated to this length to limit the page size.
LONGEST_S = 30.0


@dataclass(frozen=True)
class Misheard:
    """An utterance and its alignment for each system, in order.

    Attributes:
        audio: a `data:` URI, or "" if the audio could not be read; `problem` gives the reason.
    """

    utterance: Utterance
    alignments: list[Alignment]
    audio: str
    problem: str = ""

    @property
    def cut(self) -> bool:
        """Whether the audio is truncated."""
        return self.utterance.duration > LONGEST_S


def worst(decoded: Decoded, count: int) -> list[Misheard]:
    """Return the utterances with the most word errors, those with the most errors over all systems first.

    They are the `count` worst over all systems and the `count` worst of each system. Utterances without
    errors are omitted; a missing transcript is treated as empty.
    """
    aligned = [
        (u, [align(u.text or "", system.hypotheses[u.id], u.id) for system in decoded.systems])
        for u in decoded.utterances
    ]
    errors = [[alignment.counts.errors for alignment in alignments] for _, alignments in aligned]
    totals = [sum(row) for row in errors]
    chosen: set[int] = set()
    for column in (totals, *zip(*errors, strict=True)):
        ranked = sorted(range(len(column)), key=lambda i: -column[i])
        chosen.update(i for i in ranked[:count] if column[i])
    return [_with_audio(*aligned[i]) for i in sorted(chosen, key=lambda i: (-totals[i], i))]


def _with_audio(utterance: Utterance, alignments: list[Alignment]) -> Misheard:
    try:
        return Misheard(utterance, alignments, embedded(utterance))
    except UnreachableError:
        raise
    except UserError as error:
        # Show the texts without audio; reports are often made on a machine that does not have the audio.
        return Misheard(utterance, alignments, "", str(error))


def embedded(utterance: Utterance) -> str:
    """Encode the audio as MP3, the compressed format with the widest browser support."""
    import soundfile

    from asr_emapl.audio import SAMPLE_RATE_HZ
    from asr_emapl.audio.decode import read_audio

    seconds = min(utterance.duration, LONGEST_S)
    wave = read_audio(utterance.source, offset=utterance.offset, duration=seconds)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave.numpy(), SAMPLE_RATE_HZ, format="MP3")
    return "data:audio/mpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

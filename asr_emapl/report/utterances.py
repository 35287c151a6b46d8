"""The utterances with the most errors, with the hypotheses of each run and the audio."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UnreachableError, UserError
from asr_emapl.scoring.alignment import Alignment, align

# Longer recordings are embedded up to here: a page is to stay small enough to send.
LONGEST_S = 30.0


@dataclass(frozen=True)
class Misheard:
    """An utterance and its alignment by each run, in the order of the runs.

    Attributes:
        audio: a `data:` URI, or "" where the audio could not be had, for the reason in `problem`.
    """

    utterance: Utterance
    alignments: list[Alignment]
    audio: str
    problem: str = ""

    @property
    def cut(self) -> bool:
        """Whether the audio is only the beginning."""
        return self.utterance.duration > LONGEST_S


def worst(
    utterances: Sequence[Utterance], hypotheses: Sequence[Mapping[str, str]], count: int
) -> list[Misheard]:
    """At most `count` utterances, those with the most word errors over all runs first; none without errors.

    Args:
        utterances: with transcripts; one without is taken as silence.
        hypotheses: for each run id -> text, of all the utterances.
    """
    aligned = []
    for utterance in utterances:
        alignments = [align(utterance.text or "", texts[utterance.id], utterance.id) for texts in hypotheses]
        errors = sum(alignment.counts.errors for alignment in alignments)
        if errors:
            aligned.append((errors, utterance, alignments))
    # A stable sort: equals stay in the order of the manifest.
    aligned.sort(key=lambda entry: -entry[0])
    return [_with_audio(utterance, alignments) for _, utterance, alignments in aligned[:count]]


def _with_audio(utterance: Utterance, alignments: list[Alignment]) -> Misheard:
    try:
        return Misheard(utterance, alignments, _embedded(utterance))
    except UnreachableError:
        raise
    except UserError as error:
        # The texts can be read all the same, often on another machine than the audio lies on.
        return Misheard(utterance, alignments, "", str(error))


def _embedded(utterance: Utterance) -> str:
    """The audio as MP3, the one compressed format that all browsers play, the oldest phones' too."""
    import soundfile

    from asr_emapl.audio import SAMPLE_RATE_HZ
    from asr_emapl.audio.decode import read_audio

    seconds = min(utterance.duration, LONGEST_S)
    wave = read_audio(utterance.source, offset=utterance.offset, duration=seconds)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave.numpy(), SAMPLE_RATE_HZ, format="MP3")
    return "data:audio/mpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

"""Divide a manifest by audio of each speaker, for experiments with few labels."""

from __future__ import annotations

from collections.abc import Sequence

from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError


def split_by_audio(utterances: Sequence[Utterance], hours: float) -> tuple[list[Utterance], list[Utterance]]:
    """The first utterances of each speaker, together about `hours` of audio, and the rest, in their order.

    Speakers get equal amounts; what a speaker with less audio leaves is shared by the others. Utterances
    without a speaker count as one speaker.

    Raises:
        UserError: the utterances have less audio than `hours`.
    """
    total = sum(u.duration for u in utterances)
    if hours * 3600.0 > total:
        raise UserError(f"--hours {hours:g}: the manifest has {total / 3600.0:.2f} h; specify less")
    limits = _limits(utterances, hours * 3600.0)
    used = dict.fromkeys(limits, 0.0)
    first: list[Utterance] = []
    rest: list[Utterance] = []
    for utterance in utterances:
        # To the nearer end of the utterance that crosses the limit, so that the sum is not biased.
        if used[utterance.speaker] + utterance.duration / 2 <= limits[utterance.speaker]:
            first.append(utterance)
        else:
            rest.append(utterance)
        used[utterance.speaker] += utterance.duration
    return first, rest


def split_by_speaker(
    utterances: Sequence[Utterance], speakers: int
) -> tuple[list[Utterance], list[Utterance]]:
    """All utterances of evenly spaced speakers, and the rest, in their order: held-out speakers for tuning.

    Raises:
        UserError: fewer than `speakers` + 1 speakers are named.
    """
    names = sorted({u.speaker for u in utterances if u.speaker is not None})
    if not 0 < speakers < len(names):
        raise UserError(f"--speakers {speakers}: the manifest names {len(names)} speakers; specify fewer")
    chosen = {names[i * len(names) // speakers] for i in range(speakers)}
    return [u for u in utterances if u.speaker in chosen], [u for u in utterances if u.speaker not in chosen]


def _limits(utterances: Sequence[Utterance], seconds: float) -> dict[str | None, float]:
    """Seconds of audio of each speaker."""
    audio: dict[str | None, float] = {}
    for utterance in utterances:
        audio[utterance.speaker] = audio.get(utterance.speaker, 0.0) + utterance.duration
    limits: dict[str | None, float] = {}
    for i, (speaker, theirs) in enumerate(sorted(audio.items(), key=lambda item: (item[1], str(item[0])))):
        limits[speaker] = min(theirs, seconds / (len(audio) - i))
        seconds -= limits[speaker]
    return limits

"""The utterances with the most errors, with the hypothesis of each system and the audio."""

from __future__ import annotations

from dataclasses import dataclass

from asr_emapl.data.utterance import Utterance
from asr_emapl.report.comparison import Decoded
from asr_emapl.report.player import Player
from asr_emapl.scoring.alignment import Alignment, align


@dataclass(frozen=True)
class Misheard:
    """An utterance and its alignment for each system, in order."""

    utterance: Utterance
    alignments: list[Alignment]
    player: Player


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
    order = sorted(chosen, key=lambda i: (-totals[i], i))
    return [Misheard(u, alignments, Player.of(u)) for u, alignments in (aligned[i] for i in order)]

"""How much a manifest has: utterances, hours, speakers, transcripts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asr_emapl.data.manifest import open_manifest
from asr_emapl.errors import counted


@dataclass(frozen=True)
class Contents:
    """The amounts of one manifest.

    Attributes:
        utterances: their number; hours: their total length; longest_seconds: length of the longest.
        speakers: known speakers; 0 if none is known.
        transcribed: utterances with a transcript.
    """

    utterances: int
    hours: float
    longest_seconds: float
    speakers: int
    transcribed: int

    @staticmethod
    def of(path: str | Path) -> Contents:
        """Read a manifest.

        Raises:
            UserError: it is missing or wrong.
        """
        manifest = open_manifest(path)
        speakers, transcribed = set(), 0
        for utterance in manifest:
            speakers.add(utterance.speaker)
            transcribed += utterance.text is not None
        return Contents(
            len(manifest),
            float(manifest.seconds.sum()) / 3600.0,
            float(manifest.seconds.max()),
            len(speakers - {None}),
            transcribed,
        )

    def __str__(self) -> str:
        speakers = counted(self.speakers, "speaker") if self.speakers else "speakers unknown"
        return (
            f"{counted(self.utterances, 'utterance')}, {self.hours:.2f} h, {speakers}, "
            f"{self.transcribed:,} with transcripts"
        )

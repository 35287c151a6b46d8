"""Summary of a manifest: utterances, hours, speakers, transcripts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asr_emapl.data.manifest import open_manifest
from asr_emapl.errors import counted


@dataclass(frozen=True)
class ManifestSummary:
    """Summary of one manifest.

    Attributes:
        utterances: number of utterances.
        hours: total duration.
        longest_seconds: duration of the longest utterance.
        speakers: number of known speakers.
        transcribed: number of utterances with a transcript.
    """

    utterances: int
    hours: float
    longest_seconds: float
    speakers: int
    transcribed: int

    @staticmethod
    def of(path: str | Path) -> ManifestSummary:
        """Summarise a manifest.

        Raises:
            UserError: the manifest is missing or invalid.
        """
        manifest = open_manifest(path)
        speakers, transcribed = set(), 0
        for utterance in manifest:
            speakers.add(utterance.speaker)
            transcribed += utterance.text is not None
        return ManifestSummary(
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

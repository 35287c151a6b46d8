"""What an inspection of manifests found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Contents:
    """The content of one manifest.

    Attributes:
        manifest: its path.
        with_text: number of utterances with a transcript, including empty ones.
        speakers: number of known speakers. most, least: (speaker, hours) with the most and least audio.
        histogram: number of utterances per bin of width `Inspection.bin_seconds`, starting at 0.
        steps: optimizer steps per epoch, counting only utterances within the limits; 0 if there are none.
        padding: share of a step's padded audio that is padding.
    """

    manifest: str
    utterances: int
    hours: float
    with_text: int
    speakers: int
    most: tuple[str, float] | None
    least: tuple[str, float] | None
    shortest_seconds: float
    median_seconds: float
    longest_seconds: float
    histogram: list[int]
    steps: int
    padding: float


@dataclass(frozen=True)
class Finding:
    """A problem to fix or, if `is_fault` is False, a note: the problem, examples, and the remedy."""

    problem: str
    examples: list[str]
    remedy: str
    is_fault: bool = True


@dataclass(frozen=True)
class Inspection:
    """What is in the manifests, and what to fix."""

    contents: list[Contents]
    bin_seconds: float
    batch_seconds: float
    findings: list[Finding]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

"""Utterances that a command skipped because their audio cannot be decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from asr_emapl.errors import UserError
from asr_emapl.terminal import warn

if TYPE_CHECKING:
    from asr_emapl.data.utterance import Utterance


class LeftOutList:
    """Callback for `asr_emapl.decoding.transcribe.posteriors` that collects the skipped utterances."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def __call__(self, utterance: Utterance, error: UserError) -> None:
        self.reasons[utterance.id] = str(error)

    def require_some(self, utterances: Sequence[Utterance]) -> None:
        """Raise UserError if all utterances were skipped."""
        if utterances and len(self.reasons) == len(utterances):
            first = next(iter(self.reasons.values()))
            raise UserError(f"none of {len(utterances)} utterances could be decoded; first error: {first}")

    def tell(self) -> int:
        """Print the skipped utterances to stderr, and return their number."""
        for id_, reason in self.reasons.items():
            warn(f"skipped: {id_}: {reason}")
        if self.reasons:
            warn(f"{len(self.reasons)} utterances were skipped and have no hypothesis")
        return len(self.reasons)

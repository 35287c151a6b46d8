"""Utterances that a command left out because their audio cannot be decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from asr_emapl.errors import UserError
from asr_emapl.terminal import warn

if TYPE_CHECKING:
    from asr_emapl.data.utterance import Utterance


class LeftOutList:
    """A callback for `asr_emapl.decoding.transcribe.posteriors`."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def __call__(self, utterance: Utterance, error: UserError) -> None:
        self.reasons[utterance.id] = str(error)

    def require_some(self, utterances: Sequence[Utterance]) -> None:
        """Raise UserError if no utterance could be read.

        Raises:
            UserError: all of the utterances are left out.
        """
        if utterances and len(self.reasons) == len(utterances):
            first = next(iter(self.reasons.values()))
            raise UserError(f"none of {len(utterances)} utterances could be decoded; the first: {first}")

    def tell(self) -> int:
        """List the utterances on standard error; returns their number."""
        for id_, reason in self.reasons.items():
            warn(f"left out: {id_}: {reason}")
        if self.reasons:
            warn(f"left out: {len(self.reasons)} utterances have no hypothesis")
        return len(self.reasons)

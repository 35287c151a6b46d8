"""Transcripts of unlabelled utterances, which labels are compared with and which are not trained on."""

from __future__ import annotations

from collections.abc import Sequence

from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.text.tokenizer import Tokenizer


class Transcripts:
    """Transcripts by row, read when they are first asked for."""

    def __init__(self, utterances: Sequence[Utterance], tokenizer: Tokenizer) -> None:
        self._utterances, self._tokenizer = utterances, tokenizer
        self._known: dict[int, str] = {}

    def get(self, row: int) -> str:
        """The transcript if it is spelled as the labels are; otherwise ""."""
        if row not in self._known:
            text = self._utterances[row].text or ""
            try:
                self._tokenizer.encode(text)
            except UserError:
                text = ""
            self._known[row] = text
        return self._known[row]

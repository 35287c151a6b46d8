"""Hypotheses of another recogniser as labels: spelled with the tokens of the run's tokenizer."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from asr_emapl.errors import UserError, require_package
from asr_emapl.text.normalise import PRESETS
from asr_emapl.text.tokenizer import Tokenizer

_NUMBER = re.compile(r"[0-9]+(?:[.,][0-9]+)*")
_LONGEST_NUMBER = 16  # digits that are read as one number


@dataclass
class Spelling:
    """Converts texts to tokens, and counts what it did.

    Attributes:
        changed: number of texts that were normalised.
        unspellable: number of texts that the tokenizer cannot encode even after normalisation.
    """

    tokenizer: Tokenizer
    changed: int = 0
    unspellable: int = 0

    def tokens(self, text: str) -> list[int]:
        """Tokens of a text as it is, or of its normalised form; empty if the tokenizer can encode neither.

        Raises:
            UserError: the text has digits, and num2words is not installed.
        """
        found = self._encoded(text)
        if found is not None:
            return found
        self.changed += 1
        plain = PRESETS["common-voice"].normalise(_without_digits(text))
        for candidate in (plain, plain.lower()):
            found = self._encoded(candidate)
            if found is not None:
                return found
        self.unspellable += 1
        return []

    def _encoded(self, text: str) -> list[int] | None:
        try:
            return self.tokenizer.encode(text)
        except UserError:
            return None


def _without_digits(text: str) -> str:
    """Numbers in English words: "3.5" is "three point five", and "2,000" is "two thousand".

    What is no number ("1.2.3") or too long is spelled digit by digit: recognisers can invent either.
    """
    text = unicodedata.normalize("NFKC", text)
    if not _NUMBER.search(text):
        return text
    require_package("num2words", "external")
    from num2words import num2words

    def spoken(match: re.Match[str]) -> str:
        number = match[0].replace(",", "")
        is_number = number.count(".") <= 1 and len(number) <= _LONGEST_NUMBER
        words = [num2words(part) for part in ([number] if is_number else number.replace(".", ""))]
        return f" {' '.join(words)} ".replace("-", " ")

    return _NUMBER.sub(spoken, text)

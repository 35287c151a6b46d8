"""Which normalisation a set of transcripts needs, and what it changes in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from asr_emapl.errors import counted, listing
from asr_emapl.text.normalise import ALPHABET, PRESETS

AUTO = "auto"
"""The value of --text that chooses a preset by the transcripts."""
# More texts than this with letters beyond A-Z: they belong to the language.
_FOREIGN_SHARE = 0.02
_SHOWN = 12


def needed_preset(texts: Iterable[str]) -> str:
    """Name of the preset that a set of transcripts needs.

    "librispeech" if it spells all of them in its alphabet; otherwise "common-voice" (which removes accents)
    if at most 2 % of the texts have letters beyond A-Z, and "words" for all other languages.
    """
    texts = list(texts)
    if not any(PRESETS["librispeech"].strange(PRESETS["librispeech"].normalise(text)) for text in texts):
        return "librispeech"
    plain = set(ALPHABET)
    foreign = sum(
        any(c.isalpha() and c not in plain for c in PRESETS["words"].normalise(text)) for text in texts
    )
    return "common-voice" if foreign <= _FOREIGN_SHARE * len(texts) else "words"


@dataclass
class Changes:
    """What a preset changed in a set of transcripts.

    Attributes:
        texts: transcripts seen; changed: those that changed; capitalised: those that had lower-case letters.
        replaced: transcripts by character that was removed or replaced.
    """

    texts: int = 0
    changed: int = 0
    capitalised: int = 0
    replaced: Counter[str] = field(default_factory=Counter)

    def add(self, text: str, normalised: str) -> None:
        """Count one transcript."""
        self.texts += 1
        self.changed += text != normalised
        self.capitalised += text != text.upper() and not any(c.islower() for c in normalised)
        self.replaced.update(set(text.upper()) - set(normalised) - {" "})

    def __str__(self) -> str:
        if not self.changed:
            return f"{counted(self.texts, 'transcript')}, none changed"
        done = [f"{self.capitalised:,} capitalised"] if self.capitalised else []
        if self.replaced:
            common = [f"{character!r} in {count:,}" for character, count in self.replaced.most_common()]
            done.append(f"removed or replaced {listing(common, _SHOWN)}")
        seen = counted(self.texts, "transcript")
        return f"{self.changed:,} of {seen} changed: {'; '.join(done) or 'spaces'}"

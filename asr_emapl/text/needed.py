"""Choose the text normalisation for a set of transcripts, and count what it changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from asr_emapl.errors import counted, listing
from asr_emapl.text.normalise import ALPHABET, PRESETS

AUTO = "auto"
"""The value of --text that chooses a preset from the transcripts."""
# If a larger share of texts has letters other than A-Z, these letters are part of the language.
_FOREIGN_SHARE = 0.02
_SHOWN = 12


def needed_preset(texts: Iterable[str], like: Iterable[str] | None = None) -> str:
    """Name of the preset for a set of transcripts.

    The result is "words" if more than 2 % of the transcripts have letters other than A-Z. Otherwise, it is
    "librispeech" if its alphabet covers all transcripts, and "common-voice" (which removes accents) if not.

    Args:
        like: transcripts whose letters decide, so that `texts` get the same alphabet; None: `texts`.
    """
    texts = list(texts)
    deciding = texts if like is None else list(like)
    plain = set(ALPHABET)
    foreign = sum(
        any(c.isalpha() and c not in plain for c in PRESETS["words"].normalise(text)) for text in deciding
    )
    if foreign > _FOREIGN_SHARE * len(deciding):
        return "words"
    librispeech = PRESETS["librispeech"]
    is_covered = not any(librispeech.strange(librispeech.normalise(text)) for text in texts)
    return "librispeech" if is_covered else "common-voice"


@dataclass
class Changes:
    """Changes of a set of transcripts by a preset.

    Attributes:
        texts: number of transcripts.
        changed: number of transcripts that changed.
        capitalised: number of transcripts that had lower-case letters.
        replaced: for each removed or replaced character, the number of transcripts that contain it.
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

"""Text normalisation for scoring, and detection of texts that look alike but differ in Unicode."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from asr_emapl.errors import UserError
from asr_emapl.text.normalise import PRESETS, plain

NORMALISATIONS = {
    "none": "none: texts as they are, words separated by whitespace",
    "jiwer": "jiwer's wer_standardize: lower case, English contractions expanded, [tags] removed",
    "whisper-english": "Whisper's English normaliser (package whisper-normalizer)",
    "whisper-basic": "Whisper's basic normaliser for any language (package whisper-normalizer)",
    **{name: f"{name}: {preset.stated}" for name, preset in PRESETS.items()},
}
"""Name -> description, reported with the results."""


@dataclass(frozen=True)
class Normalisation:
    """A normalisation: name and description (see `NORMALISATIONS`), and the function from text to text."""

    name: str
    stated: str
    apply: Callable[[str], str]


def normalisation(name: str) -> Normalisation:
    """Return the normalisation with this name.

    Raises:
        UserError: the name is unknown, or a required package is not installed.
    """
    if name not in NORMALISATIONS:
        raise UserError(f"unknown normalisation {name!r}; use one of {', '.join(NORMALISATIONS)}")
    return Normalisation(name, NORMALISATIONS[name], _function(name))


def are_alike(first: Collection[str], second: Iterable[str]) -> bool:
    """Return whether any id that is only in `second` looks like an id of `first`."""
    shown = {plain(name) for name in first}
    return any(name not in first and plain(name) in shown for name in second)


def differs_invisibly(reference: str, hypothesis: str) -> bool:
    """Return whether words of two texts look alike but differ (NFC and NFD, or invisible characters)."""
    if reference == hypothesis or (reference.isascii() and hypothesis.isascii()):
        return False
    shown = [plain(word) for word in set(reference.split()) ^ set(hypothesis.split())]
    return "" in shown or len(set(shown)) < len(shown)


def _function(name: str) -> Callable[[str], str]:
    if name == "none":
        return str
    if name == "jiwer":
        import jiwer

        # Skip the last step, which splits the text into words.
        return jiwer.Compose(jiwer.wer_standardize.transforms[:-1])
    if name in PRESETS:
        return PRESETS[name].normalise
    try:
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise UserError(
            f"normalisation {name!r} needs the package whisper-normalizer; "
            "run pip install '.[whisper]' in the checkout"
        ) from error
    return EnglishTextNormalizer() if name == "whisper-english" else BasicTextNormalizer()

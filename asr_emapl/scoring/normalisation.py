"""Normalisations of references and hypotheses before scoring, by name. The default is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from asr_emapl.errors import UserError
from asr_emapl.text.normalise import PRESETS

_SPELLINGS = {
    "none": "none: texts as they are, words separated by whitespace",
    "jiwer": "jiwer's wer_standardize: small letters, English contractions spelled out, [tags] dropped",
    "whisper-english": "Whisper's English normaliser, as the package whisper-normalizer has it",
    "whisper-basic": "Whisper's basic normaliser for any language, as the package whisper-normalizer has it",
}

NORMALISATIONS = {
    **_SPELLINGS,
    **{name: f"{name}: {preset.stated}" for name, preset in PRESETS.items()},
}
"""Name -> what is stated of it beside a result."""


@dataclass(frozen=True)
class Normalisation:
    """What is done to the texts of both sides.

    Attributes:
        name: one of `NORMALISATIONS`.
        stated: the same in words, to go with the result.
        apply: text to text.
    """

    name: str
    stated: str
    apply: Callable[[str], str]


def normalisation(name: str) -> Normalisation:
    """The normalisation of that name.

    Raises:
        UserError: there is none; or it takes a package that is not installed.
    """
    if name not in NORMALISATIONS:
        raise UserError(f"normalisation {name!r} is not known: name one of {', '.join(NORMALISATIONS)}")
    return Normalisation(name, NORMALISATIONS[name], _function(name))


def _function(name: str) -> Callable[[str], str]:
    if name == "none":
        return str
    if name == "jiwer":
        return _jiwer()
    if name.startswith("whisper-"):
        return _whisper(name)
    return PRESETS[name].normalise


def _jiwer() -> Callable[[str], str]:
    import jiwer

    # wer_standardize without its last step, which parts the words.
    return jiwer.Compose(jiwer.wer_standardize.transforms[:-1])


def _whisper(name: str) -> Callable[[str], str]:
    try:
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise UserError(
            f"normalisation {name!r} takes the package whisper-normalizer: pip install 'asr_emapl[whisper]'"
        ) from error
    return EnglishTextNormalizer() if name == "whisper-english" else BasicTextNormalizer()

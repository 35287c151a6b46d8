"""Tokenizers: convert text to CTC labels and back, with characters or SentencePiece.

Label 0 is the CTC blank in every tokenizer; the tokenizer's symbols are labels 1, 2, ... `state_dict()`
returns the whole tokenizer as plain values, which are saved in every checkpoint, and `fingerprint` is its
hash. Labels of two models can be compared only if their fingerprints are equal.

A character outside the alphabet is an error (normalise the text, or extend the alphabet), so the unknown
piece is never a training target.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import os
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import sentencepiece

from asr_emapl.errors import UserError, listing
from asr_emapl.storage import read_object, write
from asr_emapl.text.normalise import ALPHABET

BLANK = 0
"""The label of the CTC blank, in every tokenizer."""

SENTENCEPIECE_SPACE = "\u2581"
"""SentencePiece's symbol for a space in pieces. A text must not contain it."""

SENTENCEPIECE_TYPES = ("unigram", "bpe")
"""SentencePiece model types that have the requested size and cover all characters of their texts."""

_MAX_SENTENCE_BYTES = 1 << 20  # SentencePiece silently skips longer texts; its default is 4,192
_TRAINING_THREADS = 16  # fixed, because the pieces of the unigram training may depend on it
_SHOWN = 20  # maximum number of characters in an error message


class Tokenizer(ABC):
    """Converts transcripts to CTC labels and back.

    Attributes:
        name: the kind of tokenizer, for messages.
    """

    blank: int = BLANK
    name: str

    @property
    @abstractmethod
    def vocabulary_size(self) -> int:
        """Number of labels including the blank, which is the size of the model's last layer."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The labels of a normalised text, each in [1, vocabulary_size). Spaces are collapsed and stripped.

        Raises:
            UserError: the text has characters outside the alphabet; the message names them.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of labels without repeats, with single spaces; blanks are dropped.

        Raises:
            UserError: a label is outside [0, vocabulary_size), so it is from another tokenizer.
        """

    @cached_property
    def surfaces(self) -> list[str]:
        """The text of each label, [vocabulary_size], with spaces between words.

        If they are joined for the labels of a path and spaces are collapsed, the result equals that of
        `decode`. The texts of the blank and the unknown piece are empty.
        """
        return self._surfaces()

    def has_word(self, ids: Iterable[int]) -> bool:
        """Whether the text of labels is not empty: one of them is more than a space between words."""
        return not self._wordless.issuperset(ids)

    @cached_property
    def _wordless(self) -> frozenset[int]:
        return frozenset(label for label, text in enumerate(self.surfaces) if not text.strip(" "))

    @abstractmethod
    def _surfaces(self) -> list[str]:
        """See `surfaces`."""

    @abstractmethod
    def _content(self) -> dict[str, Any]:
        """`kind` and everything else that defines the tokenizer, as plain values."""

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer as plain values, for a checkpoint or a JSON file; see `tokenizer_from_state`."""
        return {**self._content(), "fingerprint": self.fingerprint}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the content: equal if and only if the tokenizers are equal."""
        canonical = json.dumps(self._content(), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokenizer):
            return NotImplemented
        return self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __str__(self) -> str:
        size, digest = self.vocabulary_size, self.fingerprint[:12]
        return f"{self.name} with {size} tokens (fingerprint {digest})"

    def __repr__(self) -> str:
        size, digest = self.vocabulary_size, self.fingerprint[:12]
        return f"{type(self).__name__}(vocabulary_size={size}, fingerprint={digest}...)"

    def _check_labels(self, ids: Sequence[int]) -> None:
        size = self.vocabulary_size
        for label in ids:
            if not 0 <= label < size:
                raise UserError(
                    f"label {label} is outside this tokenizer's vocabulary of {size}: "
                    "decode with the tokenizer in the model's checkpoint"
                )


class CharacterTokenizer(Tokenizer):
    """One label per character: label i + 1 is `alphabet[i]`. The space separates words.

    Args:
        alphabet: the characters, each once, in the order of their labels.

    Raises:
        UserError: the alphabet is empty, repeats a character, or has a control character, a surrogate, or
            whitespace other than the space.
    """

    name = "character tokenizer"

    def __init__(self, alphabet: str = ALPHABET) -> None:
        repeated = sorted(character for character, count in Counter(alphabet).items() if count > 1)
        other_spaces = sorted(
            {character for character in alphabet if character.isspace() and character != " "}
        )
        # Control characters and unpaired surrogates cannot be written as text.
        unwritable = sorted(
            {character for character in alphabet if unicodedata.category(character) in ("Cc", "Cs")}
        )
        if not alphabet:
            raise UserError("the alphabet of the character tokenizer is empty: specify its characters")
        if repeated:
            raise UserError(
                f"the alphabet {alphabet[:100]!r} has {_quoted(repeated[:_SHOWN])} more than once: "
                "remove the duplicates"
            )
        if other_spaces:
            raise UserError(
                f"the alphabet {alphabet[:100]!r} has {_quoted(other_spaces)}: separate words by ' ' only"
            )
        if unwritable:
            raise UserError(
                f"the alphabet {alphabet[:100]!r} has {_quoted(unwritable[:_SHOWN])}, which cannot "
                "be written as text: remove them"
            )
        self.alphabet = alphabet
        self._label_of = {character: label for label, character in enumerate(alphabet, start=BLANK + 1)}

    @staticmethod
    def of(texts: Iterable[str]) -> CharacterTokenizer:
        """Build a tokenizer with LibriSpeech's characters if they suffice, else with those of the texts."""
        used = {character for text in texts for character in text}
        return CharacterTokenizer(ALPHABET if used <= set(ALPHABET) else "".join(sorted(used | {" "})))

    @property
    def vocabulary_size(self) -> int:
        return len(self.alphabet) + 1

    def encode(self, text: str) -> list[int]:
        try:
            return [self._label_of[character] for character in _single_spaced(text)]
        except KeyError:
            raise _unknown_characters(text, set(text) - set(self.alphabet)) from None

    def decode(self, ids: Sequence[int]) -> str:
        self._check_labels(ids)
        return _single_spaced("".join(self.alphabet[label - 1] for label in ids if label != BLANK))

    def _surfaces(self) -> list[str]:
        return ["", *self.alphabet]

    def _content(self) -> dict[str, Any]:
        return {"kind": "characters", "alphabet": self.alphabet}


class SentencePieceTokenizer(Tokenizer):
    """One label per SentencePiece piece: label i + 1 is piece i of the model; label 0 is the blank.

    Args:
        model: the bytes of a SentencePiece model file.

    Raises:
        UserError: the bytes are not a SentencePiece model.
    """

    name = "SentencePiece tokenizer"

    def __init__(self, model: bytes) -> None:
        self.model = model
        broken = UserError(f"not a SentencePiece model ({len(model)} bytes): train it again")
        if not model:  # SentencePiece would not raise an error
            raise broken
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            self._pieces = [self._processor.id_to_piece(i) for i in range(self._processor.get_piece_size())]
        # UnicodeDecodeError: a piece is not valid text.
        except (RuntimeError, UnicodeDecodeError) as error:
            raise broken from error
        self._unknown: int = self._processor.unk_id()

    @classmethod
    def train(
        cls, texts: Iterable[str], vocabulary_size: int, model_type: str = "unigram"
    ) -> SentencePieceTokenizer:
        """Train on normalised texts, in memory. The same texts in the same order give the same tokenizer.

        Args:
            texts: transcripts; the tokenizer covers all of their characters.
            vocabulary_size: number of labels, including the blank and the unknown piece, which is not used.
            model_type: "unigram" or "bpe".

        Raises:
            UserError: there is no text; the size is not possible for the texts (the message has the limit);
                the model type is unknown.
        """
        if model_type not in SENTENCEPIECE_TYPES:
            raise UserError(
                f"SentencePiece model type {model_type!r}: use one of {_quoted(SENTENCEPIECE_TYPES)}"
            )
        if vocabulary_size < 3:
            raise UserError(
                f"a vocabulary of {vocabulary_size} is too small: it has only the blank and the unknown piece"
            )
        # Use a list, because SentencePiece replaces exceptions of an iterator by its own.
        sentences = [sentence for sentence in map(_single_spaced, texts) if sentence]
        if not sentences:
            raise UserError("no text to train SentencePiece on: every transcript is empty")
        writer = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences),
                model_writer=writer,
                vocab_size=vocabulary_size - 1,
                model_type=model_type,
                unk_id=0,
                pad_id=-1,
                bos_id=-1,
                eos_id=-1,
                character_coverage=1.0,  # no unknown characters
                normalization_rule_name="identity",  # texts are already normalised
                max_sentence_length=_MAX_SENTENCE_BYTES,
                num_threads=_TRAINING_THREADS,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise _training_error(vocabulary_size, str(error)) from error
        return cls(writer.getvalue())

    @property
    def vocabulary_size(self) -> int:
        return len(self._pieces) + 1

    def encode(self, text: str) -> list[int]:
        if SENTENCEPIECE_SPACE in text:  # would be decoded as a space
            raise _unknown_characters(text, {SENTENCEPIECE_SPACE})
        pieces: list[int] = self._processor.encode(_single_spaced(text))
        if self._unknown in pieces:
            surfaces = self._processor.encode(_single_spaced(text), out_type=str)
            unknown = {
                surface for piece, surface in zip(pieces, surfaces, strict=True) if piece == self._unknown
            }
            raise _unknown_characters(text, set("".join(unknown)) - {SENTENCEPIECE_SPACE})
        return [piece + 1 for piece in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        self._check_labels(ids)
        # The unknown piece is never a target. SentencePiece decodes it as a question mark symbol.
        pieces = [label - 1 for label in ids if label not in (BLANK, self._unknown + 1)]
        return _single_spaced(self._processor.decode(pieces))

    def _surfaces(self) -> list[str]:
        pieces = list(self._pieces)
        pieces[self._unknown] = ""
        return ["", *(piece.replace(SENTENCEPIECE_SPACE, " ") for piece in pieces)]

    def _content(self) -> dict[str, Any]:
        return {"kind": "sentencepiece", "model": base64.b64encode(self.model).decode("ascii")}


def tokenizer_from_state(state: dict[str, Any]) -> Tokenizer:
    """Build a tokenizer from its `state_dict()`. The fingerprint is checked if the state has one.

    Raises:
        UserError: the kind is unknown, an entry is missing or malformed, or the content does not match the
            fingerprint.
    """
    kind = state.get("kind") if isinstance(state, dict) else None
    tokenizer: Tokenizer
    if kind == "characters":
        tokenizer = CharacterTokenizer(_text_entry(state, "alphabet"))
    elif kind == "sentencepiece":
        try:
            model = base64.b64decode(_text_entry(state, "model"), validate=True)
        except (binascii.Error, ValueError) as error:
            raise UserError(
                "the tokenizer's SentencePiece model is not valid base64: the state is damaged"
            ) from error
        tokenizer = SentencePieceTokenizer(model)
    else:
        raise UserError(
            f"tokenizer of unknown kind {kind!r}: this version supports 'characters' and 'sentencepiece'"
        )
    expected = state.get("fingerprint", tokenizer.fingerprint)
    if expected != tokenizer.fingerprint:
        raise UserError(
            f"the tokenizer's fingerprint is {tokenizer.fingerprint[:12]}..., but the stored one is "
            f"{str(expected)[:12]}...: damaged, or edited by hand (then remove the fingerprint entry)"
        )
    return tokenizer


def save_tokenizer(path: str | os.PathLike[str], tokenizer: Tokenizer) -> None:
    """Write the tokenizer as a JSON file. An existing file is replaced atomically.

    Raises:
        UserError: the file cannot be written.
    """
    write(path, json.dumps(tokenizer.state_dict(), indent=1) + "\n")


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Read a tokenizer from a file written by `save_tokenizer`.

    Raises:
        UserError: the file does not exist, or is not a tokenizer.
    """
    state = read_object(Path(path), "a tokenizer file (write it with asr-emapl tokenizer)")
    try:
        return tokenizer_from_state(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _single_spaced(text: str) -> str:
    # Split only at spaces: a tab or a newline is an error, as it is outside the alphabet.
    return " ".join(word for word in text.split(" ") if word)


def _quoted(characters: Iterable[str]) -> str:
    return ", ".join(map(repr, characters))


def _unknown_characters(text: str, unknown: set[str]) -> UserError:
    named = [repr(character) for character in sorted(unknown)]
    shown = text if len(text) <= 60 else text[:57] + "..."
    return UserError(
        f"characters outside the tokenizer's alphabet: {listing(named, _SHOWN)} in {shown!r}: "
        "normalise the text, or create a tokenizer that has them"
    )


def _text_entry(state: dict[str, Any], key: str) -> str:
    value = state.get(key)
    if not isinstance(value, str):
        raise UserError(
            f"the tokenizer of kind {state['kind']!r} has no text entry {key!r}: the state is damaged"
        )
    return value


def _training_error(vocabulary_size: int, message: str) -> UserError:
    """Convert an error of SentencePiece. Its sizes do not include the blank, but ours do."""
    if highest := re.search(r"Vocabulary size too high .* <= (\d+)", message):
        return UserError(
            f"a vocabulary of {vocabulary_size} is too large for these texts: "
            f"SentencePiece allows at most {int(highest[1]) + 1} (including the blank)"
        )
    if lowest := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return UserError(
            f"a vocabulary of {vocabulary_size} is too small for the characters of these texts: "
            f"SentencePiece needs at least {int(lowest[1]) + 1} (including the blank)"
        )
    return UserError(
        f"SentencePiece cannot train a vocabulary of {vocabulary_size} on these texts: {message}"
    )

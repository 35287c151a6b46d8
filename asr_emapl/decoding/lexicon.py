"""The words that a beam search may write: from a list, an ARPA language model, or a Kaldi lexicon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from asr_emapl.decoding.arpa import MAX_WORD_BYTES
from asr_emapl.errors import UserError
from asr_emapl.storage import read_lines
from asr_emapl.text.tokenizer import Tokenizer

# What language models write for beginning, end and unknown words.
_SYMBOLS = frozenset(("<s>", "</s>", "<unk>", "<UNK>"))


def read_words(path: Path) -> list[str]:
    """The words of a lexicon, each once, in the order of the file, which may be packed (.gz, .xz).

    An ARPA file gives its words. Of any other file's lines the first column is taken, so that lexicons with
    pronunciations or counts do as well.

    Raises:
        UserError: the file cannot be read, or has no words.
    """
    lines = (line for _, line in read_lines(path))
    first = next(lines, "")
    found = _unigrams(lines) if first.strip() == "\\data\\" else _first_columns(first, lines)
    words = dict.fromkeys(word for word in found if word not in _SYMBOLS)
    if any(len(word) > MAX_WORD_BYTES for word in words):
        raise UserError(f"{path}: has a word of more than {MAX_WORD_BYTES:,} characters; is it a lexicon?")
    if not words:
        raise UserError(f"{path}: has no words (one a line, or an ARPA language model)")
    return list(words)


def spellable(words: list[str], tokenizer: Tokenizer, place: str) -> tuple[list[str], list[str]]:
    """The words that the tokenizer has labels for, and those that it has not.

    Raises:
        UserError: it has none for any of them.
    """
    found, strange = [], []
    for word in words:
        try:
            tokenizer.encode(word)
        except UserError:
            strange.append(word)
        else:
            found.append(word)
    if not found:
        raise UserError(
            f"{place}: the tokenizer has no characters for any of its words, such as {strange[0]!r} "
            "(spell them as the transcripts do: capitals, for example)"
        )
    return found, strange


def _unigrams(lines: Iterator[str]) -> Iterator[str]:
    """The words below \\1-grams: of an ARPA file."""
    for line in lines:
        if line.strip() == "\\1-grams:":
            break
    for line in lines:
        if line.startswith("\\"):
            return
        if columns := line.split():
            yield columns[1] if len(columns) > 1 else ""


def _first_columns(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield from first.split()[:1]
    for line in lines:
        yield from line.split()[:1]

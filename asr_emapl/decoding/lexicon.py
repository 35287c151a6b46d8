"""Read the words that beam search may output, from a list, an ARPA language model or a Kaldi lexicon."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, dropwhile, takewhile
from pathlib import Path

from asr_emapl.decoding.arpa import MAX_WORD_BYTES
from asr_emapl.errors import UserError
from asr_emapl.storage import read_lines
from asr_emapl.text.tokenizer import Tokenizer

# Symbols of language models for the beginning, the end and unknown words.
_SYMBOLS = frozenset(("<s>", "</s>", "<unk>", "<UNK>"))


def read_words(path: Path) -> list[str]:
    """The words of a lexicon, without duplicates, in file order. The file may be compressed (.gz, .xz).

    For an ARPA file, the unigrams are returned. For other files, the first column is used, so lexicons with
    pronunciations or counts also work.

    Raises:
        UserError: the file cannot be read, or has no words.
    """
    lines = (line for _, line in read_lines(path))
    first = next(lines, "")
    if first.strip() == "\\data\\":
        found = _unigrams(lines)
    else:
        found = (word for line in chain([first], lines) for word in line.split()[:1])
    words = dict.fromkeys(word for word in found if word not in _SYMBOLS)
    if any(len(word) > MAX_WORD_BYTES for word in words):
        raise UserError(f"{path}: a word has more than {MAX_WORD_BYTES:,} characters; is it a lexicon?")
    if not words:
        raise UserError(f"{path}: has no words; specify a list with one word per line, or an ARPA file")
    return list(words)


def spellable(words: list[str], tokenizer: Tokenizer, place: str) -> tuple[list[str], list[str]]:
    """Split the words into those the tokenizer can encode and those it cannot.

    Raises:
        UserError: the tokenizer cannot encode any of the words.
    """
    known, unknown = [], []
    for word in words:
        try:
            tokenizer.encode(word)
        except UserError:
            unknown.append(word)
        else:
            known.append(word)
    if not known:
        raise UserError(
            f"{place}: the tokenizer cannot encode any of its words, such as {unknown[0]!r}; spell them like "
            "the transcripts, for example in capitals"
        )
    return known, unknown


def _unigrams(lines: Iterator[str]) -> Iterator[str]:
    """The words in the section \\1-grams: of an ARPA file."""
    section = dropwhile(lambda line: line.strip() != "\\1-grams:", lines)
    next(section, None)
    for line in takewhile(lambda line: not line.startswith("\\"), section):
        yield from line.split()[1:2]

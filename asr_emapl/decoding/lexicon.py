"""The words that a beam search may write, read from a list, an ARPA language model, or a Kaldi lexicon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from asr_emapl.decoding.arpa import MAX_WORD_BYTES, open_bytes
from asr_emapl.errors import UserError
from asr_emapl.text.tokenizer import Tokenizer

_MAX_LINE_BYTES = 1 << 20
# What language models write for beginning, end and unknown words.
_SYMBOLS = frozenset(("<s>", "</s>", "<unk>", "<UNK>"))


def read_words(path: Path) -> list[str]:
    """The words of a lexicon, each once, in the order of the file, which may be packed (.gz, .xz).

    An ARPA file gives its words. Of any other file's lines the first column is taken, so that lexicons with
    pronunciations or counts do as well.

    Raises:
        UserError: the file cannot be read, or holds no words.
    """
    with open_text(path) as file:
        lines = (line.rstrip("\r\n") for line in file)
        first = next((line for line in lines if line.strip()), "")
        found = _unigrams(lines) if first.strip() == "\\data\\" else _first_columns(first, lines)
        words = dict.fromkeys(word for word in found if word not in _SYMBOLS)
    if not words:
        raise UserError(f"{path}: holds no words (one a line, or an ARPA language model)")
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


@contextmanager
def open_text(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a text file, unpacked on the way if its name ends in .gz or .xz.

    Raises:
        UserError: it cannot be read or unpacked, is not UTF-8, or has a line or a word that is too long.
    """
    with open_bytes(path) as file:
        yield _lines(file, path)


def _lines(file: BinaryIO, path: Path) -> Iterator[str]:
    for number, line in enumerate(iter(partial(file.readline, _MAX_LINE_BYTES), b""), start=1):
        if len(line) > MAX_WORD_BYTES and (
            len(line) == _MAX_LINE_BYTES or max(map(len, line.split()), default=0) > MAX_WORD_BYTES
        ):
            raise UserError(
                f"{path}:{number}: a word of more than {MAX_WORD_BYTES:,} bytes, or a line of "
                f"{_MAX_LINE_BYTES:,}; write one sentence or word on each line"
            )
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number}: not UTF-8 text (convert it with iconv -t UTF-8)") from error


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

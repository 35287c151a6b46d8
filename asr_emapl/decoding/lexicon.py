"""The words that a beam search may write, read from a list, an ARPA language model, or a Kaldi lexicon."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from asr_emapl.errors import UserError
from asr_emapl.text.tokenizer import Tokenizer

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


def spell(words: list[str], tokenizer: Tokenizer, place: str) -> tuple[dict[str, list[int]], list[str]]:
    """Labels of each word, and the words that the tokenizer has no letters for.

    Raises:
        UserError: it has none for any of them.
    """
    spelled: dict[str, list[int]] = {}
    strange = []
    for word in words:
        try:
            spelled[word] = tokenizer.encode(word)
        except UserError:
            strange.append(word)
    if not spelled:
        raise UserError(
            f"{place}: the tokenizer has no letters for any of its words, such as {strange[0]!r} "
            "(spell them as the transcripts do: capitals, for example)"
        )
    return spelled, strange


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """A text file, unpacked on the way if its name ends in .gz or .xz.

    Raises:
        UserError: it cannot be read, unpacked, or is no UTF-8.
    """
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix.lower(), open)
    try:
        with opener(path, "rt", encoding="utf-8") as file:  # type: ignore[operator]
            yield file
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (convert it with iconv -t UTF-8)") from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


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

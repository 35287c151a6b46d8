"""Lexicons: lists and ARPA files, compressed or not; words that the tokenizer cannot encode."""

from __future__ import annotations

import gzip
import lzma

import pytest

from asr_emapl.decoding.lexicon import read_words, spellable
from asr_emapl.errors import UserError
from asr_emapl.text.tokenizer import CharacterTokenizer

ARPA = """
\\data\\
ngram 1=5
ngram 2=1

\\1-grams:
-99\t<s>\t-0.3
-1.0\tADA\t-0.2
-1.0\tBOB
-1.0\t</s>
-2.0\t<unk>

\\2-grams:
-0.5\tADA CLIO

\\end\\
"""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (ARPA, ["ADA", "BOB"]),
        ("ADA\nBOB\nADA\n", ["ADA", "BOB"]),
        ("\nADA AH D AH\r\n\nBOB B AA B\n", ["ADA", "BOB"]),
        ("ADA\t12\n<unk> spn\n", ["ADA"]),
    ],
)
def test_words_of_a_file(tmp_path, content, words):
    for name, opener in (("l", open), ("l.gz", gzip.open), ("l.xz", lzma.open)):
        with opener(tmp_path / name, "wt", encoding="utf-8") as file:
            file.write(content)
        assert read_words(tmp_path / name) == words


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("empty", b"", "has no words"),
        ("spaces", b"\n \n", "has no words"),
        ("arpa", b"\\data\\\n\n\\1-grams:\n-1\t<s>\n\\end\\\n", "has no words"),
        ("latin", b"CAF\xc9\n", "not UTF-8"),
        ("broken.gz", gzip.compress(b"ADA\n" * 1000, mtime=0)[:-10], "cannot be read"),
    ],
)
def test_invalid_lexicons_are_refused(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=what):
        read_words(tmp_path / name)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"gone: cannot be read .No such file"):
        read_words(tmp_path / "gone")


def test_words_that_cannot_be_encoded_are_listed():
    assert spellable(["ADA", "na\u00efve", "BOB"], CharacterTokenizer(), "l") == (
        ["ADA", "BOB"],
        ["na\u00efve"],
    )
    with pytest.raises(UserError, match=r"^l: .* 'ada'"):
        spellable(["ada", "bob"], CharacterTokenizer(), "l")


def test_a_word_of_a_million_characters_is_refused(tmp_path):
    (tmp_path / "l").write_text("ADA\n" + "A" * 1_000_000 + "\n")
    with pytest.raises(UserError, match=r"l: a word has more than 1,000 characters"):
        read_words(tmp_path / "l")

"""Language model files that would crash KenLM are refused before KenLM reads them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from asr_emapl.decoding.arpa import check_language_model
from asr_emapl.errors import UserError

ARPA = """
\\data\\
ngram 1=4
ngram 2=1

\\1-grams:
-99\t<s>\t-0.5
-1\t</s>
-9\t<unk>
-1\tA\t-0.5

\\2-grams:
-0.25\tA A

\\end\\
"""


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_valid_file_passes(tmp_path: Path, ends: str, pack) -> None:
    (tmp_path / "lm").write_bytes(pack(ARPA.replace("\n", ends).encode()))
    check_language_model(tmp_path / "lm")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("ngram 1=4", "ngram 1=-5", r"lm:3: expected 'ngram 1="),
        ("ngram 1=4", "ngram 1=99999999999999999999", r"lm:3: expected 'ngram 1="),
        ("ngram 1=4", "ngram 1=5", r"the section \\1-grams: has 4 lines .* says 5"),
        ("ngram 2=1", "ngram 2=0", r"the section \\2-grams: has 1 lines .* says 0"),
        ("ngram 2=1\n", "", "a model of order 1"),
        ("ngram 2=1", "ngram 2=1\nngram 3=1", r"expected the section \\3-grams:"),
        ("\\data\\", "data", "not a language model"),
        ("\\end\\\n", "", r"expected \\end\\"),
        ("-1\tA\t", f"-1\t{'A' * 1_000_000}\t", r"lm:10: a word has more than 1,000 bytes"),
        ("\n\\2-grams", "\n" * 2_000 + "\\2-grams", "more than 1,000 empty lines"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path: Path, old: str, new: str, fault: str) -> None:
    assert ARPA.count(old) >= 1
    (tmp_path / "lm").write_text(ARPA.replace(old, new, 1))
    with pytest.raises(UserError, match=fault):
        check_language_model(tmp_path / "lm")


@pytest.mark.parametrize(
    "content", [b"", b"mmap lm http://kheafield.com/code format version 5\n\0", b"\x1f\x8b\x08"]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lm").write_bytes(content)
    with pytest.raises(UserError, match="lm"):
        check_language_model(tmp_path / "lm")

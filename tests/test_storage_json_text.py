"""JSON is parsed, or one error says what is wrong."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.errors import UserError
from asr_emapl.storage import BrokenLineError, finite_number, number, parse_json, read_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda value: st.lists(value) | st.dictionaries(st.text(), value),
    max_leaves=10,
)


@given(VALUES, st.booleans())
def test_what_was_written_comes_back(value, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text) == parse_json(text.encode()) == value


@given(st.binary() | st.text())
def test_anything_else_is_one_kind_of_error(content) -> None:
    with contextlib.suppress(BrokenLineError):
        parse_json(content)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "not JSON"),
        (b"{", r"not JSON .*column 2"),
        (b'{"a": 1}\n{"b"', "not JSON .*line 2, column 1"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 100_000, "nested"),
        (b"1" * 10_000, "thousands of digits"),
        (b'"\xff"', "not UTF-8"),
        (b'"\\ud800"', "unpaired surrogate"),
        (b'{"\\uDFFF": 1}', "unpaired surrogate"),
    ],
)
def test_what_is_wrong_is_said(content: bytes, what: str, tmp_path: Path) -> None:
    with pytest.raises(BrokenLineError, match=what):
        parse_json(content)
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json:"):
        read_object(tmp_path / "a.json", "a config")


def test_a_file_that_holds_no_object(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(UserError, match=r"a\.json: not a JSON object .*; expected a tokenizer"):
        read_object(tmp_path / "a.json", "a tokenizer")


def test_numbers() -> None:
    assert (number(3), number("3"), number(True), number(None)) == (3.0, None, None, None)
    assert (number(10**400), number(-(10**400))) == (math.inf, -math.inf)
    assert [finite_number(value) for value in (1.5, 10**400, math.inf, math.nan, "1")] == [1.5, *[None] * 4]

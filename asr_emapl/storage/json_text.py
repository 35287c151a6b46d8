"""Parse JSON written by users or interrupted programs. All faults raise the same exception class."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_emapl.errors import UserError
from asr_emapl.storage.text_files import BrokenLineError, Line, read_document

# JSON can contain halves of surrogate pairs, which UTF-8 cannot encode.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes) -> Any:
    """Parse one JSON value.

    Raises:
        BrokenLineError: it is not UTF-8, is not JSON, is nested too deeply, or has an unpaired surrogate.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        value = json.loads(text)
    except UnicodeDecodeError:
        raise BrokenLineError("not UTF-8 (save the file as UTF-8)") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise BrokenLineError(f"not JSON ({error.msg}, {where})") from None
    except ValueError:
        raise BrokenLineError("not JSON (a number with thousands of digits)") from None
    except RecursionError:
        raise BrokenLineError("not JSON (hundreds of nested brackets)") from None
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise BrokenLineError(f"unpaired surrogate {half!r} (write the character as UTF-8)") from None
    return value


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON object, {...}.

    Raises:
        BrokenLineError: as `parse_json`, or the value is not an object.
    """
    value = parse_json(text)
    if not isinstance(value, dict):
        raise BrokenLineError("not a JSON object (write {...})")
    return value


def read_object(place: str | Path, expected: str) -> dict[str, Any]:
    """Read the JSON object in a file.

    Args:
        expected: description of the expected file for the message: "the output of asr-emapl tune-lm".

    Raises:
        UserError: the file cannot be read, is not JSON, or is not an object.
    """
    try:
        return parse_object(read_document(place, remedy=f"expected {expected}"))
    except BrokenLineError as error:
        raise UserError(f"{place}: {error}; expected {expected}") from error


def check_json_lines(place: str | Path, lines: Sequence[Line]) -> None:
    """Raise an error if a file of JSON lines is a single JSON document.

    Raises:
        UserError: the first line starts an array, or contains only an opening brace.
    """
    first = lines[0][1].strip() if lines else ""
    if first.startswith("["):
        raise UserError(
            f"{place}: is a JSON array; write one object per line: jq -c '.[]' {place} > FILE.jsonl"
        )
    if first == "{":
        raise UserError(
            f"{place}: is one JSON object over several lines; write one object per line: jq -c . {place}"
        )


def number(value: object) -> float | None:
    """The number as a float, infinite if it is too large; None if the value is not a number."""
    # bool is an int in Python, but not in JSON.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def finite_number(value: object) -> float | None:
    """The number as a float; None if the value is not a number, NaN, infinite, or too large."""
    found = number(value)
    return found if found is not None and math.isfinite(found) else None

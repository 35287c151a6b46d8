"""Transcripts from the files that recognisers and corpora write, and hypotheses to such a file.

Three formats, UTF-8, one utterance a line:

- jsonl: `{"id": "1272-128104-0000", "text": "MISTER QUILTER"}`, further entries ignored: this package's
  manifests and hypotheses; `pred_text` in place of or beside `text` is a hypothesis.
- trn: `MISTER QUILTER (1272-128104-0000)`, as sclite reads; lines starting with `;;` are comments.
- plain: `1272-128104-0000 MISTER QUILTER`, LibriSpeech's trans.txt and Kaldi's text.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from asr_emapl.errors import UserError

Role = Literal["reference", "hypothesis"]

_SHOWN_FINDINGS = 20  # an error lists at most so many broken lines
_FORMAT_OF_EXTENSION = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".trn": "trn"}
_TEXT_ENTRIES: dict[Role, tuple[str, str]] = {
    "reference": ("text", "pred_text"),
    "hypothesis": ("pred_text", "text"),
}
_TRN_COMMENT = ";;"
_TRN_LINE = re.compile(r"(?P<text>.*?)\s*\((?P<id>[^()\s]+)\)\s*")


class _Finding(Exception):
    """What is wrong with one line."""


def read_transcripts(path: str | os.PathLike[str], *, role: Role = "reference") -> dict[str, str]:
    """Read id -> transcript, in the order of the file. A line with an id and no words is an empty transcript.

    The extension tells the format (.jsonl, .json, .ndjson, .trn); of any other file the content does. A byte
    order mark, CRLF line ends and empty lines are tolerated. Texts are not normalised.

    Args:
        path: the file.
        role: which entry of a JSON line with both `text` and `pred_text` is meant: the first for
            "reference", the second for "hypothesis".

    Raises:
        UserError: the file cannot be read or has no transcripts; or broken lines and repeated ids, all of
            them in one error, a line each: `path:line: what`.
    """
    lines = _read_lines(Path(path))
    form = _FORMAT_OF_EXTENSION.get(Path(path).suffix.lower()) or _sniff([line for _, line in lines])
    transcripts: dict[str, str] = {}
    first_line: dict[str, int] = {}
    findings: list[str] = []
    for number, line in lines:
        if form == "trn" and line.startswith(_TRN_COMMENT):
            continue
        try:
            utterance, text = _parse(line, form, role)
            if utterance in first_line:
                raise _Finding(f"id {utterance!r} again, first in line {first_line[utterance]}: keep one")
        except _Finding as finding:
            findings.append(f"{path}:{number}: {finding}")
            continue
        first_line[utterance] = number
        transcripts[utterance] = text
    if findings:
        raise UserError(_report(findings, str(path)))
    if not transcripts:
        raise UserError(f"{path}: no transcripts in it: is it the right file, and was it written to the end?")
    return transcripts


def write_hypotheses(path: str | os.PathLike[str], hypotheses: Mapping[str, str]) -> None:
    """Write id -> text as JSONL (`id`, `text`); a reader sees the old file or the new one, never a part.

    Raises:
        UserError: the file cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for utterance, text in hypotheses.items():
                file.write(json.dumps({"id": utterance, "text": text}, ensure_ascii=False) + "\n")
        temporary.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):  # the folder itself may be no folder
            temporary.unlink()
        raise UserError(f"{target}: the hypotheses cannot be written ({error.strerror})") from error


def _read_lines(path: Path) -> list[tuple[int, str]]:
    """(line number from 1, line without its end) of the lines that are not blank."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: the transcripts cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8 text: convert the file (iconv -t UTF-8)") from error
    # Not splitlines(): that would also part a line at, say, U+2028 inside a JSON text.
    numbered = enumerate(content.split("\n"), start=1)
    return [(number, line.rstrip("\r")) for number, line in numbered if line.strip()]


def _report(findings: list[str], place: str) -> str:
    more = len(findings) - _SHOWN_FINDINGS
    tail = [f"{place}: and {more} more"] if more > 0 else []
    return "\n".join(findings[:_SHOWN_FINDINGS] + tail)


def _sniff(lines: list[str]) -> str:
    if not lines:
        return "plain"
    if lines[0].lstrip().startswith("{"):
        return "jsonl"
    if all(_TRN_LINE.fullmatch(line) or line.startswith(_TRN_COMMENT) for line in lines):
        return "trn"
    return "plain"


def _parse(line: str, form: str, role: Role) -> tuple[str, str]:
    if form == "jsonl":
        return _parse_json(line, role)
    if form == "trn":
        return _parse_trn(line)
    utterance, *words = line.split(maxsplit=1)
    return utterance, words[0].rstrip() if words else ""


def _parse_json(line: str, role: Role) -> tuple[str, str]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise _Finding(f"not JSON ({error}): one JSON object a line is expected") from None
    if not isinstance(entry, dict):
        raise _Finding("not a JSON object: one with 'id' and 'text' a line is expected")
    utterance = entry.get("id")
    if not isinstance(utterance, str) or not utterance:
        raise _Finding("no 'id' (a text that is not empty)")
    present = [name for name in _TEXT_ENTRIES[role] if entry.get(name) is not None]
    if not present:
        raise _Finding(f"id {utterance!r} has neither 'text' nor 'pred_text'")
    text = entry[present[0]]
    if not isinstance(text, str):
        raise _Finding(f"id {utterance!r}: {present[0]!r} is no text")
    return utterance, text


def _parse_trn(line: str) -> tuple[str, str]:
    match = _TRN_LINE.fullmatch(line)
    if match is None:
        raise _Finding("no '(id)' at the end of the line, as trn files have it")
    return match["id"], match["text"].strip()

"""Read transcripts in the formats of recognizers and corpora, and write hypotheses.

Files are UTF-8, optionally compressed by gzip, at a path or URL, with one utterance per line:

- jsonl: `{"id": "1272-128104-0000", "text": "MISTER QUILTER"}`, with `speaker` and `duration` (seconds) if
  known: this package's manifests and hypotheses; `pred_text` in place of or beside `text` is a hypothesis.
  NeMo's manifests and results (ids come from `audio_filepath`) and lhotse's cuts too.
- trn: `MISTER QUILTER (1272-128104-0000)`, as sclite reads.
- stm and ctm, see `asr_emapl.scoring.nist.timed`.
  In these three, `{ UM / UH / @ }` are alternatives and `(UM)` may be left out
  (`asr_emapl.scoring.nist.alternatives`).
- plain: `1272-128104-0000 MISTER QUILTER`, LibriSpeech's trans.txt and Kaldi's text.

Lines starting with `;;` are comments, except in JSON.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence

from asr_emapl.errors import UserError
from asr_emapl.scoring.json_transcripts import Role, TranscriptEntry, parse_json_lines
from asr_emapl.scoring.missing_ids import lines_without_ids
from asr_emapl.scoring.nist import timed
from asr_emapl.scoring.nist.alternatives import first_wording, parse_marked
from asr_emapl.scoring.recognised_formats import COMMENT, TRN_LINE, named_format, sniffed_format
from asr_emapl.storage import BrokenLineError, Line, check_json_lines, raise_broken, read_lines, write

_logger = logging.getLogger(__name__)

Place = str | os.PathLike[str]


def read_transcripts(path: Place, *, role: Role = "reference") -> dict[str, str]:
    """Read id -> text; `read_utterances` without speakers and durations."""
    return {name: transcript.text for name, transcript in read_utterances(path, role=role).items()}


def read_utterances(path: Place, *, role: Role = "reference") -> dict[str, TranscriptEntry]:
    """Read id -> transcript, in the order of the file. A line with an id and no words is an empty transcript.

    The ending tells the format (.jsonl, .json, .ndjson, .trn, .stm, .ctm; .filt and .gz after it); of any
    other file the content does. A byte order mark, CRLF line ends and empty lines are tolerated. Texts are
    not normalised. A ctm file is taken recording by recording (`read_pair` has it cut by an stm file).

    Args:
        path: the file, or its URL.
        role: which entry of a JSON line with both `text` and `pred_text` is meant: the first for
            "reference", the second for "hypothesis".

    Raises:
        UserError: the file cannot be read or has no transcripts; or broken lines and repeated ids, all of
            them in one error, a line each: `path:line: what`.
    """
    return _parsed(path, list(read_lines(os.fspath(path))), role)


def _parsed(
    path: Place, lines: Sequence[Line], role: Role, *, number_lines: bool = False
) -> dict[str, TranscriptEntry]:
    form = _form(path, lines)
    if form == "ctm":
        return _filled(path, _of_texts(timed.texts_of_recordings(timed.parse_ctm(os.fspath(path), lines))))
    if form == "stm":
        return _filled(path, _of_segments(timed.parse_stm(os.fspath(path), lines)))
    if form == "jsonl":
        check_json_lines(os.fspath(path), lines)
        parsed, broken = parse_json_lines(os.fspath(path), lines, role, number_lines=number_lines)
    else:
        content = [(number, line) for number, line in lines if not line.lstrip().startswith(COMMENT)]
        parsed, broken = _parse_lines(content, form)
    if form == "plain":
        _require_ids(path, parsed)
    return _filled(path, _by_id(path, parsed, broken))


def read_pair(
    reference: Place, hypothesis: Place
) -> tuple[dict[str, TranscriptEntry], dict[str, TranscriptEntry]]:
    """References and hypotheses by id.

    A ctm hypothesis of an stm reference is cut by it, as sclite does (`timed.texts_of_segments`).

    Raises:
        UserError: as `read_utterances`.
    """
    # Text and pred_text of a line belong together, whatever they are called.
    alone = os.fspath(reference) == os.fspath(hypothesis)
    lines, others = list(read_lines(os.fspath(reference))), list(read_lines(os.fspath(hypothesis)))
    if _form(reference, lines) != "stm" or _form(hypothesis, others) != "ctm":
        return (
            _parsed(reference, lines, "reference", number_lines=alone),
            _parsed(hypothesis, others, "hypothesis", number_lines=alone),
        )
    segments = timed.parse_stm(os.fspath(reference), lines)
    words = timed.parse_ctm(os.fspath(hypothesis), others)
    return _filled(reference, _of_segments(segments)), _of_texts(timed.texts_of_segments(segments, words))


def write_hypotheses(path: Place, hypotheses: Mapping[str, str]) -> None:
    """Write id -> text as JSONL (`id`, `text`); an older file is replaced atomically.

    Raises:
        UserError: the file cannot be written.
    """
    write(
        path,
        (
            json.dumps({"id": utterance, "text": text}, ensure_ascii=False) + "\n"
            for utterance, text in hypotheses.items()
        ),
    )


def _form(path: Place, lines: Sequence[Line]) -> str:
    return named_format(path) or sniffed_format(os.fspath(path), [line for _, line in lines])


def _parse_lines(
    lines: Sequence[Line], form: str
) -> tuple[list[tuple[int, str, TranscriptEntry]], list[Line]]:
    parsed: list[tuple[int, str, TranscriptEntry]] = []
    broken: list[Line] = []
    for number, line in lines:
        try:
            parsed.append((number, *_parse(line, form)))
        except BrokenLineError as finding:
            broken.append((number, str(finding)))
    return parsed, broken


def _by_id(
    path: Place, parsed: Sequence[tuple[int, str, TranscriptEntry]], broken: Sequence[Line]
) -> dict[str, TranscriptEntry]:
    """Raises UserError for the broken lines and for repeated ids, all in one."""
    found: dict[str, TranscriptEntry] = {}
    first: dict[str, int] = {}
    findings = list(broken)
    for number, name, transcript in parsed:
        if name in found:
            findings.append((number, f"id {name!r} again, first in line {first[name]}: keep one"))
        else:
            found[name], first[name] = transcript, number
    raise_broken(os.fspath(path), sorted(findings))
    return found


def _require_ids(path: Place, parsed: Sequence[tuple[int, str, TranscriptEntry]]) -> None:
    """UserError if lines begin with words instead of ids; a warning if it only looks so."""
    firsts = [name for _, name, _ in parsed]
    finding = lines_without_ids(firsts, [transcript.text for _, _, transcript in parsed])
    if finding == "none":
        return
    shown = ", ".join(repr(first) for first in firsts[:3])
    what = f"{os.fspath(path)}: lines begin with words ({shown}), not with ids"
    remedy = "number the lines of reference and hypotheses alike: nl -ba -w1 FILE"
    if finding == "certain":
        raise UserError(f"{what}; put an id before each line, or {remedy}")
    _logger.warning(f"{what}? The first word of a line is taken for its id. If it is none, {remedy}")


def _filled(path: Place, transcripts: dict[str, TranscriptEntry]) -> dict[str, TranscriptEntry]:
    if not transcripts:
        raise UserError(
            f"{os.fspath(path)}: no transcripts in it: is it the right file, and was it written to the end?"
        )
    return transcripts


def _of_segments(segments: Sequence[timed.StmSegment]) -> dict[str, TranscriptEntry]:
    names = timed.segment_ids(segments)
    return {
        name: _marked(s.text, s.speaker, s.end - s.begin)
        for name, s in zip(names, segments, strict=True)
        if s.text is not None
    }


def _of_texts(texts: Mapping[str, str]) -> dict[str, TranscriptEntry]:
    return {name: _marked(text) for name, text in texts.items()}


def _marked(text: str, speaker: str | None = None, seconds: float | None = None) -> TranscriptEntry:
    return TranscriptEntry(first_wording(text), speaker, seconds, parse_marked(text))


def _parse(line: str, form: str) -> tuple[str, TranscriptEntry]:
    if form == "trn":
        return _parse_trn(line)
    utterance, *words = line.split(maxsplit=1)
    return utterance, TranscriptEntry(words[0].rstrip() if words else "")


def _parse_trn(line: str) -> tuple[str, TranscriptEntry]:
    match = TRN_LINE.fullmatch(line)
    if match is None:
        raise BrokenLineError("no '(id)' at the end of the line, as trn files have it")
    return match["id"], _marked(timed.untagged(match["text"].rstrip()))

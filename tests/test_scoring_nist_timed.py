"""stm and ctm: assignment of words to segments, and invalid files."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr_emapl.errors import UserError
from asr_emapl.scoring.transcripts import TranscriptEntry, read_pair, read_transcripts, read_utterances

STM = """;; LABEL is skipped
talk 1 alice 0.0 2.0 <o,f0,female> HELLO THERE
talk 1 bob 2.0 3.5 GOOD DAY
talk 1 nobody 3.5 4.0 IGNORE_TIME_SEGMENT_IN_SCORING
talk 1 alice 10.0 11.0
other A carol 0 5 ALONE
"""
CTM = """;; made by hand
talk 1 1.9 0.4 GOOD 0.9
talk 1 0.1 0.3 HELLO
talk 1 0.6 0.3 THERE 0.5
talk 1 3.6 0.2 NOISE
talk 1 9.0 0.2 LATE
other A 1.0 0.2 ALONE
"""


def write(folder: Path, **contents: str) -> list[Path]:
    for name, content in contents.items():
        (folder / f"a.{name}").write_text(content)
    return [folder / f"a.{name}" for name in contents]


def texts_of(stm: Path, ctm: Path) -> tuple[dict[str, str], dict[str, str]]:
    references, hypotheses = read_pair(stm, ctm)
    return (
        {name: transcript.text for name, transcript in references.items()},
        {name: transcript.text for name, transcript in hypotheses.items()},
    )


def test_stm(tmp_path: Path) -> None:
    (stm,) = write(tmp_path, stm=STM)
    assert read_utterances(stm) == {
        "talk-1-0000000-0002000": TranscriptEntry("HELLO THERE", "alice", 2.0),
        "talk-1-0002000-0003500": TranscriptEntry("GOOD DAY", "bob", 1.5),
        "talk-1-0010000-0011000": TranscriptEntry("", "alice", 1.0),
        "other": TranscriptEntry("ALONE", "carol", 5.0),
    }


def test_ctm_is_split_by_an_stm(tmp_path: Path) -> None:
    stm, ctm = write(tmp_path, stm=STM, ctm=CTM)
    references, hypotheses = texts_of(stm, ctm)
    # GOOD begins in alice's segment, but its middle is in bob's. NOISE is in a segment that is not scored.
    # LATE is in no segment and belongs to the next one.
    assert hypotheses == {
        "talk-1-0000000-0002000": "HELLO THERE",
        "talk-1-0002000-0003500": "GOOD",
        "talk-1-0010000-0011000": "LATE",
        "other": "ALONE",
    }
    assert list(references) == list(hypotheses)


def test_recordings_of_one_side(tmp_path: Path) -> None:
    stm, ctm = write(tmp_path, stm="a 1 x 0 1 YES\nb 1 x 0 1 NO\n", ctm="b 2 0 1 NO\nc 1 0 1 WHAT\n")
    references, hypotheses = texts_of(stm, ctm)
    assert set(references) == {"a", "b"}
    assert hypotheses == {"b-2": "NO", "c-1": "WHAT"}


def test_ctm_alone_has_a_text_per_recording(tmp_path: Path) -> None:
    (ctm,) = write(tmp_path, ctm="u 1 0.5 0.1 B\nu 1 0.1 0.1 A\nv 1 0 1 C\nv 2 0 1 D\n")
    assert read_transcripts(ctm, role="hypothesis") == {"u": "A B", "v-1": "C", "v-2": "D"}


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("stm", "talk 1 alice 0.0", "not an stm line"),
        ("stm", "talk 1 alice zero 1.0 A", "'zero' is not a time"),
        ("stm", "talk 1 alice -1 1.0 A", "'-1' is not a time"),
        ("stm", "talk 1 alice 2 1 A", r"ends \(1 s\) before it starts \(2 s\)"),
        ("stm", "talk 1 alice 0 1 A { B / C", "unclosed alternatives"),
        ("ctm", "talk 1 0.0 0.1", "not a ctm line"),
        ("ctm", "talk 1 0.0 nan A", "'nan' is not a time"),
        ("ctm", "talk 1 0.0 1e308 A", "'1e308' is not a time"),
        ("ctm", "talk 1 * * <ALT_END>", "alternatives"),
        ("trn", "A { B / @ (u)", "unclosed alternatives"),
    ],
)
def test_broken_lines(tmp_path: Path, name: str, line: str, expected: str) -> None:
    (path,) = write(tmp_path, **{name: line + "\n"})
    with pytest.raises(UserError, match=rf"a\.{name}:1: .*{expected}"):
        read_transcripts(path)


def test_alternatives_of_a_ctm_end(tmp_path: Path) -> None:
    (ctm,) = write(tmp_path, ctm="talk 1 * * <ALT_BEGIN>\ntalk 1 0 1 A\n")
    with pytest.raises(UserError, match=r"a\.ctm: unclosed alternatives"):
        read_transcripts(ctm)


def test_words_in_gaps_and_overlaps_as_in_sclite(tmp_path: Path) -> None:
    stm, ctm = write(
        tmp_path,
        stm="t A x 0.0 2.0 ONE\nt A y 10.0 12.0 TWO\nt A x 11.0 14.0 THREE\n",
        ctm="T a 2.5 0.2 TWO\nT a 11.5 0.2 TOO\nT a 12.1 0.2 THREE\nT a 30 0.2 LAST\n",
    )
    # 2.6 s is closer to the first segment, but belongs to the first segment that ends after it.
    assert list(texts_of(stm, ctm)[1].values()) == ["", "TWO TOO", "THREE LAST"]


def test_tags_labels_and_comments(tmp_path: Path) -> None:
    stm, ctm = write(
        tmp_path,
        stm=" ;; x\nt A x 0.0 2.0 <o,f0> ONE;noun TWO* <unk>\nt A x 2.0 3.0 <O>\n",
        ctm="t A 0.5 0.1 ONE;noun;x 0.9\n  ;; y\nt A 0.7 0.1 TWO\n",
    )
    references, hypotheses = texts_of(stm, ctm)
    assert list(references.values()) == ["ONE TWO <unk>", ""]
    assert list(hypotheses.values()) == ["ONE TWO", ""]


def test_alternatives_in_a_ctm(tmp_path: Path) -> None:
    marks = ["<ALT_BEGIN>", "<ALT>", "<ALT_END>"]
    begin, either, end = (f"t A * * {mark}\n" for mark in marks)
    stm, ctm = write(
        tmp_path,
        stm="t A x 0 2 IT'S SO\nt A x 2 4 YES\n",
        ctm=f"{begin}t A 0.1 0.1 IT\nt A 0.2 0.1 IS\n{either}t A 0.1 0.2 IT'S\n{end}t A 0.5 0.1 SO\n"
        f"{begin}t A 3 0.1 UH\n{either}{end}t A 3.5 0.1 YES\n",
    )
    _, hypotheses = read_pair(stm, ctm)
    assert [transcript.marked for transcript in hypotheses.values()] == [
        (("IT IS", "IT'S"), ("SO",)),
        (("UH", ""), ("YES",)),
    ]


def test_nothing_but_ignored_segments(tmp_path: Path) -> None:
    (stm,) = write(tmp_path, stm="talk 1 x 0 1 ignore_time_segment_in_scoring\n")
    with pytest.raises(UserError, match="no transcripts"):
        read_transcripts(stm)


def test_segments_with_equal_times_are_both_scored(tmp_path: Path) -> None:
    """Simultaneous speakers have different ids."""
    (tmp_path / "r.stm").write_text("talk 1 a 0.0 1.0 HELLO\ntalk 1 b 0.0 1.0 WORLD\n")
    (tmp_path / "h.ctm").write_text("talk 1 0.1 0.2 HELLO\ntalk 1 1.4 0.2 WORLD\n")
    references, hypotheses = read_pair(tmp_path / "r.stm", tmp_path / "h.ctm")
    assert [r.text for r in references.values()] == ["HELLO", "WORLD"]
    assert [hypotheses[name].text for name in references] == ["HELLO", "WORLD"]

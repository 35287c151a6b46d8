"""stm and ctm: what belongs to what, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr_emapl.errors import UserError
from asr_emapl.scoring.transcripts import Transcript, read_pair, read_transcripts, read_utterances

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


def test_stm(tmp_path: Path) -> None:
    (stm,) = write(tmp_path, stm=STM)
    assert read_utterances(stm) == {
        "talk-1-0000000-0002000": Transcript("HELLO THERE", "alice", 2.0),
        "talk-1-0002000-0003500": Transcript("GOOD DAY", "bob", 1.5),
        "talk-1-0010000-0011000": Transcript("", "alice", 1.0),
        "other": Transcript("ALONE", "carol", 5.0),
    }


def test_a_ctm_is_cut_by_an_stm(tmp_path: Path) -> None:
    stm, ctm = write(tmp_path, stm=STM, ctm=CTM)
    references, hypotheses = read_pair(stm, ctm)
    # GOOD begins in alice's segment, its middle lies in bob's; NOISE is where nothing is scored; LATE lies
    # in no segment, and the nearest gets it.
    assert hypotheses == {
        "talk-1-0000000-0002000": "HELLO THERE",
        "talk-1-0002000-0003500": "GOOD",
        "talk-1-0010000-0011000": "LATE",
        "other": "ALONE",
    }
    assert list(references) == list(hypotheses)


def test_recordings_that_one_side_lacks_are_not_lost(tmp_path: Path) -> None:
    stm, ctm = write(tmp_path, stm="a 1 x 0 1 YES\nb 1 x 0 1 NO\n", ctm="b 2 0 1 NO\nc 1 0 1 WHAT\n")
    references, hypotheses = read_pair(stm, ctm)
    assert set(references) == {"a", "b"}
    assert hypotheses == {"b-2": "NO", "c-1": "WHAT"}


def test_a_ctm_by_itself_goes_by_recordings(tmp_path: Path) -> None:
    (ctm,) = write(tmp_path, ctm="u 1 0.5 0.1 B\nu 1 0.1 0.1 A\nv 1 0 1 C\nv 2 0 1 D\n")
    assert read_transcripts(ctm, role="hypothesis") == {"u": "A B", "v-1": "C", "v-2": "D"}


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("stm", "talk 1 alice 0.0", "no stm line"),
        ("stm", "talk 1 alice zero 1.0 A", "'zero' is no time"),
        ("stm", "talk 1 alice -1 1.0 A", "'-1' is no time"),
        ("stm", "talk 1 alice 2 1 A", r"ends \(1 s\) before it begins \(2 s\)"),
        ("stm", "talk 1 alice 0 1 A { B / C }", "alternatives"),
        ("ctm", "talk 1 0.0 0.1", "no ctm line"),
        ("ctm", "talk 1 0.0 nan A", "'nan' is no time"),
        ("ctm", "talk 1 0.0 1e308 A", "'1e308' is no time"),
        ("ctm", "talk 1 * * <ALT_BEGIN>", "alternatives"),
        ("trn", "A { B / @ } (u)", "alternatives"),
    ],
)
def test_broken_lines(tmp_path: Path, name: str, line: str, said: str) -> None:
    (path,) = write(tmp_path, **{name: line + "\n"})
    with pytest.raises(UserError, match=rf"a\.{name}:1: .*{said}"):
        read_transcripts(path)


def test_nothing_but_ignored_segments(tmp_path: Path) -> None:
    (stm,) = write(tmp_path, stm="talk 1 x 0 1 ignore_time_segment_in_scoring\n")
    with pytest.raises(UserError, match="no transcripts"):
        read_transcripts(stm)

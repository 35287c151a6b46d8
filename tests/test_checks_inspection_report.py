"""The report of an inspection: what stands in the terminal, and the picture."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from asr_emapl.checks.inspection_report import draw_lengths, print_inspection
from asr_emapl.checks.inspection_result import Contents, Finding, Inspection
from asr_emapl.errors import UserError

CONTENTS = Contents(
    manifest="data/[bold]$x$.jsonl",
    utterances=1203,
    hours=1234.5,
    with_text=0,
    speakers=2,
    most=("anna", 1000.0),
    least=("ben", 234.5),
    shortest_seconds=0.5,
    median_seconds=1.0,
    longest_seconds=2.5,
    histogram=[1200, 0, 3],
    steps=4321,
    padding=0.0123,
)
FINDING = Finding("2 utterances have [letters]", ["u1", "u2"], "normalise the text " * 9 + "now")
INSPECTION = Inspection([CONTENTS], 1.0, 60.0, [FINDING, Finding("else", [], "remedy")])


def shown(inspection: Inspection) -> list[str]:
    out = io.StringIO()
    print_inspection(inspection, Console(file=out, width=120))
    return out.getvalue().splitlines()


def test_what_stands_in_the_terminal():
    lines = shown(INSPECTION)
    text = "\n".join(lines)
    for part in (
        "1,234.50",
        "1,203",
        "anna (1000.00)",
        "ben (234.50)",
        "4,321",
        "1.23 %",
        "0.50, 1.00, 2.50",
    ):
        assert part in text
    assert "steps per epoch, at 60 s" in text
    assert "data/[bold]$x$.jsonl" in lines[0]


def test_the_fullest_bin_has_the_longest_bar_and_none_but_an_empty_one_has_none():
    bars = [line for line in shown(INSPECTION) if " s " in line and " to " in line]
    assert [bar.count("\u2588") for bar in bars] == [40, 0, 1]
    assert [bar.split()[-1] for bar in bars] == ["1,200", "0", "3"]


def test_empty_bins_at_both_ends_are_left_out():
    contents = dataclasses.replace(CONTENTS, histogram=[0, 0, 3, 0, 5, 0, 0])
    lines = shown(dataclasses.replace(INSPECTION, contents=[contents]))
    bars = lines[lines.index("lengths") + 1 : lines.index("what to fix") - 1]
    assert [bar.split()[0] for bar in bars] == ["2", "3", "4"]


def test_what_to_fix_is_numbered_and_each_line_whole():
    lines = shown(INSPECTION)
    start = lines.index("what to fix")
    assert lines[start + 1 :] == [
        "1. 2 utterances have [letters]",
        "   for example: u1, u2",
        f"   remedy: {FINDING.remedy}",
        "2. else",
        "   remedy: remedy",
    ]
    assert shown(dataclasses.replace(INSPECTION, findings=[]))[-1] == "nothing to fix"


def test_without_speakers():
    silent = dataclasses.replace(CONTENTS, speakers=0, most=None, least=None)
    assert any("unknown" in line for line in shown(dataclasses.replace(INSPECTION, contents=[silent])))


@pytest.mark.parametrize("name", ["lengths.png", "new/lengths.svg"])
def test_the_picture_is_the_same_each_time(tmp_path, name):
    two = dataclasses.replace(INSPECTION, contents=[CONTENTS, CONTENTS])
    draw_lengths(two, tmp_path / name)
    first = (tmp_path / name).read_bytes()
    draw_lengths(two, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    assert len(first) > 1000


def test_pictures_that_cannot_be(tmp_path):
    with pytest.raises(UserError, match=r"extension \.png or \.svg"):
        draw_lengths(INSPECTION, tmp_path / "lengths.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        draw_lengths(INSPECTION, tmp_path / "file" / "lengths.png")

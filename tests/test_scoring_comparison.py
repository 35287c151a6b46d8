"""Comparison of two systems: matched-pairs test on hand-made segments, paired bootstrap, verdicts."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.errors import UserError
from asr_emapl.scoring.alignment import align
from asr_emapl.scoring.comparison import Comparison, compare, compare_files
from asr_emapl.scoring.nist.matched_pairs import MatchedPairs, matched_pairs, segment_differences
from asr_emapl.scoring.normalisation import normalisation
from asr_emapl.scoring.tally import ScoringConfig
from asr_emapl.scoring.transcripts import TranscriptEntry

SENTENCE = st.lists(st.sampled_from("ABC"), max_size=7).map(" ".join)


def differences(reference: str, first: str, second: str) -> list[int]:
    return segment_differences(align(reference, first, "u"), align(reference, second, "u"))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a b c d e f", "a b c d e f", []),
        ("x b c d e f", "a b c d e f", [1]),
        ("x b c x e f", "a b c d e f", [1, 1]),  # b c, correct in both, separate two segments
        ("x b x d e f", "a b c d e f", [2]),  # b alone does not separate
        ("x b c x e f", "a b x d e f", [1]),  # words that one system has wrong do not separate
        ("x b c d e f", "a b c d e y", [1, -1]),
        ("a b z c d e f", "a b c d e f", [1]),
        ("a b z c d e f", "a x c d e f", [0]),  # an insertion directly after the other's error
        ("z a b z c d e f", "a b c d e f", [1, 1]),
        ("z a b c d e f z", "a b c d e f", [1, 1]),
        ("", "a b c d e f", [6]),
        ("x b c d e f", "x b c d e f", [0]),
    ],
)
def test_segments(first: str, second: str, expected: list[int]) -> None:
    assert differences("a b c d e f", first, second) == expected
    assert differences("a b c d e f", second, first) == [-d for d in expected]


@settings(deadline=None)
@given(reference=SENTENCE, first=SENTENCE, second=SENTENCE)
def test_segments_add_up_to_the_errors(reference: str, first: str, second: str) -> None:
    errors = [align(reference, text).counts.errors for text in (first, second)]
    assert sum(differences(reference, first, second)) == errors[0] - errors[1]


def test_matched_pairs() -> None:
    first = [align("a b c d", text) for text in ("x b c x", "a b c d", "x y c d")]
    second = [align("a b c d", "a b c d")] * 3
    # Differences 1, 1, 2: mean 4/3, deviation sqrt(1/3), z = 4.
    found = matched_pairs([d for a, b in zip(first, second, strict=True) for d in segment_differences(a, b)])
    assert (found.segments, found.mean) == (3, pytest.approx(4 / 3))
    assert found.z == pytest.approx(4.0)
    assert found.p == pytest.approx(math.erfc(4.0 / math.sqrt(2.0)))
    assert matched_pairs([]) == MatchedPairs(0, 0.0, 0.0, None, None)
    assert matched_pairs(segment_differences(first[0], second[0])).p is None  # both segments differ by 1
    with pytest.raises(ValueError, match="different references"):
        segment_differences(first[0], align("a", "a"))


def systems(first: float, second: float, count: int = 400, speakers: int = 20) -> Comparison:
    """Two systems with these rates of substitutions, independent of each other."""
    chooser = random.Random(0)
    references = {
        f"u{i}": TranscriptEntry(" ".join(chooser.choices("ABCDEFGH", k=12)), f"s{i % speakers}")
        for i in range(count)
    }

    def garbled(rate: float) -> dict[str, str]:
        return {
            name: " ".join("x" if chooser.random() < rate else word for word in transcript.text.split())
            for name, transcript in references.items()
        }

    return compare(references, garbled(first), garbled(second), ("old", "new"), ScoringConfig())


def test_a_better_system() -> None:
    found = systems(0.2, 0.1)
    assert found.is_significant
    assert found.second_better == 1.0
    assert found.difference == pytest.approx(-0.1, abs=0.02)
    for interval in (found.by_utterance, found.by_speaker):
        assert interval is not None
        assert interval.low < found.difference < interval.high < 0
    assert found.verdict.startswith("new is better: WER new (")
    assert "Student's t over 20 speakers); matched pairs test p < 0.0001 (" in found.verdict
    reverse = systems(0.1, 0.2)
    assert reverse.verdict.startswith("old is better: WER old (")
    assert "The difference is " in reverse.verdict
    assert "-" not in reverse.verdict


def test_equally_good_systems() -> None:
    found = systems(0.1, 0.1)
    assert not found.is_significant
    assert found.verdict.startswith("No significant difference: ")
    assert 0.02 < found.second_better < 0.98
    assert found.matched_pairs.p is not None
    assert found.matched_pairs.p > 0.05


def test_the_same_system() -> None:
    found = systems(0.0, 0.0)
    assert found.verdict == "No difference: old and new both have a WER of 0.00 %."
    assert found.second_better == 0.5


def test_equal_numbers_of_errors_in_different_utterances() -> None:
    references = {"u": TranscriptEntry("A B C D"), "v": TranscriptEntry("A B C D")}
    found = compare(references, {"u": "X B C D", "v": "A B C D"}, {"u": "A B C D", "v": "X B C D"},
                    ("a", "b"), ScoringConfig())  # fmt: skip
    assert found.verdict == "No difference: a and b both have a WER of 12.50 %."


def test_one_utterance_gives_no_interval() -> None:
    found = compare({"u": TranscriptEntry("A B")}, {"u": "A"}, {"u": "A B"}, ("a", "b"), ScoringConfig())
    assert (found.by_utterance, found.by_speaker, found.is_significant) == (None, None, False)
    assert (
        "too few utterances to resample; the matched pairs test has too little data (segments: 1)"
        in found.verdict
    )


def test_when_the_tests_disagree() -> None:
    # All errors are of one speaker: many segments differ, but draws without this speaker do not.
    references = {f"{s}-{i}": TranscriptEntry("A B C D E F", s) for s in "abcdef" for i in range(30)}
    right = {name: transcript.text for name, transcript in references.items()}
    wrong = {
        name: "A B X D E F" if name[0] == "a" and name[-1] != "1" else text for name, text in right.items()
    }
    wrong["b-1"] = "A B X Y E F"
    found = compare(references, wrong, right, ("old", "new"), ScoringConfig())
    assert found.by_speaker is not None
    assert found.by_speaker.high >= 0.0
    assert found.verdict.startswith("Undecided: WER new (0.00 %) vs. old (")
    assert "only the matched pairs test shows a difference. The difference new - old is -" in found.verdict
    assert "too few to rely on" in found.verdict


def test_few_or_unknown_speakers_are_reported() -> None:
    few = systems(0.2, 0.1, speakers=8)
    assert few.is_significant
    assert few.verdict.endswith("Only 8 speakers; confirm the result with 20 or more.")
    assert "are few" not in systems(0.2, 0.1).verdict
    unknown = compare(
        {f"u{i}": TranscriptEntry("A B C D E F") for i in range(200)},
        {f"u{i}": "A B X D E F" for i in range(200)},
        {f"u{i}": "A B C D E F" if i % 2 else "A B X D E F" for i in range(200)},
        ("old", "new"),
        ScoringConfig(),
    )
    assert unknown.is_significant
    assert "Speakers are unknown" in unknown.verdict


def test_each_system_is_scored_with_its_best_wording(tmp_path: Path) -> None:
    contents = {
        "ref": "a { um / uh huh } b (s-1)\nc d e f (s-2)\n",
        "one": "a um b (s-1)\nc d e x (s-2)\n",
        "two": "a uh huh b (s-1)\nc d e f (s-2)\n",
        "three": "a uh b (s-1)\nc d e f (s-2)\n",
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.trn").write_text(content)
    places = {name: str(tmp_path / f"{name}.trn") for name in contents}
    none = normalisation("none")
    found = compare_files(places["ref"], places["one"], places["two"], ScoringConfig(), none)
    assert [score.words.errors for score in found.scores] == [1, 0]
    assert [score.words.reference_length for score in found.scores] == [7, 8]
    assert found.matched_pairs.segments == 1
    # An utterance whose references differ is one segment.
    found = compare_files(places["two"], places["one"], places["three"], ScoringConfig(), none)
    assert [score.words.errors for score in found.scores] == [3, 1]
    found = compare_files(places["ref"], places["two"], places["three"], ScoringConfig(), none)
    assert [score.words.errors for score in found.scores] == [0, 1]
    assert found.matched_pairs.segments == 1


def test_json_and_lines() -> None:
    found = systems(0.2, 0.1, count=20)
    restored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert restored["names"] == ["old", "new"]
    assert restored["scores"][1]["words"]["errors"] == found.scores[1].words.errors
    assert restored["verdict"] == found.verdict == next(found.lines())


def test_invalid_comparisons() -> None:
    with pytest.raises(UserError, match="references contain no words"):
        compare({"u": TranscriptEntry("")}, {"u": "A"}, {"u": ""}, ("a", "b"), ScoringConfig())
    with pytest.raises(UserError, match="1 of 1 references have no hypothesis: u"):
        compare({"u": TranscriptEntry("A")}, {"u": "A"}, {}, ("a", "b"), ScoringConfig())

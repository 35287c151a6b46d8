"""Error counts: equality with jiwer, sums over a corpus, and empty sides."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from dataclasses import asdict

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.errors import UserError
from asr_emapl.scoring import ErrorCounts, Score, score
from asr_emapl.scoring.wer import character_edits, word_edits

# With few words and characters, several alignments often have the fewest errors.
SENTENCE = st.lists(st.sampled_from(["A", "B", "AB", "BA", "ABA", "É"]), max_size=7).map(" ".join)
CORPUS = st.dictionaries(st.text("xyz0", min_size=1, max_size=4), st.tuples(SENTENCE, SENTENCE), min_size=1)


def score_pairs(pairs: dict[str, tuple[str, str]]) -> Score:
    return score({key: pair[0] for key, pair in pairs.items()}, {key: pair[1] for key, pair in pairs.items()})


def jiwer_counts(output: jiwer.WordOutput | jiwer.CharacterOutput) -> ErrorCounts:
    length = output.hits + output.substitutions + output.deletions
    return ErrorCounts(output.substitutions, output.deletions, output.insertions, length)


def random_sentence(chooser: random.Random) -> str:
    words = ["".join(chooser.choices("ABC'", k=chooser.randint(1, 4))) for _ in range(chooser.randint(0, 12))]
    return " ".join(words)


def garbled(sentence: str, chooser: random.Random) -> str:
    words: list[str] = []
    for word in sentence.split():
        words += chooser.choice([[word], [word], [word], [], [word + "S"], [word, "A"], [word[::-1]]])
    return " ".join(words)


def test_equals_jiwer_on_10000_random_pairs_and_in_total() -> None:
    chooser = random.Random(3)
    references = [random_sentence(chooser) for _ in range(10_000)]
    hypotheses = [
        chooser.choice([garbled(reference, chooser), random_sentence(chooser), reference, ""])
        for reference in references
    ]
    assert "" in references
    words, characters = word_edits(references, hypotheses), character_edits(references, hypotheses)
    for u, pair in enumerate(zip(references, hypotheses, strict=True)):
        assert ErrorCounts(*words[u].tolist()) == jiwer_counts(jiwer.process_words(*pair))
        assert ErrorCounts(*characters[u].tolist()) == jiwer_counts(jiwer.process_characters(*pair))
    ids = [f"utterance-{index}" for index in range(10_000)]
    total = score(dict(zip(ids, references, strict=True)), dict(zip(ids, hypotheses, strict=True)))
    assert total.words == jiwer_counts(jiwer.process_words(references, hypotheses))
    assert total.characters == jiwer_counts(jiwer.process_characters(references, hypotheses))
    assert total.words.rate == jiwer.wer(references, hypotheses)
    assert total.characters.rate == jiwer.cer(references, hypotheses)
    assert total.sentences_wrong == sum(a != b for a, b in zip(references, hypotheses, strict=True))


@settings(deadline=None)
@given(pairs=CORPUS)
def test_equals_jiwer_on_tie_rich_pairs(pairs: dict[str, tuple[str, str]]) -> None:
    references, hypotheses = (list(side) for side in zip(*pairs.values(), strict=True))
    result = score_pairs(pairs)
    assert result.words == jiwer_counts(jiwer.process_words(references, hypotheses))
    assert result.characters == jiwer_counts(jiwer.process_characters(references, hypotheses))


@settings(deadline=None)
@given(pairs=CORPUS)
def test_laws(pairs: dict[str, tuple[str, str]]) -> None:
    result = score_pairs(pairs)
    swapped = score_pairs({key: (hypothesis, reference) for key, (reference, hypothesis) in pairs.items()})
    for counts, reverse in ((result.words, swapped.words), (result.characters, swapped.characters)):
        assert counts.substitutions + counts.deletions <= counts.reference_length
        assert counts.errors == reverse.errors
        assert counts.reference_length - counts.deletions + counts.insertions == reverse.reference_length
        assert (counts.rate == 0) == all(reference == hypothesis for reference, hypothesis in pairs.values())
    assert result.sentences_wrong == swapped.sentences_wrong


@settings(deadline=None)
@given(pairs=CORPUS)
def test_parts_add_up_to_the_whole(pairs: dict[str, tuple[str, str]]) -> None:
    parts = [score_pairs({key: pair}) for key, pair in pairs.items()]
    total = Score(ErrorCounts(), ErrorCounts(), 0, 0)
    for part in parts:
        total = total + part
    assert total == score_pairs(pairs)


def test_whitespace_is_not_an_error() -> None:
    result = score({"u": " A  B\tC "}, {"u": "A B C"})
    assert result.words == ErrorCounts(0, 0, 0, 3)
    assert result.characters == ErrorCounts(0, 0, 0, 5)
    assert result.sentences_wrong == 0


@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts", "rate"),
    [
        ("", "", ErrorCounts(0, 0, 0, 0), 0.0),
        ("", "A B", ErrorCounts(0, 0, 2, 0), math.inf),  # jiwer 4 returns 2, the number of words
        ("A B", "", ErrorCounts(0, 2, 0, 2), 1.0),
        ("A", "A B C D", ErrorCounts(0, 0, 3, 1), 3.0),
    ],
)
def test_empty_sides(reference: str, hypothesis: str, counts: ErrorCounts, rate: float) -> None:
    result = score({"u": reference}, {"u": hypothesis})
    assert result.words == counts
    assert result.words.rate == rate


def test_missing_and_extra_ids_are_listed_up_to_ten() -> None:
    references = {f"r{index:02}": "A" for index in range(12)}
    with pytest.raises(UserError) as error:
        score(references, {"r00": "A", "x": "A"})
    message = str(error.value)
    assert "11 of 12 references have no hypothesis: r01, " in message
    assert "r10 and 1 more" in message
    assert "1 hypotheses have no reference: x" in message


def test_allowed_missing_ids_are_deletions_and_extra_ones_are_ignored() -> None:
    result = score({"a": "A B", "b": "C"}, {"b": "C", "x": "D"}, allow_missing=True)
    assert result.words == ErrorCounts(0, 2, 0, 3)
    assert (result.sentences_wrong, result.sentences, result.missing, result.extra) == (1, 2, 1, 1)


def test_no_references_is_an_error() -> None:
    with pytest.raises(UserError, match="nothing to score"):
        score({}, {"a": "A"}, allow_missing=True)


def test_to_dict_is_strict_json() -> None:
    result = score({"a": "", "b": ""}, {"a": "A", "b": ""})
    restored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert restored["words"] == {**asdict(result.words), "errors": 1, "rate": None}
    assert restored["sentences"] == 2
    assert score({"a": "A B"}, {"a": "A"}).to_dict()["words"]["rate"] == 0.5


def test_scoring_does_not_import_torch() -> None:
    code = "import sys, asr_emapl.scoring; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

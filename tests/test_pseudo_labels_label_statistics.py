"""What the statistics of labels say about ordinary, looping, equal and empty labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.pseudo_labels.label_statistics import errors_by_confidence, label_statistics


def test_rates_are_those_of_the_audio():
    found = label_statistics([[1, 2, 3], [1, 1]], ["A B", "C"], [2.0, 3.0])
    assert (found["tokens_per_second"], found["words_per_second"]) == (1.0, 0.6)
    assert found["nonempty"] == 1.0


def test_entropy_is_that_of_the_tokens():
    assert label_statistics([[1, 2], [3, 4]], ["A", "B"], [1.0, 1.0])["entropy"] == pytest.approx(math.log(4))
    assert label_statistics([[1], [1]], ["A", "A"], [1.0, 1.0])["entropy"] == 0.0


def test_labels_without_tokens_have_an_entropy():
    assert isinstance(label_statistics([[], []], ["", ""], [1.0, 1.0])["entropy"], float)


def test_the_most_frequent_label_is_not_the_empty_one():
    assert label_statistics([[1], [1], [], [], []], ["A", "A", "", "", ""], [1.0] * 5)["most_frequent"] == 0.4
    assert label_statistics([[], []], ["", ""], [1.0, 1.0])["most_frequent"] == 0.0


def test_loops():
    labels = [[1, 2] * 4, [1, 2] * 3, [5, 6, 7, 8]]
    assert label_statistics(labels, ["A", "B", "C"], [1.0] * 3)["looping"] == pytest.approx(1 / 3)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.floats(0.0, 1.0)), min_size=10, max_size=60)
)
def test_errors_by_confidence_add_up(labels):
    edits = np.array([[errors, 0, 0, words] for errors, words, _ in labels])
    found = errors_by_confidence(edits, [confidence for *_, confidence in labels])
    assert sum(found["decile_errors"]) == sum(errors for errors, *_ in labels)
    assert sum(found["decile_words"]) == sum(words for _, words, _ in labels)


def test_the_first_tenth_is_the_least_confident():
    edits = np.array([[1, 0, 0, 1]] * 2 + [[0, 0, 0, 1]] * 18)
    found = errors_by_confidence(edits, [0.1, 0.2, *np.linspace(0.5, 1.0, 18)])
    assert found["decile_errors"] == [2] + [0] * 9
    assert errors_by_confidence(edits[:9], [0.5] * 9) == {}


def test_a_broken_label_is_the_least_confident():
    edits = np.array([[1, 0, 0, 1]] + [[0, 0, 0, 1]] * 9)
    assert errors_by_confidence(edits, [math.nan, *[0.5] * 9])["decile_errors"] == [1] + [0] * 9

"""Rows of manifests and their tokens, in arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.data.corpus import Corpus, Selection, TokenTable
from asr_emapl.data.manifest import open_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.utterance import Utterance


@given(st.lists(st.lists(st.integers(1, 2**31 - 1), max_size=5), max_size=5))
def test_tokens_are_what_was_put_in(targets):
    table = TokenTable(targets)
    assert list(table) == targets
    assert table[:2] == targets[:2]
    assert len(table) == len(targets)


@pytest.fixture
def manifests(tmp_path):
    made = []
    for name, count in (("a", 3), ("b", 1), ("c", 4)):
        utterances = [Utterance(f"{name}{i}", f"/{i}.wav", 1.0 + i) for i in range(count)]
        write_manifest(tmp_path / f"{name}.jsonl", utterances)
        made.append(open_manifest(tmp_path / f"{name}.jsonl"))
    return made


def test_a_selection_counts_through_the_rows_of_its_manifests(manifests):
    a, b, c = manifests
    selection = Selection([(a, np.array([0, 2])), (b, None), (c, np.array([3]))])
    expected = [a[0], a[2], b[0], c[3]]
    assert list(selection) == [selection[i - 4] for i in range(4)] == selection[:] == expected
    assert selection.samples.tolist() == [u.samples for u in expected]
    with pytest.raises(IndexError):
        selection[4]


def test_one_whole_manifest_is_not_copied(manifests):
    assert Selection([(manifests[0], None)]).samples is manifests[0].samples


def test_a_corpus_has_the_lengths_of_any_utterances(manifests):
    whole = Selection([(manifests[2], None)])
    assert Corpus(whole, None).samples.tolist() == Corpus(list(whole), None).samples.tolist()

"""Rows of manifests and their tokens, in arrays."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.data.corpus import Corpus, Selection, TokenTable, Windows
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


def test_windows_are_consecutive_parts_of_utterances(manifests):
    """Utterances of 1 and 3 s, then of 4 s, in windows of 1.5 s."""
    a, _, c = manifests
    windows = Windows([(a, np.array([1, 2])), (c, np.array([3]))], 24_000)
    found = [(u.id, u.offset, u.duration, u.audio) for u in windows]
    assert found == [
        ("a1#0", 0.0, 1.5, "/1.wav"),
        ("a2#0", 0.0, 1.5, "/2.wav"),
        ("a2#1", 1.5, 1.5, "/2.wav"),
        ("c3#0", 0.0, 1.5, "/3.wav"),
        ("c3#1", 1.5, 1.5, "/3.wav"),
    ]
    assert windows.samples.tolist() == [24_000] * 5
    assert windows.sizes == [3, 2]
    assert [u.id for u in windows.firsts] == ["a1#0", "c3#0"]
    assert list(pickle.loads(pickle.dumps(windows))) == list(windows), "as in a decoding process"

"""Ids made from audio: unique where the audio is, and the same in any order."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.data.ids import derived_ids


@pytest.mark.parametrize(
    ("stretches", "ids"),
    [
        ([("/c/x/a.wav", 0.0), ("/c/y/b.wav", 0.0)], ["a", "b"]),
        ([("/c/x/a.wav", 0.0), ("/c/y/a.wav", 0.0)], ["x/a", "y/a"]),
        ([("/c/a.wav", 0.0), ("/c/d/a.wav", 0.0)], ["a", "d/a"]),
        ([("/c/a.wav", 0.0), ("/c/a.flac", 0.0)], ["a.wav", "a.flac"]),
        ([("/c/a.wav", 0.0), ("/c/a.wav", 1.2345)], ["a-0", "a-1234"]),
        ([("/c/a.wav", 3.0)], ["a-3000"]),
        ([("s3://bucket/x/a.wav", 0.0), ("s3://bucket/y/a.wav", 0.0)], ["x/a", "y/a"]),
        ([("a.b.wav", 0.0), (".wav", 0.0), ("noending", 0.0)], ["a.b", ".wav", "noending"]),
        ([], []),
    ],
)
def test_by_hand(stretches, ids):
    assert derived_ids(stretches) == ids


PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)


@given(st.lists(st.tuples(PATHS, st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=6, unique=True))
def test_different_stretches_have_different_ids_in_any_order(stretches):
    ids = derived_ids(stretches)
    assert len(set(ids)) == len(ids)
    for order in itertools.islice(itertools.permutations(range(len(stretches))), 0, None, 7):
        assert derived_ids([stretches[i] for i in order]) == [ids[i] for i in order]

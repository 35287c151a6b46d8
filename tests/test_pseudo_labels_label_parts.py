"""Parts are a function of the manifest; each is dealt to one process, by audio."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.pseudo_labels.label_parts import LabelParts, part_path

lengths = st.lists(st.integers(1, 40 * SAMPLE_RATE_HZ), min_size=1, max_size=80)
hours = st.floats(1e-4, 0.1)


@given(lengths, hours)
def test_each_row_is_in_one_part_in_order(samples, hours):
    parts = LabelParts.of(np.array(samples), hours)
    rows = [row for number in range(len(parts)) for row in range(len(samples))[parts.rows(number)]]
    assert rows == list(range(len(samples)))
    assert [sum(samples[parts.rows(number)]) for number in range(len(parts))] == list(parts.samples)


@given(lengths, hours)
def test_a_part_is_longer_than_asked_for_by_less_than_an_utterance(samples, hours):
    parts = LabelParts.of(np.array(samples), hours)
    limit = round(hours * 3600 * SAMPLE_RATE_HZ)
    for number, audio in enumerate(parts.samples):
        *others, last = samples[parts.rows(number)]
        assert sum(others) < limit
        assert audio == sum(others) + last


@given(lengths, hours, st.integers(1, 9), st.data())
def test_missing_parts_are_dealt_once_and_by_audio(samples, hours, world_size, data):
    parts = LabelParts.of(np.array(samples), hours)
    missing = data.draw(st.lists(st.sampled_from(range(len(parts))), unique=True))
    shares = [parts.share(missing, rank, world_size) for rank in range(world_size)]
    assert sorted(number for share in shares for number in share) == sorted(missing)
    assert all(share == sorted(share) for share in shares)
    loads = [parts.seconds(share) for share in shares]
    longest = max((parts.seconds([number]) for number in missing), default=0.0)
    assert max(loads) - min(loads) <= longest + 1e-9


def test_what_is_missing(tmp_path):
    parts = LabelParts.of(np.full(5, 3600 * SAMPLE_RATE_HZ), 1.0)
    assert parts.missing(tmp_path) == [0, 1, 2, 3, 4]
    for number in (0, 3):
        part_path(tmp_path, number).parent.mkdir(exist_ok=True)
        part_path(tmp_path, number).touch()
    for other in (".00001.jsonl.0123.partial", "00002.jsonl.bak", "2.jsonl", "notes"):
        (tmp_path / "parts" / other).touch()
    assert parts.missing(tmp_path) == [1, 2, 4]

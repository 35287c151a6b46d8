"""The table of kept labels against a dictionary."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.label_table import LabelTable
from asr_emapl.pseudo_labels.labels import Label

SIZE = 20
scores = st.floats(0.0, 1.0, width=32)
labels = st.builds(Label, st.lists(st.integers(1, 1000), max_size=200), scores, scores, st.none() | scores)
changes = st.lists(st.dictionaries(st.integers(0, SIZE - 1), labels, max_size=4), max_size=30)


@given(changes, st.integers(0, 30))
def test_it_is_a_dictionary(updates, saved_at):
    table, plain = LabelTable(SIZE), dict[int, Label]()
    for i, update in enumerate(updates):
        table.update(update)
        plain |= update
        if i == saved_at:
            state = table.state_dict()
            table = LabelTable(SIZE)
            table.load_state_dict(state)
    assert len(table) == len(plain)
    for row in range(SIZE):
        assert (row in table) == (row in plain)
        assert table.get(row) == plain.get(row, Label([], 0.0))


def test_replaced_labels_take_no_room():
    table = LabelTable(3)
    for _ in range(2000):
        table.update({0: Label(list(range(1, 101)))})
    assert len(table.state_dict()["tokens"]) == 100


@pytest.mark.parametrize(
    "change",
    [
        {"rows": torch.tensor([0, SIZE])},
        {"rows": torch.tensor([-1, 1])},
        {"lengths": torch.tensor([3, 1], dtype=torch.int32)},
        {"tokens": torch.tensor([1], dtype=torch.int32)},
        {"scores": torch.zeros(3, 3)},
        {"scores": torch.zeros(2, 2)},
    ],
)
def test_a_state_of_another_corpus_is_refused(change):
    table = LabelTable(SIZE)
    table.update({0: Label([1, 2]), 1: Label([])})
    state = table.state_dict() | change
    with pytest.raises(UserError, match="unlabelled corpus"):
        LabelTable(SIZE).load_state_dict(state)

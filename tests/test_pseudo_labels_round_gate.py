"""The gate of rounds: new labels replace the present ones only if the labeller has become better."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.pseudo_labels.round_gate import RoundGate


def finish(gate: RoundGate, rate: float) -> bool:
    gate.validated({"teacher/dev": rate, "student/dev": 0.0})
    took_place = gate.is_open()
    gate.finish_round()
    return took_place


@given(st.lists(st.floats(0.0, 100.0), min_size=1))
def test_labels_are_replaced_by_those_of_ever_better_labellers(rates):
    gate, best = RoundGate("teacher/dev"), math.inf
    for rate in rates:
        assert finish(gate, rate) == (rate < best)
        best = min(best, rate)


def test_without_a_validation_a_round_takes_place():
    gate = RoundGate("teacher/dev")
    assert gate.is_open()
    assert gate.finish_round() == "labels are ready"
    assert gate.is_open()


def test_without_a_gate_every_round_takes_place():
    gate = RoundGate(None)
    assert all(finish(gate, rate) for rate in (1.0, 50.0, 100.0))


def test_what_became_of_a_round_is_said():
    gate = RoundGate("teacher/dev")
    finish(gate, 20.0)
    gate.validated({"teacher/dev": 21.5})
    told = gate.finish_round()
    assert "teacher/dev" in told
    assert "21.50" in told
    assert "20.00" in told


def test_a_rate_that_is_not_a_number_is_ignored():
    gate = RoundGate("teacher/dev")
    finish(gate, 20.0)
    gate.validated({"teacher/dev": 10.0})
    gate.validated({"teacher/dev": math.nan})
    assert gate.is_open()


@given(st.lists(st.floats(0.0, 100.0), max_size=3), st.floats(0.0, 100.0))
def test_it_resumes(before, after):
    gate, other = RoundGate("teacher/dev"), RoundGate("teacher/dev")
    for rate in before:
        finish(gate, rate)
    other.load_state_dict(gate.state_dict())
    assert finish(other, after) == finish(gate, after)
    assert other.state_dict() == gate.state_dict()

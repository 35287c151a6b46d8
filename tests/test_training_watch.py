"""Whom a run waits for, from what the processes say of themselves."""

from __future__ import annotations

import pytest
import torch

from asr_emapl.training.watch import Sign, Watch, diagnosis
from asr_emapl.training.world import World


def sign(rank: int, beats: int = 9, place: int = 5, waits: int = 1) -> Sign:
    return Sign(beats, place, waits, f"process {rank}", f"training, step 3 (file.py:{rank})")


def told(now: dict[int, Sign], earlier_beats: int = 4) -> str:
    earlier = {rank: s._replace(beats=earlier_beats) for rank, s in now.items()}
    return diagnosis(earlier, now, 60.0, 3)


def test_one_that_no_longer_says_anything_is_named():
    text = told({0: sign(0), 1: sign(1, beats=4), 2: sign(2)})
    assert text.startswith("no sign of process 1 for 30 s")


def test_one_that_never_said_anything_is_named():
    assert told({0: sign(0), 1: sign(1)}).startswith("no sign of process 2 ")


def test_one_that_is_behind_is_named_with_where_it_stands():
    text = told({0: sign(0), 1: sign(1), 2: sign(2, place=4, waits=0)})
    assert text.endswith("the others wait for process 2: training, step 3 (file.py:2)")
    assert "process 1" not in text


def test_of_several_at_the_same_point_the_one_that_does_not_wait():
    text = told({0: sign(0), 1: sign(1, waits=0), 2: sign(2)})
    assert text.endswith("the others wait for process 1: training, step 3 (file.py:1)")


@pytest.mark.parametrize("waits", [0, 1])
def test_where_none_stands_out_all_are_told(waits):
    text = told({rank: sign(rank, waits=waits) for rank in range(3)})
    assert text.startswith("no process has moved for 60 s")
    assert all(f"process {rank}" in text for rank in range(3))
    assert "\n" not in text


def test_a_process_alone_is_not_watched():
    watch = Watch(World(0, 1, torch.device("cpu")), 0.01)
    with pytest.raises(KeyError), watch:
        raise KeyError

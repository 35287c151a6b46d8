"""A permutation of which any part can be had: complete, repeatable, without visible order."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.data.permutation import FeistelPermutation


def whole(count, *seed):
    return FeistelPermutation(count, *seed)(np.arange(count))


@given(st.integers(1, 3000), st.integers(-(2**63), 2**63), st.integers(0, 100))
def test_each_thing_comes_once(count, seed, epoch):
    assert sorted(whole(count, seed, epoch).tolist()) == list(range(count))


@given(st.integers(1, 10**9), st.lists(st.integers(0, 10**9), max_size=20), st.integers(0, 2**40))
def test_any_part_alone_is_as_in_the_whole(count, places, seed):
    positions = np.array([p % count for p in places], dtype=np.int64)
    together = FeistelPermutation(count, seed)(positions)
    alone = [int(FeistelPermutation(count, seed)(np.array([p]))[0]) for p in positions]
    assert together.tolist() == alone
    assert all(0 <= x < count for x in alone)


def test_positions_are_left_as_they_were():
    positions = np.arange(10)
    FeistelPermutation(10, 1)(positions)
    assert positions.tolist() == list(range(10))


def test_orders_differ_by_every_part_of_the_seed():
    orders = [tuple(whole(50, *seed).tolist()) for seed in ((0, 0), (0, 1), (1, 0), (1, 1), (2**63 - 1, 0))]
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize("count", [100, 1000, 28_539])
def test_no_order_is_left(count):
    places = np.arange(count)
    orders = [whole(count, seed) for seed in range(40)]
    correlations = [np.corrcoef(places, order)[0, 1] for order in orders]
    # A random order's correlation has a standard deviation of 1 / sqrt(count).
    assert np.std(correlations) < 1.6 / count**0.5
    assert abs(np.mean(correlations)) < 0.8 / count**0.5
    # Neighbours are no longer neighbours: the mean distance of two random places is a third of all.
    apart = np.mean([np.abs(np.diff(order)).mean() for order in orders]) / count
    assert apart == pytest.approx(1 / 3, abs=0.02)


def test_each_place_takes_everything_about_equally_often():
    count, orders = 12, 6000
    table = np.zeros((count, count))
    for seed in range(orders):
        table[np.arange(count), whole(count, seed)] += 1
    expected = orders / count
    # Chi-square of (count - 1) ** 2 degrees of freedom: 121, with a standard deviation of 15.6.
    assert ((table - expected) ** 2 / expected).sum() < 121 + 5 * 15.6


def test_a_part_of_very_many_takes_no_time():
    start = time.perf_counter()
    FeistelPermutation(10**9, 1)(np.arange(5 * 10**8, 5 * 10**8 + 8192))
    assert time.perf_counter() - start < 0.5

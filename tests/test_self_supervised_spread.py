"""Variance and effective rank of embeddings, and the guard that watches them."""

from __future__ import annotations

import pytest
import torch

from asr_emapl.errors import UserError
from asr_emapl.self_supervised.spread import STEPS, SpreadGuard, spread


@pytest.mark.parametrize("count", [40, 2000])
@pytest.mark.parametrize("rank", [1, 3, 64])
def test_the_effective_rank_is_the_number_of_equal_dimensions(count, rank):
    torch.manual_seed(0)
    x = torch.zeros(2, count, 64)
    x[..., :rank] = torch.randn(2, count, rank)
    groups, variance, found = spread(x - x.mean(1, keepdim=True), torch.full((2,), count)).tolist()
    assert groups == 2
    assert variance / 2 == pytest.approx(rank, rel=0.2)
    # At most as many as there are embeddings.
    assert found / 2 == pytest.approx(1.0 / (1.0 / rank + 1.0 / count), rel=0.2)


def guard(on_collapse: str = "stop") -> SpreadGuard:
    return SpreadGuard(on_collapse, "the embeddings", "lower optimizer.lr", is_first=True)


@pytest.mark.parametrize("sums", [[2.0, 0.0, 0.0], [1.0, 0.5, 1.1]])
def test_a_collapse_must_last(sums):
    watch = guard()
    for _ in range(STEPS - 1):
        watch.check(sums)
    assert watch.check([1.0, 0.5, 4.0]) == {"target_variance": 0.5, "effective_rank": 4.0}
    for _ in range(STEPS - 1):
        watch.check(sums)
    with pytest.raises(
        UserError, match=r"the embeddings have collapsed: .* for 50 steps; lower optimizer.lr"
    ):
        watch.check(sums)


def test_a_step_without_embeddings_is_not_a_collapse():
    watch = guard()
    for _ in range(2 * STEPS):
        assert watch.check([0.0, 0.0, 0.0]) == {}

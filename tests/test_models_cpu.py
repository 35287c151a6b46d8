"""Dropout: its share, its mean, its gradient, and its draws."""

from __future__ import annotations

import pytest
import torch

from asr_emapl.models.cpu import dropout


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1001, 999), (400_003,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_many_are_zero_and_the_mean_stays(share, shape, dtype):
    torch.manual_seed(0)
    dropped = dropout(torch.ones(shape, dtype=dtype), share)
    assert dropped.shape == shape
    assert dropped.dtype == dtype
    deviation = (share * (1 - share) / dropped.numel()) ** 0.5
    rounding = (1.0 - share) / 2**8 if dtype == torch.bfloat16 else 2.0**-16
    assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=5 * deviation + rounding)
    left = dropped[dropped != 0]
    torch.testing.assert_close(left, torch.full_like(left, 1.0 / (1.0 - share)), rtol=1e-2, atol=0.0)
    assert dropped.double().mean().item() == pytest.approx(1.0, abs=5 * deviation / (1.0 - share))


def test_neighbours_that_share_a_number_are_drawn_apart():
    """Of four elements drawn from one number, each pair is dropped together with the chance of chance."""
    torch.manual_seed(0)
    zero = (dropout(torch.ones(100_000, 4), 0.5) == 0).double()
    correlation = torch.corrcoef(zero.T) - torch.eye(4)
    assert correlation.abs().max().item() < 0.02
    assert zero.mean(0).tolist() == pytest.approx([0.5] * 4, abs=0.01)


def test_the_gradient_takes_the_same_mask():
    x = torch.randn(50, 7, requires_grad=True)
    y = dropout(x, 0.3)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, y)


@pytest.mark.parametrize("share", [0.0, 1e-9])
def test_nothing_is_dropped_of_a_share_of_nothing(share):
    x = torch.randn(5)
    assert torch.equal(dropout(x, share), x)


def test_all_is_dropped_of_a_share_of_one():
    assert not dropout(torch.ones(9), 1.0).any()


def test_the_seed_decides_and_draws_differ():
    x = torch.ones(1000)
    torch.manual_seed(3)
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (1,), (3, 1)])
def test_small_and_empty(shape):
    assert dropout(torch.ones(shape), 0.5).shape == shape

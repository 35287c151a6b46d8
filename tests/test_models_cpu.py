"""The CPU's dropout and attention are torch's own: probability, mean, gradient, hidden frames."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from asr_emapl.models import cpu
from asr_emapl.models.cpu import attend, dropout


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1001, 999), (400_003,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_many_are_zero_and_the_mean_stays(p, shape, dtype):
    torch.manual_seed(0)
    dropped = dropout(torch.ones(shape, dtype=dtype), p)
    assert dropped.shape == shape
    assert dropped.dtype == dtype
    deviation = (p * (1 - p) / dropped.numel()) ** 0.5
    rounding = (1.0 - p) / 2**8 if dtype == torch.bfloat16 else 2.0**-16
    assert (dropped == 0).float().mean().item() == pytest.approx(p, abs=5 * deviation + rounding)
    left = dropped[dropped != 0]
    torch.testing.assert_close(left, torch.full_like(left, 1.0 / (1.0 - p)), rtol=1e-2, atol=0.0)
    assert dropped.double().mean().item() == pytest.approx(1.0, abs=5 * deviation / (1.0 - p))


def test_neighbours_that_p_a_number_are_drawn_apart():
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


@pytest.mark.parametrize("p", [0.0, 1e-9])
def test_nothing_is_dropped_of_a_p_of_nothing(p):
    x = torch.randn(5)
    assert torch.equal(dropout(x, p), x)


def test_all_is_dropped_of_a_p_of_one():
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


# Attention.

VALID_BT = torch.arange(9) < torch.tensor([9, 4, 1])[:, None]


def inputs(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    # As the model has them: heads are views into one projection.
    qkv = torch.randn(3, 9, 3, 2, 8, generator=generator).permute(2, 0, 3, 1, 4).to(dtype)
    return [x.detach().requires_grad_() for x in qkv.unbind(0)]


def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Utterance by utterance, over its valid frames alone, in float64."""
    rows = []
    for b, length in enumerate(VALID_BT.sum(1).tolist()):
        q, k, v = (x[b].double() for x in (query, key[:, :, :length], value[:, :, :length]))
        rows.append(torch.softmax(q @ k.transpose(1, 2) / 8**0.5, -1) @ v)
    return torch.stack(rows)


@pytest.mark.parametrize("way", [attend, lambda *a: cpu._attend_by_products(*a)])
def test_forward_and_backward_in_float32(way):
    tensors, references = inputs(), inputs()
    out = way(*tensors, VALID_BT, 0.0)
    expected = plain(*references)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    out.square().sum().backward()
    expected.square().sum().backward()
    for mine, theirs in zip(tensors, references, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_in_bfloat16_it_is_near():
    out = attend(*inputs(torch.bfloat16), VALID_BT, 0.0)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), plain(*inputs()), rtol=0.05, atol=0.03)


def test_dropped_weights_leave_the_mean():
    query, key, value = (x.detach() for x in inputs())
    torch.manual_seed(0)
    mean = torch.stack([attend(query, key, value, VALID_BT, 0.2) for _ in range(3000)]).mean(0)
    torch.testing.assert_close(mean.double(), plain(query, key, value), rtol=0.0, atol=0.08)
    assert not torch.equal(attend(query, key, value, VALID_BT, 0.2), attend(query, key, value, VALID_BT, 0.2))


def test_long_ones_are_left_to_torch(monkeypatch):
    """The weights of all pairs of an hour's frames would not fit."""
    monkeypatch.setattr(cpu, "_MAX_FRAMES", 8)
    monkeypatch.setattr(cpu, "_attend_by_products", None)
    query, key, value = inputs(torch.bfloat16)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=VALID_BT[:, None, None, :])
    assert torch.equal(attend(query, key, value, VALID_BT, 0.0), expected)

"""Attention by matrix products is torch's own, forward and backward, whatever is hidden."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from asr_emapl.models import attention
from asr_emapl.models.attention import attend

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


@pytest.mark.parametrize("way", [attend, lambda *a: attention._attend_by_products(*a)])
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
    monkeypatch.setattr(attention, "_MOST_FRAMES", 8)
    monkeypatch.setattr(attention, "_attend_by_products", None)
    query, key, value = inputs(torch.bfloat16)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=VALID_BT[:, None, None, :])
    assert torch.equal(attend(query, key, value, VALID_BT, 0.0), expected)

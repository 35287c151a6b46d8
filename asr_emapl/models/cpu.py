"""Faster forms of dropout and attention on a CPU; on other devices they are torch's own.

Axes: B utterances, H heads, T frames, d width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_LEVELS = 2**16
# With more frames (a minute at a stride of 3), the weights of all pairs of frames cost more memory than time.
_MAX_FRAMES = 2000


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each element with probability `p`, and scale the others so that the mean stays.

    On a CPU, one random number of 64 bits decides four elements: a fifth of the time of torch's draws. `p` is
    rounded so that the scale is a number of x's dtype, of 8 bits in bfloat16 (0.1 becomes 0.0986) and of 16
    otherwise; the mean then stays.

    Args:
        x: any shape and float dtype.
        p: in [0, 1].
    """
    kept = round((1.0 - p) * _LEVELS)
    if x.device.type != "cpu" or kept == 0:
        return F.dropout(x, p)
    if kept == _LEVELS:
        return x
    scale = torch.tensor(_LEVELS / kept, dtype=x.dtype)
    kept = round(_LEVELS / scale.item())
    count = x.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    keep = draws.view(torch.int16)[:count].view(x.shape) < kept - _LEVELS // 2
    # One tensor of zeros and scales in x's dtype: the backward pass multiplies by it and converts nothing.
    return x * keep.to(x.dtype).mul_(scale)


def attend(query_BHTd: Tensor, key_BHTd: Tensor, value_BHTd: Tensor, valid_BT: Tensor, p: float) -> Tensor:
    """Scaled dot-product attention [B, H, T, d] to the frames where `valid_BT` is True.

    torch's fused CPU kernel has no dropout, and is slower in bfloat16 than in float32: in these cases, matrix
    products take half its time.

    Args:
        p: probability that a weight is dropped; 0 outside of training.
    """
    by_products = p > 0.0 or query_BHTd.dtype == torch.bfloat16
    if query_BHTd.device.type == "cpu" and by_products and query_BHTd.shape[2] <= _MAX_FRAMES:
        return _attend_by_products(query_BHTd, key_BHTd, value_BHTd, valid_BT, p)
    return F.scaled_dot_product_attention(
        query_BHTd, key_BHTd, value_BHTd, attn_mask=valid_BT[:, None, None, :], dropout_p=p
    )


def _attend_by_products(
    query_BHTd: Tensor, key_BHTd: Tensor, value_BHTd: Tensor, valid_BT: Tensor, p: float
) -> Tensor:
    batch, heads, frames, width = query_BHTd.shape
    query, key, value = (x.reshape(batch * heads, frames, width) for x in (query_BHTd, key_BHTd, value_BHTd))
    hidden_BT = torch.zeros_like(valid_BT, dtype=query.dtype).masked_fill(~valid_BT, -math.inf)
    bias = hidden_BT[:, None, None, :].expand(batch, heads, 1, frames).reshape(batch * heads, 1, frames)
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=1.0 / math.sqrt(width))
    weights = torch.softmax(scores, dim=-1)
    if p > 0.0:
        weights = dropout(weights, p)
    return torch.bmm(weights.to(value.dtype), value).view(batch, heads, frames, width)

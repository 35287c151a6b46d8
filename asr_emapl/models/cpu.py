"""Faster dropout and attention on CPUs; other devices use torch's implementations.

Axes: B utterances, H heads, T frames, d dimension of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_LEVELS = 2**16
# With more frames (a minute at a stride of 3), the attention weights would take too much memory.
_MAX_FRAMES = 2000


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each element with probability `p`, and scale the others so that the mean is unchanged.

    On a CPU, one 64-bit random number is used for four elements, which takes a fifth of the time of torch's
    dropout. `p` is rounded to 16 bits, in bfloat16 to 8 bits (0.1 becomes 0.0986), so that the scale is exact
    in x's dtype and the mean is unchanged.

    Args:
        x: any shape and float dtype.
        p: dropout probability in [0, 1].
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
    # A mask in x's dtype, by which the backward pass can multiply without a conversion.
    return x * keep.to(x.dtype).mul_(scale)


def attend(query_BHTd: Tensor, key_BHTd: Tensor, value_BHTd: Tensor, valid_BT: Tensor, p: float) -> Tensor:
    """Scaled dot-product attention [B, H, T, d] to the frames where `valid_BT` is True.

    torch's fused CPU kernel does not support dropout, and is slow in bfloat16. In these cases, matrix
    products take half the time.

    Args:
        p: dropout probability of the attention weights; 0 outside of training.
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

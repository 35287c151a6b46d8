"""Attention by whichever of torch's ways is quickest where it runs.

Axes: B utterances, H heads, T frames, d width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_emapl.models.cpu import dropout

# Above it (a minute, with a stride of 3) the weights of all pairs of frames take more memory than time.
_MOST_FRAMES = 2000


def attend(
    query_BHTd: Tensor, key_BHTd: Tensor, value_BHTd: Tensor, valid_BT: Tensor, share: float
) -> Tensor:
    """Scaled dot-product attention [B, H, T, d] to the frames where `valid_BT` is True.

    torch's fused kernel for CPUs knows no dropout, and is slower in bfloat16 than in float32: there, plain
    matrix products take half its time.

    Args:
        share: of the weights that are dropped; 0 outside of training.
    """
    plain = share > 0.0 or query_BHTd.dtype == torch.bfloat16
    if query_BHTd.device.type == "cpu" and plain and query_BHTd.shape[2] <= _MOST_FRAMES:
        return _attend_by_products(query_BHTd, key_BHTd, value_BHTd, valid_BT, share)
    return F.scaled_dot_product_attention(
        query_BHTd, key_BHTd, value_BHTd, attn_mask=valid_BT[:, None, None, :], dropout_p=share
    )


def _attend_by_products(
    query_BHTd: Tensor, key_BHTd: Tensor, value_BHTd: Tensor, valid_BT: Tensor, share: float
) -> Tensor:
    batch, heads, frames, width = query_BHTd.shape
    query, key, value = (x.reshape(batch * heads, frames, width) for x in (query_BHTd, key_BHTd, value_BHTd))
    hidden_BT = torch.zeros_like(valid_BT, dtype=query.dtype).masked_fill(~valid_BT, -math.inf)
    bias = hidden_BT[:, None, None, :].expand(batch, heads, 1, frames).reshape(batch * heads, 1, frames)
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=1.0 / math.sqrt(width))
    weights = torch.softmax(scores, dim=-1)
    if share > 0.0:
        weights = dropout(weights, share)
    return torch.bmm(weights.to(value.dtype), value).view(batch, heads, frames, width)

"""Front-ends of models: convolutions that shorten log-mel features.

Axes: B utterances, T frames, F features, C channels, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl.models.valid_frames import valid

# Channels of the 2-D convolutions.
_CHANNELS = 64


class ConvFrontEnd(nn.Module):
    """Layer norm over bands, one strided convolution, GLU, dropout."""

    def __init__(self, input_size: int, dim: int, kernel: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.norm = nn.LayerNorm(input_size)
        self.conv = nn.Conv1d(input_size, 2 * dim, kernel, stride, padding=kernel // 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features_BTF: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, F] -> [B, T', D], and lengths in output frames."""
        # Zero the padding after the norm, because the kernel extends into it.
        x_BTF = self.norm(features_BTF) * valid(features_BTF, lengths, 1)
        x_BTD = F.glu(self.conv(x_BTF.transpose(1, 2)).transpose(1, 2), dim=-1)
        return self.dropout(x_BTD), self.output_lengths(lengths)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames after the strided convolution, at least one."""
        return torch.clamp((lengths + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1, min=1)


class Conv2dFrontEnd(nn.Module):
    """Layer norm over bands, 2-D convolutions with stride 2 in time and bands, a linear layer, dropout.

    All convolutions but the first are depthwise separable, as in the Fast Conformer (Rekesh et al. 2023).

    Args:
        stride: 4 or 8 feature frames: two or three convolutions.
    """

    def __init__(self, input_size: int, dim: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(input_size)
        self.convolutions = nn.ModuleList([nn.Conv2d(1, _CHANNELS, 3, 2, padding=1)])
        bands = _halved(input_size)
        while 2 ** len(self.convolutions) < stride:
            depthwise = nn.Conv2d(_CHANNELS, _CHANNELS, 3, 2, padding=1, groups=_CHANNELS)
            self.convolutions.append(nn.Sequential(depthwise, nn.Conv2d(_CHANNELS, _CHANNELS, 1)))
            bands = _halved(bands)
        self.output = nn.Linear(_CHANNELS * bands, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features_BTF: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, F] -> [B, T', D], and lengths in output frames."""
        x_BCTF = self.norm(features_BTF)[:, None] * valid(features_BTF, lengths, 1)[:, None]
        for convolution in self.convolutions:
            lengths = _halved(lengths)
            # Zero the padding after each one, because the next kernel extends into it.
            x_BCTF = F.relu(convolution(x_BCTF))
            x_BCTF = x_BCTF * valid(x_BCTF, lengths, 2)
        return self.dropout(self.output(x_BCTF.transpose(1, 2).flatten(2))), lengths

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames after the strided convolutions."""
        for _ in self.convolutions:
            lengths = _halved(lengths)
        return lengths


def _halved(size: int | Tensor) -> Any:
    """Size after a convolution with kernel 3, stride 2 and padding 1."""
    return (size - 1) // 2 + 1


def build_front_end(
    kind: str, input_size: int, dim: int, kernel: int, stride: int, dropout: float
) -> ConvFrontEnd | Conv2dFrontEnd:
    """The front-end of that kind.

    Args:
        kind: conv1d or conv2d, which has no choice of the kernel.

    Raises:
        ValueError: the kind is unknown, or cannot have that stride.
    """
    if kind == "conv1d":
        return ConvFrontEnd(input_size, dim, kernel, stride, dropout)
    if kind != "conv2d":
        raise ValueError(f"frontend {kind!r} is neither 'conv1d' nor 'conv2d'")
    if stride not in (4, 8):
        raise ValueError(f"stride must be 4 or 8 with frontend conv2d, not {stride}")
    return Conv2dFrontEnd(input_size, dim, stride, dropout)

"""Make modules of other libraries independent of padding. Axes: B utterances, C channels, T frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def valid(x: Tensor, lengths_B: Tensor, axis: int) -> Tensor:
    """A mask of frames before the end of each utterance; broadcasts to `x`, which has frames on `axis`."""
    mask_BT = torch.arange(x.shape[axis], device=x.device) < lengths_B.to(x.device)[:, None]
    shape = [1] * x.dim()
    shape[0], shape[axis] = mask_BT.shape
    return mask_BT.view(shape)


class Lengths:
    """The lengths of the batch that is being processed, shared by a model and the modules inside it."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def of(self, x: Tensor) -> Tensor:
        """The lengths [B] in the frames that `x` has; only inside a forward pass."""
        assert self.value is not None
        return self.value.to(x.device)


class MaskedConv1d(nn.Module):
    """A convolution whose input is zero after each utterance's end. Wraps one of another library.

    The parameters keep their names if the wrapper takes the place of the convolution.
    """

    def __init__(self, convolution: nn.Conv1d, lengths: Lengths) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self._lengths = lengths
        self._settings: Any = (
            convolution.stride,
            convolution.padding,
            convolution.dilation,
            convolution.groups,
        )

    def forward(self, x_BCT: Tensor) -> Tensor:
        """[B, C, T] -> [B, C', T']."""
        x_BCT = x_BCT * valid(x_BCT, self._lengths.of(x_BCT), 2)
        return nn.functional.conv1d(x_BCT, self.weight, self.bias, *self._settings)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each frame, without statistics over frames or utterances."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCT: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        return nn.functional.layer_norm(x_BCT.mT, self.weight.shape, self.weight, self.bias).mT


class FrozenBatchNorm(nn.Module):
    """Batch norm with the running statistics also in training; scale and shift are trained.

    Statistics of a batch would depend on padding and on the other utterances. The parameters and buffers
    keep their names.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm1d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        return nn.functional.batch_norm(
            x_BCT, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


class ValidGroupNorm(nn.Module):
    """Group norm with statistics over valid frames: the output of an utterance alone, in any batch.

    wav2vec 2.0 base and HuBERT base have a group norm after their first convolution.

    Args:
        norm: the group norm that is replaced; the parameters keep their names.
        kernel, stride: of the convolution before it, whose input has the given lengths.
    """

    def __init__(self, norm: nn.GroupNorm, kernel: int, stride: int, lengths: Lengths) -> None:
        super().__init__()
        self.weight, self.bias, self.groups, self.eps = norm.weight, norm.bias, norm.num_groups, norm.eps
        self.kernel, self.stride, self._lengths = kernel, stride, lengths

    def forward(self, x_BCT: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        frames_B = ((self._lengths.of(x_BCT) - self.kernel) // self.stride + 1).clamp(min=1)
        valid_B11T = valid(x_BCT, frames_B, 2)[:, None]
        x_BGCT = x_BCT.float().unflatten(1, (self.groups, -1))
        count_B111 = (frames_B * x_BGCT.shape[2]).view(-1, 1, 1, 1)
        mean_BG11 = (x_BGCT * valid_B11T).sum((2, 3), keepdim=True) / count_B111
        centred_BGCT = (x_BGCT - mean_BG11) * valid_B11T
        variance_BG11 = centred_BGCT.square().sum((2, 3), keepdim=True) / count_B111
        normal_BCT = (centred_BGCT * torch.rsqrt(variance_BG11 + self.eps)).flatten(1, 2)
        found_BCT = normal_BCT * self.weight[:, None] + self.bias[:, None]
        return found_BCT.to(x_BCT.dtype)


def normalise_waveforms(waveforms_BN: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean 0 and variance 1 of each utterance, and zeros after its end, as wav2vec 2.0 large expects."""
    valid_BN, count_B1 = valid(waveforms_BN, lengths_B, 1), lengths_B[:, None]
    mean_B1 = (waveforms_BN * valid_BN).sum(1, keepdim=True) / count_B1
    centred_BN = (waveforms_BN - mean_B1) * valid_BN
    variance_B1 = centred_BN.square().sum(1, keepdim=True) / count_B1
    return centred_BN * torch.rsqrt(variance_B1 + 1e-7)

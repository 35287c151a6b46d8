"""The transformer CTC model of slimIPL (Likhomanenko et al. 2021).

Axes: B utterances, T frames, F features, D model width, H heads, V tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl.errors import UserError
from asr_emapl.models.cpu import attend, dropout
from asr_emapl.models.front_ends import build_front_end

# Maximum number of layers, and of frames of a kernel or stride, so that building a model takes finite time.
_MOST = 10_000


class TransformerCtc(nn.Module):
    """Convolutional front-end with GLU, sinusoidal positions with CAPE's global shift, transformer, CTC.

    Args:
        vocabulary_size: number of tokens, including the blank.
        input_size: number of features per frame, F.
        dim, heads, layers, feedforward: sizes of the transformer; feedforward 0 means 4 x dim.
        norm: "post" (published recipes) or "pre" (easier to train for deep models).
        dropout: dropout in the transformer layers.
        layerdrop: probability of skipping a layer in an optimizer step.
        frontend_dropout: dropout after the front-end; not changed by `set_dropout`.
        attention_dropout: dropout of attention weights; None: same as `dropout`. 0 is faster on a CPU.
        frontend: "conv1d", one convolution with GLU over time, or "conv2d", convolutions over time and bands.
        kernel, stride: kernel and stride of the front-end, in feature frames. With conv2d, the stride is 4 or
            8, and the kernel is not used.
        convolution: kernel size, in frames after the stride, of a convolution in every layer (Conformer,
            Gulati et al. 2020), which helps with few hours of audio; 0: none, as published.
        max_shift_seconds: in training, shift the positions of an utterance by a uniform random value in +-
            this (CAPE, Likhomanenko et al. 2021); 0: none.
        frame_seconds: audio per frame of the features, for the positions.
        intermediate_layers: layers, numbered from 1, whose frames the output layer also labels in training
            (intermediate CTC, Lee and Watanabe 2021; weighted by the setting loss.intermediate).
        self_conditioning: feed the labels of those layers to the next layer (Nozaki and Komatsu 2021).

    Raises:
        ValueError: an option is invalid: dim is not a multiple of heads, convolution is even, and so on.
    """

    def __init__(
        self,
        vocabulary_size: int,
        input_size: int = 80,
        dim: int = 256,
        heads: int = 4,
        layers: int = 8,
        feedforward: int = 0,
        norm: str = "post",
        dropout: float = 0.1,
        layerdrop: float = 0.0,
        frontend_dropout: float = 0.1,
        attention_dropout: float | None = None,
        frontend: str = "conv1d",
        kernel: int = 7,
        stride: int = 3,
        convolution: int = 0,
        max_shift_seconds: float = 30.0,
        frame_seconds: float = 0.01,
        intermediate_layers: Sequence[int] = (),
        self_conditioning: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "heads": heads, "layers": layers, "feedforward": feedforward}
        _require_sizes(sizes | {"kernel": kernel, "stride": stride, "convolution": convolution})
        if norm not in ("post", "pre"):
            raise ValueError(f"norm {norm!r} is neither 'post' nor 'pre'")
        _require_probability("frontend_dropout", frontend_dropout)
        _require_probability("attention_dropout", attention_dropout or 0.0)
        _require_intermediate(intermediate_layers, layers, self_conditioning)
        self.frontend = build_front_end(frontend, input_size, dim, kernel, stride, frontend_dropout)
        self.positions = Positions(dim, stride, frame_seconds, max_shift_seconds)
        self.layers = nn.ModuleList(
            TransformerLayer(dim, heads, feedforward or 4 * dim, convolution, norm) for _ in range(layers)
        )
        self.final_norm = nn.LayerNorm(dim) if norm == "pre" else nn.Identity()
        self.output = nn.Linear(dim, vocabulary_size)
        self.intermediate_layers = frozenset(intermediate_layers)
        self.condition = nn.Linear(vocabulary_size, dim) if self_conditioning else None
        self.scale = math.sqrt(dim)
        self.attention_dropout = attention_dropout
        self.set_dropout(dropout, layerdrop)
        self._step_seed: int | None = None

    def forward(
        self, features: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, list[Tensor]]:
        """See `CtcModel.forward`."""
        x_BTD, valid_BT, lengths = self._embedded(features, lengths)
        between_BTV = []
        for i, (layer, dropped) in enumerate(zip(self.layers, self._dropped_layers(), strict=True), 1):
            x_BTD = layer(x_BTD, valid_BT, dropped)
            if i in self.intermediate_layers and (self.training or self.condition is not None):
                between_BTV.append(self._log_probs(x_BTD))
                if self.condition is not None:
                    x_BTD = x_BTD + self.condition(between_BTV[-1].exp().to(x_BTD.dtype))
        log_probs_BTV = self._log_probs(x_BTD)
        if self.training and between_BTV:
            return log_probs_BTV, lengths, between_BTV
        return log_probs_BTV, lengths

    def _log_probs(self, x_BTD: Tensor) -> Tensor:
        return F.log_softmax(self.output(self.final_norm(x_BTD)).float(), dim=-1)

    def layer_outputs(self, features: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """See `CtcModel`.

        Raises:
            UserError: the model has self-conditioning, which depends on the tokens.
        """
        if self.condition is not None:
            raise UserError("self-supervision has no tokens: set model.options.self_conditioning=false")
        x_BTD, valid_BT, lengths = self._embedded(features, lengths)
        found = []
        for layer, dropped in zip(self.layers, self._dropped_layers(), strict=True):
            x_BTD = layer(x_BTD, valid_BT, dropped)
            found.append(x_BTD)
        return [*found[:-1], self.final_norm(x_BTD)], lengths

    def _embedded(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The input of the first layer [B, T', D], its valid frames [B, T'] and their number [B]."""
        x_BTD, lengths = self.frontend(features, lengths)
        valid_BT = torch.arange(x_BTD.shape[1], device=x_BTD.device) < lengths[:, None]
        # Scaled as in Vaswani et al. 2017, because otherwise the positions would dominate.
        return x_BTD * self.scale + self.positions(valid_BT, lengths).to(x_BTD.dtype), valid_BT, lengths

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """See `CtcModel.output_lengths`."""
        return self.frontend.output_lengths(lengths)

    def begin_step(self, seed: int) -> None:
        """Set the seed that selects the skipped layers: the same on every rank and micro-batch of a step."""
        self._step_seed = seed

    def set_dropout(self, dropout: float | None = None, layerdrop: float | None = None) -> None:
        """Change dropout of the layers and layerdrop, but not `frontend_dropout` and `attention_dropout`.

        Args:
            dropout, layerdrop: in [0, 1]; None: unchanged.
        """
        if layerdrop is not None:
            _require_probability("layerdrop", layerdrop)
            self.layerdrop = layerdrop
        if dropout is None:
            return
        _require_probability("dropout", dropout)
        attention = dropout if self.attention_dropout is None else self.attention_dropout
        for layer in self.layers:
            cast(TransformerLayer, layer).set_dropout(dropout, attention)

    def _dropped_layers(self) -> list[bool]:
        if not self.training or self.layerdrop == 0.0:
            return [False] * len(self.layers)
        generator = torch.Generator()
        if self._step_seed is None:
            generator = torch.default_generator
        else:
            generator.manual_seed(self._step_seed)
        return (torch.rand(len(self.layers), generator=generator) < self.layerdrop).tolist()


class Positions(nn.Module):
    """Sinusoids over seconds, centred on the utterance, with a random global shift in training.

    omega_j = 30 * 10000 ** (-2 j / D) (CAPE, section 4; only the global shift, as in its ASR recipes).

    Args:
        stride, frame_seconds, max_shift_seconds: see `TransformerCtc`.
    """

    omega: Tensor

    def __init__(self, dim: int, stride: int, frame_seconds: float, max_shift_seconds: float) -> None:
        super().__init__()
        if not 0.0 <= max_shift_seconds < math.inf:
            raise ValueError(f"max_shift_seconds must be at least 0 and finite, not {max_shift_seconds}")
        if not 0.0 < frame_seconds < math.inf:
            raise ValueError(f"frame_seconds must be positive and finite, not {frame_seconds}")
        self.frame_seconds, self.max_shift_seconds = stride * frame_seconds, max_shift_seconds
        omega = 30.0 * 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
        self.register_buffer("omega", omega, persistent=False)

    def forward(self, valid_BT: Tensor, lengths: Tensor) -> Tensor:
        """Encodings [B, T, D] float32."""
        batch, frames = valid_BT.shape
        frame_T = torch.arange(frames, device=valid_BT.device, dtype=torch.float32)
        seconds_BT = (frame_T - (lengths[:, None] - 1) / 2.0) * self.frame_seconds
        if self.training and self.max_shift_seconds > 0.0:
            shift_B1 = torch.rand(batch, 1, device=valid_BT.device) * 2.0 - 1.0
            seconds_BT = seconds_BT + shift_B1 * self.max_shift_seconds
        angle_BTJ = seconds_BT[..., None] * self.omega
        return torch.cat([angle_BTJ.sin(), angle_BTJ.cos()], dim=-1)


class TransformerLayer(nn.Module):
    """Self-attention, optional convolution, feed-forward; norm after ("post") or before ("pre") each."""

    def __init__(self, dim: int, heads: int, feedforward: int, convolution: int, norm: str) -> None:
        super().__init__()
        self.heads, self.pre = heads, norm == "pre"
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, feedforward), nn.Linear(feedforward, dim)
        self.convolution = ConvolutionModule(dim, convolution) if convolution else None
        self.norm_convolution = nn.LayerNorm(dim) if convolution else None
        self.set_dropout(0.0, 0.0)
        self._initialise()

    def _initialise(self) -> None:
        for linear in (self.qkv, self.out_proj, self.fc1, self.fc2):
            bound = 1.0 / math.sqrt(linear.in_features)
            nn.init.uniform_(linear.weight, -bound, bound)
            nn.init.zeros_(linear.bias)

    def set_dropout(self, dropout: float, attention: float) -> None:
        """Set the dropout inside the feed-forward and on residual branches, and that of attention weights."""
        self.dropout, self.attention_dropout = dropout, attention

    def forward(self, x_BTD: Tensor, valid_BT: Tensor, skip: bool = False) -> Tensor:
        """[B, T, D] -> [B, T, D]; frames where `valid_BT` is False do not affect the others.

        Skipping is inside the layer, because FSDP gathers its weights only for its forward pass.
        """
        if skip:
            return _hold(x_BTD, self)
        x_BTD = self._residual(x_BTD, self.norm_attention, self._attention, valid_BT)
        if self.convolution is not None and self.norm_convolution is not None:
            x_BTD = self._residual(x_BTD, self.norm_convolution, self.convolution, valid_BT)
        return self._residual(x_BTD, self.norm_feedforward, self._feedforward, valid_BT)

    def _residual(
        self, x_BTD: Tensor, norm: nn.Module, branch: Callable[[Tensor, Tensor], Tensor], valid_BT: Tensor
    ) -> Tensor:
        if self.pre:
            return x_BTD + self._drop(branch(norm(x_BTD), valid_BT))
        return norm(x_BTD + self._drop(branch(x_BTD, valid_BT)))

    def _attention(self, x_BTD: Tensor, valid_BT: Tensor) -> Tensor:
        batch, frames, dim = x_BTD.shape
        heads_3BHTd = self.qkv(x_BTD).view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = heads_3BHTd.unbind(0)
        p = self.attention_dropout if self.training else 0.0
        attended = attend(query, key, value, valid_BT, p)
        return self.out_proj(attended.transpose(1, 2).reshape(batch, frames, dim))

    def _feedforward(self, x_BTD: Tensor, valid_BT: Tensor) -> Tensor:
        return self.fc2(self._drop(F.relu(self.fc1(x_BTD))))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout) if self.training and self.dropout > 0.0 else x


class ConvolutionModule(nn.Module):
    """GLU, depthwise convolution over frames, swish, as in the Conformer (Gulati et al. 2020, section 2.2).

    A layer norm replaces the batch norm, whose statistics depend on batch size and padding.
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor, valid_BT: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]; padding is treated as zero."""
        x_BTD = F.glu(self.gate(x_BTD), dim=-1) * valid_BT[..., None]
        x_BTD = self.depthwise(x_BTD.transpose(1, 2)).transpose(1, 2)
        return self.out_proj(F.silu(self.norm(x_BTD)))


def _hold(x_BTD: Tensor, layer: nn.Module) -> Tensor:
    """Skip a layer, but keep its parameters in the graph with zero gradients.

    Parameters without a gradient would stall DDP's reduction, and the optimizer would skip them.
    """
    return x_BTD + 0.0 * torch.stack([p.sum() for p in layer.parameters()]).sum().to(x_BTD.dtype)


def _require_sizes(sizes: Mapping[str, Any]) -> None:
    for name, value in sizes.items():
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} must be an integer of at least 0, not {value!r}")
    for name in ("layers", "kernel", "stride"):
        if not 1 <= sizes[name] <= _MOST:
            raise ValueError(f"{name} must be 1 to {_MOST:,}, not {sizes[name]}")
    dim, heads, convolution = sizes["dim"], sizes["heads"], sizes["convolution"]
    if heads < 1 or dim < 1 or dim % heads or dim % 2:
        raise ValueError(f"dim {dim} must be even and a multiple of heads ({heads})")
    if convolution and convolution % 2 == 0:
        raise ValueError(f"convolution {convolution} must be odd, to be centred on its frame, or 0")


def _require_intermediate(places: Sequence[int], layers: int, self_conditioning: bool) -> None:
    if sorted(set(places)) != list(places) or not all(type(i) is int and 1 <= i < layers for i in places):
        raise ValueError(
            f"intermediate_layers must be increasing integers from 1 to {layers - 1}, not {list(places)}"
        )
    if self_conditioning and not places:
        raise ValueError("self_conditioning requires intermediate_layers")


def _require_probability(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} {value} is outside [0, 1]")

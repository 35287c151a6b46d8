"""Encoders of torchaudio with a CTC output. Axes: B utterances, N samples, T frames, F features, D width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchaudio.models
from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl.models.feature_encoder import FeatureEncoderCtc
from asr_emapl.models.valid_frames import (
    ChannelNorm,
    Lengths,
    MaskedConv1d,
    ValidGroupNorm,
    normalise_waveforms,
    valid,
)
from asr_emapl.models.weights import load_matching


class ConformerCtc(FeatureEncoderCtc):
    """torchaudio's Conformer (Gulati et al. 2020) after a strided convolution.

    torchaudio's convolution reads padding, and its norms compute statistics over padded frames; both are
    replaced by modules that do not.

    Args:
        vocabulary_size, input_size: see `CtcModel`.
        dim, heads, layers, feedforward: sizes; feedforward 0 means 4 x dim.
        convolution: kernel of the depthwise convolution, odd.
        dropout: in all layers.
        kernel, stride: of the front-end, in feature frames.
    """

    def __init__(
        self,
        vocabulary_size: int,
        input_size: int = 80,
        dim: int = 256,
        heads: int = 4,
        layers: int = 8,
        feedforward: int = 0,
        convolution: int = 31,
        dropout: float = 0.1,
        kernel: int = 7,
        stride: int = 4,
    ) -> None:
        super().__init__(vocabulary_size, input_size, dim, kernel, stride, dropout)
        self.encoder = torchaudio.models.Conformer(
            dim, heads, feedforward or 4 * dim, layers, convolution, dropout, use_group_norm=True
        )
        self._lengths = Lengths()
        for layer in self.encoder.conformer_layers:
            parts = layer.conv_module.sequential
            parts[2] = MaskedConv1d(parts[2], self._lengths)
            parts[3] = ChannelNorm(dim)

    def encode(self, x_BTD: Tensor, lengths_B: Tensor) -> list[Tensor]:
        """See `FeatureEncoderCtc.encode`; only the output of the last layer."""
        # torchaudio's mask has as many frames as the longest utterance.
        frames, most = x_BTD.shape[1], int(lengths_B.max())
        self._lengths.value = lengths_B
        x_BTD, _ = self.encoder(x_BTD[:, :most], lengths_B)
        return [F.pad(x_BTD, (0, 0, 0, frames - most))]


class EmformerCtc(FeatureEncoderCtc):
    """torchaudio's Emformer (Shi et al. 2021), which attends to segments for streaming.

    Args:
        vocabulary_size, input_size: see `CtcModel`.
        dim, heads, layers, feedforward: sizes; feedforward 0 means 4 x dim.
        segment, left, right: frames after the stride of a segment and of its left and right context.
        dropout: in all layers.
        kernel, stride: of the front-end, in feature frames.
    """

    def __init__(
        self,
        vocabulary_size: int,
        input_size: int = 80,
        dim: int = 256,
        heads: int = 4,
        layers: int = 8,
        feedforward: int = 0,
        segment: int = 16,
        left: int = 32,
        right: int = 4,
        dropout: float = 0.1,
        kernel: int = 7,
        stride: int = 4,
    ) -> None:
        super().__init__(vocabulary_size, input_size, dim, kernel, stride, dropout)
        self.right = right
        self.encoder = torchaudio.models.Emformer(
            dim, heads, feedforward or 4 * dim, layers, segment, dropout, "relu", left, right
        )

    def encode(self, x_BTD: Tensor, lengths_B: Tensor) -> list[Tensor]:
        """See `FeatureEncoderCtc.encode`; only the output of the last layer."""
        x_BTD = x_BTD * valid(x_BTD, lengths_B, 1)
        x_BTD, _ = self.encoder(F.pad(x_BTD, (0, 0, 0, self.right)), lengths_B)
        return [x_BTD]


class Wav2Vec2Ctc(nn.Module):
    """torchaudio's wav2vec 2.0 or HuBERT encoder on waveforms; frames of 20 ms.

    Args:
        vocabulary_size: see `CtcModel`.
        weights: file with the state_dict of the torchaudio model (.pt or .safetensors), without its output
            layer; None: random weights.
        factory: function of torchaudio.models: wav2vec2_base, hubert_large and so on, or wav2vec2_model with
            all sizes in `options`.
        normalise: whether utterances are normalised to variance 1, as for wav2vec2_large_lv60k.
        options: keyword arguments of the factory.

    Raises:
        ValueError: torchaudio.models has no such factory.
        UserError: see `load_matching`.
    """

    input = "waveform"

    def __init__(
        self,
        vocabulary_size: int,
        weights: str | Path | None = None,
        factory: str = "wav2vec2_base",
        normalise: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        build = getattr(torchaudio.models, factory, None)
        if not factory.startswith(("wav2vec2_", "hubert_")) or build is None:
            raise ValueError(f"torchaudio.models has no wav2vec 2.0 or HuBERT model {factory!r}")
        # Layerdrop leaves parameters without a gradient, for which distributed training would wait.
        options = {"encoder_layer_drop": 0.0, "aux_num_out": None} | options
        if factory != "wav2vec2_model":
            options.pop("aux_num_out")
        self.encoder = build(**options)
        self.normalise, self._lengths = normalise, Lengths()
        if weights is not None:
            load_matching(self.encoder, weights)
        for layer in self.encoder.feature_extractor.conv_layers:
            if isinstance(layer.layer_norm, nn.GroupNorm):
                layer.layer_norm = ValidGroupNorm(
                    layer.layer_norm, layer.kernel_size, layer.stride, self._lengths
                )
        dim = self.encoder.encoder.feature_projection.projection.out_features
        self.output = nn.Linear(dim, vocabulary_size)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `CtcModel.forward`; the input is [B, N]."""
        (x_BTD,), frames_B = self.layer_outputs(waveforms, lengths)
        return F.log_softmax(self.output(x_BTD).float(), dim=-1), frames_B

    def layer_outputs(self, waveforms: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """See `CtcModel`; only the output of the last layer."""
        if self.normalise:
            waveforms = normalise_waveforms(waveforms, lengths)
        self._lengths.value = lengths
        x_BTD, frames_B = self.encoder(waveforms, lengths)
        return [x_BTD], frames_B

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """See `CtcModel.output_lengths`."""
        for layer in self.encoder.feature_extractor.conv_layers:
            lengths = torch.clamp((lengths - layer.kernel_size) // layer.stride + 1, min=0)
        return lengths

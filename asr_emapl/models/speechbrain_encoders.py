"""Encoders of SpeechBrain with a CTC output. Axes: B utterances, T frames, D width."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from asr_emapl.errors import UserError, require_package
from asr_emapl.models.feature_encoder import FeatureEncoderCtc
from asr_emapl.models.valid_frames import Lengths, MaskedConv1d, valid
from asr_emapl.models.weights import load_matching

_RELATIVE, _ABSOLUTE, _ROTARY = "RelPosMHAXL", "regularMHA", "RoPEMHA"
# Kinds of attention by kind of encoder; the first is the default.
_ATTENTION = {
    "conformer": (_RELATIVE, _ABSOLUTE, _ROTARY),
    "branchformer": (_RELATIVE, _ABSOLUTE),
    "transformer": (_ABSOLUTE, _RELATIVE, _ROTARY),
}
# Files with the model's state_dict: of a checkpoint, and of a published recogniser.
_FILES = ("model.ckpt", "asr.ckpt")
# The encoder's part of the names in a file: "1.encoder.layers.0.norm1.norm.weight".
_ENCODER = {r"^(.*\.)?encoder\.(?=layers\.|norm\.)": ""}


class SpeechBrainCtc(FeatureEncoderCtc):
    """SpeechBrain's Conformer, Branchformer or Transformer after a strided convolution.

    SpeechBrain's convolutions read padding; they are replaced by convolutions that do not. Those of a
    Branchformer then see zeros before and after an utterance, instead of its reflected frames.

    Args:
        vocabulary_size, input_size: see `CtcModel`.
        weights: SpeechBrain's checkpoint, a folder with model.ckpt or asr.ckpt, or a file with a state_dict.
            Only its encoder is loaded, so that the front-end and the output are trained from random
            weights. None: random weights.
        kind: conformer, branchformer or transformer.
        dim, heads, layers, feedforward: sizes; feedforward 0 means 4 x dim. Of a Branchformer, feedforward is
            the width of the convolutional branch.
        convolution: kernel of the depthwise convolution, odd; not of a Transformer.
        attention: RelPosMHAXL, regularMHA or RoPEMHA (not in a Branchformer); None: regularMHA in a
            Transformer, otherwise RelPosMHAXL. regularMHA adds sinusoidal positions to the encoder's input. A
            model with RoPEMHA cannot be exported as a graph.
        norm: pre or post, in a Transformer.
        dropout: in all layers.
        kernel, stride: of the front-end, in feature frames.

    Raises:
        ValueError: `kind`, `attention`, `norm` or `convolution` is not one of the above.
        UserError: SpeechBrain is not installed, or see `load_matching`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        input_size: int = 80,
        weights: str | Path | None = None,
        kind: str = "conformer",
        dim: int = 256,
        heads: int = 4,
        layers: int = 8,
        feedforward: int = 0,
        convolution: int = 31,
        attention: str | None = None,
        norm: str = "pre",
        dropout: float = 0.1,
        kernel: int = 7,
        stride: int = 4,
    ) -> None:
        super().__init__(vocabulary_size, input_size, dim, kernel, stride, dropout)
        self.attention = _checked_attention(kind, attention, norm, convolution)
        require_package("speechbrain", "speechbrain")
        # The import would allow TF32 and change TorchScript in the whole process.
        os.environ.setdefault("SB_DISABLE_QUIRKS", "allow_tf32,disable_jit_profiling")
        from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
        from speechbrain.nnet.attention import RelPosEncXL

        self.encoder = TransformerASR(
            tgt_vocab=1,
            input_size=dim,
            d_model=dim,
            nhead=heads,
            num_encoder_layers=layers,
            num_decoder_layers=0,
            d_ffn=feedforward or 4 * dim,
            dropout=dropout,
            activation=nn.GELU,
            normalize_before=norm == "pre",
            kernel_size=convolution,
            encoder_module=kind,
            attention_type=self.attention,
            causal=False,
            csgu_linear_units=feedforward or 4 * dim,
        ).encoder
        self.positions = RelPosEncXL(dim)
        self._lengths = Lengths()
        if weights is not None:
            load_matching(self.encoder, _checkpoint_file(weights), _ENCODER)
        for layer in self.encoder.layers:
            _ignore_padding(layer, self._lengths)

    def encode(self, x_BTD: Tensor, lengths_B: Tensor) -> list[Tensor]:
        """See `FeatureEncoderCtc.encode`; the outputs of all layers, the last one after the final norm."""
        self._lengths.value = lengths_B
        padding_BT = ~valid(x_BTD, lengths_B, 1)[..., 0]
        positions = None
        if self.attention == _RELATIVE:
            positions = self.positions(x_BTD)
        elif self.attention == _ABSOLUTE:
            # The last half of the relative positions, from 0 on.
            x_BTD = x_BTD + self.positions(x_BTD)[:, -x_BTD.shape[1] :]
        outputs = []
        # Not the forward method of the encoder, which keeps the attention of all layers.
        for layer in self.encoder.layers:
            x_BTD, _ = layer(x_BTD, src_key_padding_mask=padding_BT, pos_embs=positions)
            outputs.append(x_BTD)
        return [*outputs[:-1], self.encoder.norm(x_BTD)]


def _checked_attention(kind: str, attention: str | None, norm: str, convolution: int) -> str:
    if kind not in _ATTENTION:
        raise ValueError(f"kind must be one of {', '.join(_ATTENTION)}, not {kind!r}")
    if attention is not None and attention not in _ATTENTION[kind]:
        allowed = ", ".join(_ATTENTION[kind])
        raise ValueError(f"attention of a {kind} must be one of {allowed}, not {attention!r}")
    if norm != "pre" and (norm, kind) != ("post", "transformer"):
        raise ValueError(f"norm must be pre, or post with kind transformer, not {norm!r} with {kind}")
    if convolution % 2 == 0:
        raise ValueError(f"convolution must be odd, not {convolution}")
    return attention or _ATTENTION[kind][0]


def _ignore_padding(layer: Any, lengths: Lengths) -> None:
    """Replace the convolution of a layer, which reads the frames after an utterance's end."""
    if module := getattr(layer, "convolution_module", None):  # of a Conformer
        module.conv = MaskedConv1d(module.conv, lengths)
    elif branch := getattr(layer, "convolution_branch", None):  # of a Branchformer
        wrapper = branch.csgu.conv
        wrapper.padding = "valid"  # instead of reflecting the end of the batch
        wrapper.conv.padding = (wrapper.kernel_size // 2,)
        wrapper.conv = MaskedConv1d(wrapper.conv, lengths)


def _checkpoint_file(place: str | Path) -> Path:
    """The file with the model in a folder, or the file itself."""
    if not Path(place).is_dir():
        return Path(place)
    for name in _FILES:
        if (Path(place) / name).is_file():
            return Path(place) / name
    raise UserError(
        f"model.weights {place}: no {' or '.join(_FILES)} in this folder; specify the folder of one "
        "checkpoint (CKPT+...), or a file"
    )

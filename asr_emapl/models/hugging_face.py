"""Encoders of Hugging Face transformers on waveforms, with a CTC output, from a local folder or a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl.errors import UserError
from asr_emapl.models.valid_frames import (
    FrozenBatchNorm,
    Lengths,
    MaskedConv1d,
    ValidGroupNorm,
    normalise_waveforms,
    valid,
)

# Random choices inside the model that would differ between a step and its resume, or leave parameters without
# a gradient. SpecAugment is applied by the trainer.
_NO_RANDOM_LAYERS: dict[str, Any] = {
    "layerdrop": 0.0,
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
}


class HuggingFaceCtc(nn.Module):
    """wav2vec 2.0, its Conformer, HuBERT, WavLM, data2vec-audio and similar encoders (`AutoModel`).

    Nothing is downloaded, and no code of the folder is run. Batch norms keep their running statistics.

    Args:
        vocabulary_size: see `CtcModel`.
        weights: folder with config.json and model.safetensors; None: random weights.
        model_type: type of the model, such as wav2vec2, without `weights`.
        normalise: whether utterances are normalised to variance 1; None: as the folder's
            preprocessor_config.json says, otherwise False.
        options: settings of the config, such as hidden_dropout.

    Raises:
        UserError: transformers is not installed, the folder cannot be read, or its model does not take
            waveforms.
    """

    input = "waveform"

    def __init__(
        self,
        vocabulary_size: int,
        weights: str | Path | None = None,
        model_type: str | None = None,
        normalise: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.encoder = _encoder(weights, model_type, _NO_RANDOM_LAYERS | options)
        if not hasattr(self.encoder, "_get_feat_extract_output_lengths"):
            raise UserError(f"{type(self.encoder).__name__} does not take waveforms; use another model")
        self.normalise = _normalises(weights) if normalise is None else normalise
        self._lengths, self._frames = Lengths(), Lengths()
        self._ignore_padding()
        if isinstance(mask := getattr(self.encoder, "masked_spec_embed", None), nn.Parameter):
            mask.requires_grad_(False)  # of SpecAugment, which the encoder does not apply
        if self.encoder.config.model_type == "wav2vec2-conformer":
            _prepare_conformer(self.encoder.encoder)
        self.output = nn.Linear(self.encoder.config.hidden_size, vocabulary_size)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `CtcModel.forward`; the input is [B, N]."""
        encoded, lengths = self._encode(waveforms, lengths)
        return F.log_softmax(self.output(encoded.last_hidden_state).float(), dim=-1), lengths

    def layer_outputs(self, waveforms: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """See `CtcModel`."""
        encoded, lengths = self._encode(waveforms, lengths, output_hidden_states=True)
        # The first is the input of the first layer, and the last may lack the final norm.
        return [*encoded.hidden_states[1:-1], encoded.last_hidden_state], lengths

    def _encode(self, waveforms: Tensor, lengths: Tensor, **options: bool) -> tuple[Any, Tensor]:
        if self.normalise:
            waveforms = normalise_waveforms(waveforms, lengths)
        self._lengths.value, self._frames.value = lengths, self.output_lengths(lengths)
        mask_BN = (torch.arange(waveforms.shape[1], device=lengths.device) < lengths[:, None]).long()
        return self.encoder(waveforms, attention_mask=mask_BN, **options), self.output_lengths(lengths)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """See `CtcModel.output_lengths`."""
        frames: Tensor = self.encoder._get_feat_extract_output_lengths(lengths)
        return frames.clamp(min=0)

    def options_without_weights(self) -> dict[str, Any]:
        """See `CtcModel`."""
        return {"normalise": self.normalise} | _settings(self.encoder)

    def _ignore_padding(self) -> None:
        """Replace the modules whose output for an utterance depends on the padding after it."""
        _freeze_batch_norms(self.encoder)
        for name, module in list(self.encoder.named_modules()):
            if isinstance(depthwise := getattr(module, "depthwise_conv", None), nn.Conv1d):
                module.depthwise_conv = MaskedConv1d(depthwise, self._frames)
            norm, convolution = getattr(module, "layer_norm", None), getattr(module, "conv", None)
            if not isinstance(convolution, nn.Conv1d):
                continue
            if isinstance(norm, nn.GroupNorm):
                kernel, stride = convolution.kernel_size[0], convolution.stride[0]
                module.layer_norm = ValidGroupNorm(norm, kernel, stride, self._lengths)
            if "pos_conv_embed.layers." in name:  # of data2vec-audio, one after the other
                module.conv = MaskedConv1d(convolution, self._frames)


class HuggingFaceFeatureCtc(nn.Module):
    """Encoders that take features: Parakeet (also the folder of a ParakeetForCTC) and wav2vec2-bert.

    Nothing is downloaded, and no code of the folder is run. Batch norms keep their running statistics. The
    config of a run must set `features.extractor`: `ParakeetLogMel` or `StackedFbank` of
    `asr_emapl.models.hugging_face_features`.

    Args:
        vocabulary_size, input_size: see `CtcModel`.
        weights: folder with config.json and model.safetensors; None: random weights.
        model_type: parakeet_encoder or wav2vec2-bert, without `weights`.
        options: settings of the config, such as num_hidden_layers.

    Raises:
        UserError: transformers is not installed, the folder cannot be read, or its model takes no features
            of this size.
    """

    def __init__(
        self,
        vocabulary_size: int,
        input_size: int,
        weights: str | Path | None = None,
        model_type: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        encoder = _encoder(weights, model_type, _NO_RANDOM_LAYERS | options)
        self.encoder = getattr(encoder, "encoder", encoder) if _is_parakeet(encoder) else encoder
        config = self.encoder.config
        size = (
            config.num_mel_bins
            if _is_parakeet(encoder)
            else getattr(config, "feature_projection_input_dim", 0)
        )
        if size != input_size:
            raise UserError(
                f"{type(encoder).__name__} takes {size} features per frame, not {input_size}; set "
                "features.extractor to ParakeetLogMel or StackedFbank of "
                "asr_emapl.models.hugging_face_features"
            )
        _freeze_batch_norms(self.encoder)
        self.output = nn.Linear(config.hidden_size, vocabulary_size)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `CtcModel.forward`."""
        valid_BT1 = valid(features, lengths, 1)
        mask_BT = valid_BT1[..., 0].long()
        x_BTD = self.encoder(features * valid_BT1, attention_mask=mask_BT).last_hidden_state
        return F.log_softmax(self.output(x_BTD).float(), dim=-1), self.output_lengths(lengths)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """See `CtcModel.output_lengths`."""
        if not _is_parakeet(self.encoder):
            return lengths
        kernel, stride = (
            self.encoder.config.subsampling_conv_kernel_size,
            self.encoder.config.subsampling_conv_stride,
        )
        for _ in range(self.encoder.subsampling.num_layers):
            lengths = (lengths + (kernel - 1) // 2 * 2 - kernel) // stride + 1
        return lengths

    def options_without_weights(self) -> dict[str, Any]:
        """See `CtcModel`."""
        return _settings(self.encoder)


def _is_parakeet(encoder: nn.Module) -> bool:
    return type(encoder).__name__.startswith("Parakeet")


def _prepare_conformer(encoder: Any) -> None:
    """Freeze unused parameters, and leave positions, which grow with the input, out of the state."""
    encoder.pos_conv_embed.requires_grad_(False)
    positions = encoder.embed_positions
    if isinstance(table := getattr(positions, "pe", None), Tensor):
        del positions.pe
        positions.pe = table.detach()


def _freeze_batch_norms(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm1d):
                setattr(module, name, FrozenBatchNorm(child))


def _settings(encoder: Any) -> dict[str, Any]:
    """Options with which the same encoder is built without its folder."""
    ignored = ("architectures", "transformers_version", "dtype", "_name_or_path")
    return {k: v for k, v in encoder.config.to_diff_dict().items() if k not in ignored}


def _encoder(folder: str | Path | None, model_type: str | None, settings: dict[str, Any]) -> Any:
    try:
        from transformers import AutoConfig, AutoModel
        from transformers.utils import logging
    except ImportError as error:
        raise UserError("Hugging Face models need transformers; pip install transformers") from error
    logging.disable_progress_bar()  # it would be mixed with ours
    if (folder is None) == (model_type is None):
        raise UserError("specify either model.weights, a local folder, or the option model_type")
    if folder is None:
        return AutoModel.from_config(AutoConfig.for_model(str(model_type), **settings))
    if not Path(folder).is_dir():
        raise UserError(f"model.weights {folder}: no such folder; download the model first")
    try:
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **settings
        )
        return AutoModel.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model.weights {folder}: {' '.join(str(error).split())[:300]}") from error


def _normalises(folder: str | Path | None) -> bool:
    from asr_emapl.storage import read_object

    place = None if folder is None else Path(folder) / "preprocessor_config.json"
    if place is None or not place.exists():
        return False
    return bool(read_object(str(place), "a preprocessor config").get("do_normalize", False))

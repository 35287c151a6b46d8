"""Encoders of Hugging Face transformers on waveforms, with a CTC output, from a local folder or a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl.errors import UserError
from asr_emapl.models.valid_frames import Lengths, MaskedConv1d, ValidGroupNorm, normalise_waveforms

# Random choices inside the model that would differ between a step and its resume, or leave parameters without
# a gradient. SpecAugment is applied by the trainer.
_NO_RANDOM_LAYERS: dict[str, Any] = {
    "layerdrop": 0.0,
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
}


class HuggingFaceCtc(nn.Module):
    """wav2vec 2.0, HuBERT, WavLM, data2vec-audio and similar encoders (`AutoModel`).

    Nothing is downloaded, and no code of the folder is run.

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
        settings = self.encoder.config.to_diff_dict()
        ignored = ("architectures", "transformers_version", "dtype", "_name_or_path")
        return {"normalise": self.normalise} | {k: v for k, v in settings.items() if k not in ignored}

    def _ignore_padding(self) -> None:
        """Replace the modules whose output for an utterance depends on the padding after it."""
        for name, module in list(self.encoder.named_modules()):
            norm, convolution = getattr(module, "layer_norm", None), getattr(module, "conv", None)
            if not isinstance(convolution, nn.Conv1d):
                continue
            if isinstance(norm, nn.GroupNorm):
                kernel, stride = convolution.kernel_size[0], convolution.stride[0]
                module.layer_norm = ValidGroupNorm(norm, kernel, stride, self._lengths)
            if "pos_conv_embed.layers." in name:  # of data2vec-audio, one after the other
                module.conv = MaskedConv1d(convolution, self._frames)


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

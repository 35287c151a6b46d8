"""The features that a model takes: what the config says, or else what the model states."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from asr_emapl.audio.features import FeatureConfig, FeatureExtractor, FrameCount, LogMel, Waveform
from asr_emapl.errors import UserError
from asr_emapl.models.contract import ModelConfig
from asr_emapl.models.target import Trust, Wanted, construct, resolve

_EXTRACTOR = Wanted(
    "features.extractor",
    FeatureExtractor,
    "feature extractor; specify log_mel, waveform, or a subclass of audio.features.FeatureExtractor",
)


def extractor_name(features: FeatureConfig, model: ModelConfig, trust: Trust) -> str:
    """log_mel, waveform, or an import path.

    Raises:
        UserError: the model's class does not exist or is not trusted.
    """
    return features.extractor or str(getattr(resolve(model.target, trust), "input", "log_mel"))


def build_features(features: FeatureConfig, model: ModelConfig, trust: Trust) -> FeatureExtractor:
    """Build the feature extractor of a run, in eval mode.

    Raises:
        UserError: its class does not exist or is not trusted, it is not a `FeatureExtractor`, an option
            is unknown, or the constructor raises an error; or log_mel or waveform has weights or options.
    """
    name = extractor_name(features, model, trust)
    if name in ("log_mel", "waveform"):
        if features.weights is not None or features.options:
            raise UserError(
                f"features.weights and features.options are not used by {name}; remove them, or set "
                "features.extractor"
            )
        return LogMel(features) if name == "log_mel" else Waveform()
    weights = {} if features.weights is None else {"weights": features.weights}
    cls, place = resolve(name, trust, _EXTRACTOR), f"features.options for {name}"
    extractor: FeatureExtractor = construct(cls, weights | features.options, place)
    if not hasattr(extractor, "options_without_weights"):
        extractor.given_options = features.options
    return extractor.eval().requires_grad_(False)


def input_size(features: FeatureConfig, model: ModelConfig, trust: Trust) -> int | None:
    """Features per frame, None for waveforms; builds the extractor only if it is not log_mel.

    Raises:
        UserError: see `build_features`.
    """
    if extractor_name(features, model, trust) == "log_mel":
        return features.mel_bands
    return build_features(features, model, trust).size


def frame_count(features: FeatureConfig, model: ModelConfig, trust: Trust) -> Callable[[Tensor], Tensor]:
    """Converts samples [B] to feature frames [B]; builds the extractor only if it is not log_mel.

    Raises:
        UserError: see `build_features`.
    """
    if extractor_name(features, model, trust) == "log_mel":
        return FrameCount.of(features)
    return build_features(features, model, trust).frames

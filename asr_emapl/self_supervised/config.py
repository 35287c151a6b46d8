"""Settings of self-supervision. Does not import torch, except for the settings of masks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt

from asr_emapl.audio.augment import AugmentConfig
from asr_emapl.settings import Factor, PositiveCount, PositiveSeconds

_Decibels = Annotated[float, Ge(-100.0), Le(100.0)]
_DecibelRange = Annotated[list[_Decibels], Len(2, 2)]


@dataclass
class ByolConfig:
    """BYOL (Grill et al. 2020): two augmented views of a crop predict each other."""

    crop_seconds: PositiveSeconds = 0.5
    """Length of a view. The audio is divided into windows of crop_seconds + shift_seconds, which are the
    utterances of a batch."""
    shift_seconds: Annotated[float, Ge(0.0), Le(3600.0)] = 0.1
    """Largest shift in time between the two views of a window."""
    statistics_crops: Annotated[int, Ge(2), Le(2**20)] = 64
    """Number of crops in a forward pass, whose statistics the batch norm uses at every batch size, and among
    which crops are mixed."""
    batch_norm: bool = True
    """Batch norm in projector and predictor; without it, the embeddings collapsed in our trials."""
    hidden: PositiveCount = 512
    """Hidden units of projector and predictor."""
    size: PositiveCount = 128
    """Size of the embedding."""
    masks: AugmentConfig | None = field(
        default_factory=lambda: AugmentConfig(
            frequency_masks=2, frequency_width=20, time_masks=2, time_width=15, time_share=0.3
        )
    )
    """Masks of each view; null: none."""
    gain_db: Factor = 6.0
    """Each view is amplified by a random gain of up to +- this many dB."""
    noise_db: _DecibelRange | None = field(default_factory=lambda: [5.0, 40.0])
    """Range of the ratio of the crop to white noise that is added to each view; null: no noise."""
    mix_db: _DecibelRange | None = field(default_factory=lambda: [5.0, 30.0])
    """Range of the ratio of the crop to another crop that is added to each view; null: none."""


@dataclass
class MaskedConfig:
    """Masked prediction (data2vec, Baevski et al. 2022): predict the teacher's outputs at masked frames."""

    mask_share: Annotated[float, Gt(0.0), Lt(1.0)] = 0.5
    """Share of the frames that are masked, on average."""
    span_seconds: PositiveSeconds = 0.2
    """Length of a masked span; spans may overlap."""
    top_layers: PositiveCount | None = None
    """Number of the teacher's last layers whose outputs are averaged; null: two thirds of the layers."""


@dataclass
class SelfSupervisedConfig:
    """Pre-training on data.unlabelled without labels, in place of CTC."""

    objective: Literal["none", "byol", "masked"] = "none"
    """none: CTC on transcripts or pseudo-labels; byol: two views of a crop predict each other; masked: the
    teacher's outputs at masked frames are predicted, which suits a CTC model better."""
    byol: ByolConfig = field(default_factory=ByolConfig)
    masked: MaskedConfig = field(default_factory=MaskedConfig)
    on_collapse: Literal["stop", "warn"] = "stop"
    """When the embeddings or targets become constant: stop, or only warn."""

    @property
    def is_on(self) -> bool:
        """Whether the run is self-supervised."""
        return self.objective != "none"

    @property
    def window_seconds(self) -> float | None:
        """Length of the windows that the audio is divided into; None: whole utterances."""
        if self.objective != "byol":
            return None
        return self.byol.crop_seconds + self.byol.shift_seconds

    @property
    def pass_size(self) -> int | None:
        """Number of windows in each forward pass; None: as many as fit the device."""
        return self.byol.statistics_crops if self.objective == "byol" else None

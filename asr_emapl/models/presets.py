"""Models by name, for the setting `model.preset`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Preset = Literal["small", "base", "paper", "conformer"]

TRANSFORMER = "asr_emapl.models.transformer:TransformerCtc"

_OWN: dict[str, Any] = {"norm": "pre", "convolution": 31, "attention_dropout": 0.0, "max_shift_seconds": 0.0}

PRESETS: Mapping[Preset, tuple[str, Mapping[str, Any]]] = {
    "small": (TRANSFORMER, _OWN | {"dim": 192, "heads": 4, "layers": 8}),
    "base": (TRANSFORMER, _OWN | {"dim": 448, "heads": 7, "layers": 10}),
    # The model of slimIPL (Likhomanenko et al. 2021), with its dropout for 100 transcribed hours.
    "paper": (
        TRANSFORMER,
        {"dim": 768, "heads": 4, "layers": 36, "feedforward": 3072, "norm": "post"}
        | {"dropout": 0.3, "layerdrop": 0.3, "frontend_dropout": 0.3},
    ),
    # Conformer (M) of Gulati et al. 2020, table 1.
    "conformer": (
        "asr_emapl.models.torchaudio_encoders:ConformerCtc",
        {"dim": 256, "heads": 4, "layers": 16, "convolution": 31},
    ),
}
"""Import path and options of each preset."""

"""Audio files of noise, for the corpora that tests make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile


def noise(path: Path, seconds: float = 0.2, rate: int = 16000, channels: int = 1) -> Path:
    """An audio file, its format by its ending; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(0).standard_normal((round(seconds * rate), channels))
    soundfile.write(path, samples, rate)
    return path


def cut(path: Path) -> Path:
    """Leave the first half of a file, under the header of the whole."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path

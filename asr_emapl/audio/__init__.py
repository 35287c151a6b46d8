"""Audio: decoding, log-mel features, augmentation. Importing this package does not load torchaudio."""

from __future__ import annotations

SAMPLE_RATE_HZ = 16_000
"""Samples per second of every waveform inside the toolkit; files of another rate are resampled on reading."""

MAX_SECONDS = 1e7
"""No duration or offset is longer, so that the samples of a million of them fit in 64 bits."""

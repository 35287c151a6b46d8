"""Audio: decoding, log-mel features, augmentation. Importing this package does not load torchaudio."""

from __future__ import annotations

SAMPLE_RATE_HZ = 16_000
"""Sample rate of all waveforms in the toolkit; files of another rate are resampled when they are read."""

MAX_SECONDS = 1e7
"""Maximum duration or offset in seconds; the total samples of a million utterances still fit in 64 bits."""

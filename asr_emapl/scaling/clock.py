"""The clock of a run: audio consumed, in integer samples, so that rounding errors do not accumulate."""

from __future__ import annotations


class AudioClock:
    """Counts the audio that a run has consumed over all ranks. It replaces step counts in all schedules."""

    def __init__(self, sample_rate_hz: int = 16_000, samples: int = 0) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.samples = samples

    @property
    def seconds(self) -> float:
        """Audio consumed, in seconds."""
        return self.samples / self.sample_rate_hz

    @property
    def hours(self) -> float:
        """Audio consumed, in hours."""
        return self.samples / (3600 * self.sample_rate_hz)

    def advance(self, samples: int) -> None:
        """Add the samples of one step (over all ranks).

        Raises:
            ValueError: samples is negative.
        """
        if samples < 0:
            raise ValueError(f"samples of a step must not be negative, got {samples}")
        self.samples += samples

    def passed(self, every_hours: float | None, since_samples: int) -> bool:
        """Whether a multiple of `every_hours` is in (since, now]; False if it is None."""
        if every_hours is None:
            return False
        period = every_hours * 3600 * self.sample_rate_hz
        return int(self.samples // period) > int(since_samples // period)

    def state_dict(self) -> dict[str, int]:
        """Samples consumed and the sample rate."""
        return {"samples": self.samples, "sample_rate_hz": self.sample_rate_hz}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore a saved clock."""
        self.samples, self.sample_rate_hz = state["samples"], state["sample_rate_hz"]

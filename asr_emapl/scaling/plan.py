"""kappa over a run: one definition for the optimizer, the teacher, and all that moves with the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from asr_emapl.scaling.averages import require_kappa
from asr_emapl.scaling.progressive import BatchSchedule


@dataclass(frozen=True)
class ScalingPlan:
    """How much audio a step has at each batch of a run, and at the reference: kappa is their ratio.

    A batch is stated in padded seconds, since that is what fits a device. What is learned from is the audio
    in it, and the share of padding depends on the batch: kappa is the mean *unpadded* audio of a step over
    that of a reference step.

    Args:
        batches: padded seconds of a step over hours of audio consumed.
        reference: padded seconds of a reference step.
        audio: batch in padded seconds -> mean unpadded seconds of a step, for the reference and all batches.
        measured: whether `audio` comes from the corpora; else it is the padded seconds themselves.

    Raises:
        ValueError: a batch has no audio, or one whose kappa is not positive and finite.
    """

    batches: BatchSchedule
    reference: float
    audio: Mapping[float, float]
    measured: bool = True

    def __post_init__(self) -> None:
        for seconds in (self.reference, *self.batches.all):
            if seconds not in self.audio:
                raise ValueError(f"the audio of a step of {seconds:g} s is not known")
        for kappa in self.kappas:
            require_kappa(kappa)

    @staticmethod
    def nominal(batches: BatchSchedule, reference: float) -> ScalingPlan:
        """Without the corpora at hand: as if nothing were padded."""
        return ScalingPlan(batches, reference, {s: s for s in (reference, *batches.all)}, measured=False)

    @property
    def reference_audio(self) -> float:
        """Mean unpadded audio of a reference step, in seconds."""
        return self.audio[self.reference]

    @property
    def kappas(self) -> list[float]:
        """Of all batches of the run, in order."""
        return [self.kappa_of(self.audio[seconds]) for seconds in self.batches.all]

    def step_audio(self, hours: float) -> float:
        """Mean unpadded audio of a step once `hours` have been consumed, in seconds."""
        return self.audio[self.batches.seconds(hours)]

    def kappa(self, hours: float = 0.0) -> float:
        """kappa once `hours` have been consumed; exactly 1 at the reference batch."""
        return self.kappa_of(self.step_audio(hours))

    def kappa_of(self, audio: float) -> float:
        """kappa of a single step with so much unpadded audio, in seconds."""
        return audio / self.reference_audio

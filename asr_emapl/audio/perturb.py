"""Perturbation of the student's waveforms: speed, then reverberation, then noise.

The teacher gets the clean waveform. Each draw is seeded by (run's seed, utterance, pass), so that an
utterance gets the same perturbation in any batch, on any rank, before and after a resume.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from asr_emapl.audio.amplitude import amplitude_fault
from asr_emapl.audio.augment import draw_seed
from asr_emapl.audio.noise import Noise, NoiseConfig
from asr_emapl.audio.reverberation import Reverberation, ReverberationConfig
from asr_emapl.audio.speed import Speed, SpeedConfig
from asr_emapl.errors import UserError


@dataclass
class PerturbConfig:
    """Perturbations of the student's waveform; null: none of that kind."""

    speed: SpeedConfig | None = None
    reverberation: ReverberationConfig | None = None
    noise: NoiseConfig | None = None


@dataclass(frozen=True)
class Perturbation:
    """Those of `PerturbConfig` that a run uses."""

    speed: Speed | None = None
    reverberation: Reverberation | None = None
    noise: Noise | None = None

    def samples(self, samples: int, *draw: int | str) -> int:
        """Length at most of an utterance of `samples` once it is perturbed by `draw`."""
        if self.speed is None:
            return samples
        return self.speed.samples(samples, self.speed.draw(draw_seed(*draw, "speed")))

    def __call__(self, waveform: Tensor, *draw: int | str) -> Tensor:
        """The waveform [samples] perturbed.

        Args:
            draw: names the draw: the run's seed, the utterance, the pass.

        Raises:
            UserError: a noise or an impulse response cannot be decoded, or the result is not finite or too
                large: a recording that is all but silent is amplified beyond all bounds.
        """
        if self.speed is not None:
            waveform = self.speed(waveform, self.speed.draw(draw_seed(*draw, "speed")))
        if self.reverberation is not None:
            waveform = self.reverberation(waveform, draw_seed(*draw, "reverberation"))
        if self.noise is not None:
            waveform = self.noise(waveform, draw_seed(*draw, "noise"))
        fault = amplitude_fault(waveform.numpy())
        if fault is not None:
            raise UserError(
                f"the perturbed waveform {fault} (leave recordings that are all but silent out of "
                "perturb.noise.manifests and perturb.reverberation.manifests)"
            )
        return waveform

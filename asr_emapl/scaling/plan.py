"""Compute all hyper-parameters of a step from its batch, the scaling rule and the schedules.

kappa is the unpadded audio of a step over that of a reference step, for both the optimizer and the teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from asr_emapl.scaling.averages import momentum, require_kappa
from asr_emapl.scaling.gradient_noise import GradientNoise, NoiseAverage, scale_clip_norm
from asr_emapl.scaling.progressive import BatchSchedule
from asr_emapl.scaling.rules import scale_hyperparameters
from asr_emapl.scaling.schedule import Schedule

AudioPerStep = Literal["actual", "nominal"]
"""actual: the audio of each step; nominal: the mean audio of a step at its batch."""
TeacherAudioPerStep = Literal["actual", "nominal", "gained"]
"""gained: the audio by which the clock advances, which is less than the audio consumed with AdaScale."""


# Optimizers with a rule for AdaScale.
_ADASCALE = ("sgd", "adam", "adamw")


@dataclass(frozen=True)
class StepAudio:
    """Mean unpadded audio of a step at each batch of a run and at the reference batch.

    A batch is specified in padded seconds, which determine the memory. The share of padding depends on the
    batch, so kappa is computed from the unpadded audio.

    Args:
        batches: padded seconds of a step as a function of hours of audio consumed.
        reference: padded seconds of a reference step.
        audio: padded seconds -> mean unpadded seconds of a step, for the reference and all batches.
        measured: whether `audio` was measured on the corpora; if not, it equals the padded seconds.

    Raises:
        ValueError: the audio of a batch is unknown, or its kappa is not positive and finite.
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
    def nominal(batches: BatchSchedule, reference: float) -> StepAudio:
        """Assume that batches have no padding, if there are no corpora."""
        return StepAudio(batches, reference, {s: s for s in (reference, *batches.all)}, measured=False)

    @property
    def reference_seconds(self) -> float:
        """Mean unpadded audio of a reference step, in seconds."""
        return self.audio[self.reference]

    @property
    def kappas(self) -> list[float]:
        """kappa of each batch of the run, in order."""
        return [self.kappa_of(self.audio[seconds]) for seconds in self.batches.all]

    def seconds(self, hours: float = 0.0) -> float:
        """Mean unpadded audio of a step after `hours` of audio, in seconds."""
        return self.audio[self.batches.seconds(hours)]

    def kappa(self, hours: float = 0.0) -> float:
        """kappa of the batch after `hours` of audio; exactly 1 at the reference batch."""
        return self.kappa_of(self.seconds(hours))

    def kappa_of(self, seconds: float) -> float:
        """kappa of one step with `seconds` of unpadded audio."""
        return seconds / self.reference_seconds


@dataclass(frozen=True)
class ReferenceOptimizer:
    """An optimizer at the reference batch, and the rule that scales it.

    Args:
        name: name of the optimizer; see `scale_hyperparameters`.
        group: hyper-parameters with the names of torch's param groups, including "lr".
        clip_norm: maximum norm of the mean gradient; None: no clipping.
        rule: "full": scale everything; "none": scale nothing; "adascale": scale everything with the measured
            gain r in place of kappa (see `ScalingPlan`).
        beta_form: "power" or "linear", for optimizers with betas.
        noise_share: share of noise in the gradient's mean square (see `scaling.gradient_noise`).
        rescale_moments: rescale second moments when kappa changes (see `rescale_optimizer_state`).
        audio_per_step: audio from which kappa is computed.
    """

    name: str
    group: Mapping[str, Any]
    clip_norm: float | None = None
    rule: Literal["full", "none", "adascale"] = "full"
    beta_form: str = "power"
    noise_share: float = 1.0
    rescale_moments: bool = False
    audio_per_step: AudioPerStep = "nominal"

    @property
    def scales_betas(self) -> bool:
        """Whether the optimizer has betas and the rule scales them."""
        return self.rule != "none" and "betas" in self.group

    def at(self, kappa: float) -> tuple[dict[str, Any], float | None]:
        """The param group and the clipping threshold at `kappa`.

        Raises:
            ValueError: the rule is not defined at this kappa.
        """
        if self.rule == "none":
            return dict(self.group), self.clip_norm
        beta_form = self.beta_form if "betas" in self.group else "power"
        group = scale_hyperparameters(
            self.name, dict(self.group), kappa, beta_form=beta_form, noise_share=self.noise_share
        )
        if self.clip_norm is None:
            return group, None
        return group, scale_clip_norm(self.clip_norm, kappa, noise_share=self.noise_share)


@dataclass(frozen=True)
class StepHyperparameters:
    """Hyper-parameters of one optimizer step that depend on kappa or on the clock.

    Attributes:
        kappa: kappa of the optimizer's batch.
        gain: kappa for which the optimizer's hyper-parameters are scaled: AdaScale's r, otherwise kappa.
        progress: audio by which the clock advances, by audio consumed: r / kappa with AdaScale, otherwise 1.
        param_group: torch's param group; its "lr" includes the learning-rate schedule.
        clip_norm: maximum norm of the mean gradient; None: no clipping.
        teacher_audio: seconds of audio of this step for the teacher.
        clock_seconds: audio on the clock up to the middle of this step, where schedules are evaluated.
        half_life_seconds: half-life of the teacher.
        rho: momentum of the teacher in this step, 2 ** (-teacher_audio / half_life_seconds).
    """

    kappa: float
    gain: float
    progress: float
    param_group: dict[str, Any]
    clip_norm: float | None
    teacher_audio: float
    clock_seconds: float
    half_life_seconds: float
    rho: float

    @property
    def lr(self) -> float:
        """Learning rate, including the schedule."""
        return float(self.param_group["lr"])

    @property
    def half_life_hours(self) -> float:
        """Half-life of the teacher in hours of audio."""
        return self.half_life_seconds / 3600.0


@dataclass(frozen=True)
class ScalingPlan:
    """The hyper-parameters of every step of a run, as a pure function of the clock and the step's audio.

    What a run measures is an input too: `observe` returns the plan that follows from a measurement.

    AdaScale (Johnson et al. 2020, cited from memory): a step at kappa makes r times the progress of a
    reference step, 1 <= r <= kappa, where r is the ratio of the mean squared gradients (`NoiseAverage.gain`),
    measured in the steps before. Training is counted in gained steps: here, the clock advances by r / kappa
    of the audio consumed, and all schedules and the end of the run follow this clock. SGD, as published: lr *
    r, momentum unchanged. Adam, derived: the mean square falls by r, so a step with lr * sqrt(r) has r times
    the drift of a reference step. This is the square-root rule at r in place of kappa, with betas ** r, eps /
    sqrt(r) and decoupled decay * sqrt(r). At r = kappa, it is the fixed rule. With teacher_audio_per_step
    "gained", the teacher has rho ** r.

    Args:
        steps: audio of a step at each batch and at the reference batch.
        optimizer: the optimizer at the reference batch.
        schedule: factor on the learning rate over hours of audio.
        half_life: half-life of the teacher in seconds of audio, or a function of the seconds consumed.
        teacher_audio_per_step: audio from which rho is computed.
        noise: average of the gradient noise measured so far; None: nothing depends on it.

    Raises:
        ValueError: the rule is not defined at one of the batches, or the half-life is not positive.
    """

    steps: StepAudio
    optimizer: ReferenceOptimizer
    schedule: Schedule
    half_life: float | Callable[[float], float]
    teacher_audio_per_step: TeacherAudioPerStep = "actual"
    noise: NoiseAverage | None = None

    def __post_init__(self) -> None:
        optimizer = self.optimizer
        if optimizer.rule == "adascale":
            self._require_adascale()
        varies = len(self.steps.batches.all) > 1 or optimizer.audio_per_step == "actual"
        if varies and optimizer.scales_betas and optimizer.beta_form == "linear":
            # With changing batches, bias correction is exact only for the power form.
            raise ValueError("beta_form=linear does not support changing batches; use beta_form=power")
        for kappa in self.steps.kappas:
            optimizer.at(kappa)
        self.at(0.0)

    def _require_adascale(self) -> None:
        optimizer = self.optimizer
        if optimizer.name not in _ADASCALE or self.noise is None:
            raise ValueError(f"rule=adascale needs measured noise and one of {', '.join(_ADASCALE)}")
        if optimizer.beta_form != "power" or optimizer.noise_share != 1.0 or optimizer.rescale_moments:
            raise ValueError(
                "rule=adascale requires beta_form=power, noise_share=1 and rescale_moments=false, because "
                "the gain is measured"
            )
        if optimizer.audio_per_step != "nominal" or min(self.steps.kappas) < 1.0:
            raise ValueError(
                "rule=adascale requires audio_per_step=nominal and batches of at least the reference batch"
            )

    def at(self, hours: float, step_audio: float | None = None) -> StepHyperparameters:
        """The hyper-parameters of a step.

        Schedules are evaluated in the middle of the step's audio. One large step is then equivalent to the
        small steps it replaces, and the first step of a warm-up has a learning rate above 0.

        Args:
            hours: audio on the clock before the step.
            step_audio: unpadded audio of the step in seconds; None: the mean at the current batch.
        """
        mean = self.steps.seconds(hours)
        audio = mean if step_audio is None else step_audio
        kappa = self.steps.kappa_of(audio if self.optimizer.audio_per_step == "actual" else mean)
        gain = kappa if self.optimizer.rule != "adascale" or self.noise is None else self.noise.gain(kappa)
        progress = gain / kappa
        middle = hours + progress * audio / 7200.0
        group, clip_norm = self.optimizer.at(gain)
        group["lr"] *= self.schedule.factor(middle)
        teacher_audio = {"actual": audio, "nominal": mean, "gained": progress * audio}[
            self.teacher_audio_per_step
        ]
        half_life = self.half_life(3600.0 * middle) if callable(self.half_life) else self.half_life
        return StepHyperparameters(
            kappa,
            gain,
            progress,
            group,
            clip_norm,
            teacher_audio,
            3600.0 * middle,
            half_life,
            momentum(half_life, teacher_audio),
        )

    def observe(self, noise: GradientNoise | None, kappa: float, hours: float) -> ScalingPlan:
        """The plan after a step whose gradient noise was measured; its batch may have doubled.

        Args:
            noise: None: not measured, and the plan is returned unchanged.
            kappa: kappa of the step.
            hours: audio consumed, including that of the step.
        """
        if noise is None or self.noise is None:
            return self
        average = self.noise.after(noise, kappa, 3600.0 * hours)
        batches = self.steps.batches
        since = batches.changes[-1][0] if batches.changes else 0.0
        growth = batches.growth if batches.candidates else None
        if growth is not None and growth.is_due(average, self.steps.kappa(hours), 3600.0 * since):
            batches = batches.doubled(hours)
        return replace(self, noise=average, steps=replace(self.steps, batches=batches))

    def state_dict(self) -> dict[str, Any]:
        """What the run has measured, and how its batch has grown; empty if nothing depends on it."""
        if self.noise is None:
            return {}
        changes = [list(change) for change in self.steps.batches.changes]
        return {"noise": asdict(self.noise), "changes": changes}

    def with_state(self, state: Mapping[str, Any]) -> ScalingPlan:
        """The plan with a saved state; the half-life of the average does not change.

        Raises:
            ValueError: the audio of a step at a saved batch is not known.
        """
        if self.noise is None or not state:
            return self
        noise = NoiseAverage(**state["noise"] | {"half_life": self.noise.half_life})
        batches = self.steps.batches
        if batches.growth is not None:
            batches = replace(batches, changes=tuple((hours, batch) for hours, batch in state["changes"]))
        return replace(self, noise=noise, steps=replace(self.steps, batches=batches))

"""Serial steps and wall-clock time of a batch schedule against the reference batch: `asr-emapl scale`.

A larger batch takes fewer steps over the same audio. It saves time only as far as its steps take less than
kappa times as long, which depends on the hardware. Without measured times, every step is assumed to take the
same time, as if the number of devices grew with the batch. This is the idealised account behind "a sixth of
the steps" in Busbridge et al. 2023 (a batch of 24,576 instead of 4,096).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from asr_emapl.errors import UserError
from asr_emapl.scaling import StepAudio
from asr_emapl.scaling.range import count, number


@dataclass(frozen=True)
class StepTimes:
    """Measured times of optimizer steps.

    Args:
        milliseconds: (padded seconds of a batch, milliseconds of a step), by increasing batch; may be empty.
    """

    milliseconds: tuple[tuple[float, float], ...] = ()

    @staticmethod
    def parse(texts: Iterable[str]) -> StepTimes:
        """Read texts of the form SECONDS=MS.

        Raises:
            UserError: a text has another form, a number is not positive, or a batch is given twice.
        """
        found: dict[float, float] = {}
        for text in texts:
            batch, _, milliseconds = text.partition("=")
            try:
                pair = float(batch), float(milliseconds)
            except ValueError:
                pair = (0.0, 0.0)
            if not all(0.0 < value <= 1e9 for value in pair):
                raise UserError(f"--step-time {text!r}: write SECONDS=MS, with numbers above 0, up to 1e9")
            if pair[0] in found:
                raise UserError(f"--step-time: the time of a step of {pair[0]:g} s is given twice")
            found[pair[0]] = pair[1]
        return StepTimes(tuple(sorted(found.items())))

    def of(self, batch: float) -> tuple[float, str]:
        """Time of a step at a batch, and its source: "measured", "interpolated" or "idealised: ...".

        Between two measured batches, the time is interpolated linearly. Beyond them, it is that of the next
        one. Without measured times, it is 1.
        """
        if not self.milliseconds:
            return 1.0, "idealised: as at every batch"
        batches = [seconds for seconds, _ in self.milliseconds]
        i = bisect_left(batches, batch)
        if i < len(batches) and batches[i] == batch:
            return self.milliseconds[i][1], "measured"
        if i in (0, len(batches)):
            seconds, time = self.milliseconds[0 if i == 0 else -1]
            return time, f"idealised: as at {number(seconds)} s"
        (before, low), (after, high) = self.milliseconds[i - 1 : i + 1]
        return low + (high - low) * (batch - before) / (after - before), "interpolated"


@dataclass(frozen=True)
class ClockedStage:
    """A stage of a run, or the whole run at one batch.

    Attributes:
        from_hours, to_hours: its audio.
        batch_seconds: padded seconds of a step.
        steps: number of optimizer steps, one after the other.
        step_time: time of a step, in milliseconds; 1 without measured times.
        source: where the time comes from; see `StepTimes.of`.
    """

    from_hours: float
    to_hours: float
    batch_seconds: float
    kappa: float
    steps: float
    step_time: float
    source: str

    @property
    def time(self) -> float:
        """Time of all steps, in milliseconds or in steps."""
        return self.steps * self.step_time


@dataclass(frozen=True)
class WallClock:
    """The account of a batch schedule.

    Attributes:
        stages: stages of the schedule.
        reference: the same audio at the reference batch.
        is_measured: whether there are measured times.
    """

    stages: Sequence[ClockedStage]
    reference: ClockedStage
    is_measured: bool

    @property
    def steps(self) -> float:
        """Serial steps of the schedule."""
        return sum(stage.steps for stage in self.stages)

    @property
    def fewer_steps(self) -> float:
        """Steps at the reference batch, divided by those of the schedule."""
        return self.reference.steps / self.steps

    @property
    def speedup(self) -> float:
        """Time at the reference batch, divided by that of the schedule."""
        return self.reference.time / sum(stage.time for stage in self.stages)

    @property
    def is_idealised(self) -> bool:
        """Whether a step time is assumed, not measured."""
        return any("idealised" in stage.source for stage in (*self.stages, self.reference))

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows of a table."""
        unit = "s" if self.is_measured else "reference steps"
        head = ["", "batch (s)", "kappa", "steps", *(["ms per step"] if self.is_measured else [])]
        rows = [self._row(f"{number(s.from_hours)} to {number(s.to_hours)} h", s) for s in self.stages] + [
            self._row("reference batch", self.reference)
        ]
        return [*head, f"time ({unit})", "step time"], rows

    def summary(self) -> str:
        """One sentence on steps and time."""
        text = (
            f"{count(self.steps)} serial steps instead of {count(self.reference.steps)}: "
            f"{number(self.fewer_steps)} times fewer; {number(self.speedup)} times as fast"
        )
        if not self.is_idealised:
            return text
        return (
            f"{text} (idealised: steps of larger batches are assumed to take no longer, because the devices "
            "grow with the batch; give measured times with --step-time)"
        )

    def to_dict(self) -> dict[str, Any]:
        """The account as plain data."""
        numbers = {key: getattr(self, key) for key in ("steps", "fewer_steps", "speedup", "is_idealised")}
        return {"stages": [vars(stage) for stage in self.stages], "reference": vars(self.reference)} | numbers

    def _row(self, name: str, stage: ClockedStage) -> list[str]:
        time = stage.time / 1000.0 if self.is_measured else stage.time
        row = [name, number(stage.batch_seconds), number(stage.kappa), count(stage.steps)]
        row += [number(stage.step_time)] if self.is_measured else []
        return [*row, count(time), stage.source]


def wall_clock(steps: StepAudio, hours: float, times: StepTimes | None = None) -> WallClock:
    """The account of the batches of a run of `hours` of audio."""
    times = StepTimes() if times is None else times

    def stage(start: float, end: float, seconds: float) -> ClockedStage:
        audio = steps.audio[seconds]
        taken = 3600.0 * (end - start) / audio
        return ClockedStage(start, end, seconds, steps.kappa_of(audio), taken, *times.of(seconds))

    stages = [stage(*each) for each in steps.batches.stages(hours)]
    return WallClock(stages, stage(0.0, hours, steps.reference), bool(times.milliseconds))

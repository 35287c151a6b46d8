"""The log of a run: log.jsonl (metrics), speed.jsonl (wall-clock times), TensorBoard, and terminal lines.

log.jsonl does not depend on the speed of the machine, so the log of a resumed run is identical to that of an
uninterrupted one.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_emapl.checkpoints.async_save import Saved
from asr_emapl.errors import counted
from asr_emapl.objectives.step_result import StepResult
from asr_emapl.pseudo_labels.label_guard import Alarm
from asr_emapl.pseudo_labels.quality import pseudo_label_quality
from asr_emapl.runs.line_file import LineFile
from asr_emapl.scaling import StepHyperparameters
from asr_emapl.terminal import RUN_LOGGER

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


_logger = logging.getLogger(RUN_LOGGER)
# Why utterances were excluded from a validation, by split and id.
LeftOut = Mapping[str, Mapping[str, str]]
# Hyper-parameters of a step that are logged.
_HYPERPARAMETERS = ("lr", "rho", "kappa", "gain", "half_life_hours")
# Maximum number of excluded utterances that are listed per split and validation.
_NAMED = 3


class RunLog:
    """Writes a run's metrics; does nothing on processes other than the first.

    Args:
        folder: the run directory.
        lines: number of lines of log.jsonl to keep; later lines, from a killed run, are removed.
        total_hours: audio of the whole run, to estimate the remaining time.
        every_seconds: wall-clock time between terminal lines.
    """

    def __init__(
        self,
        folder: Path,
        *,
        active: bool = True,
        lines: int = 0,
        step: int = 0,
        total_hours: float = 0.0,
        every_seconds: float = 10.0,
    ) -> None:
        self.active, self.lines = active, lines
        self.total_hours, self.every_seconds = total_hours, every_seconds
        self._since: tuple[float, float] | None = None
        self._told_saved: float | None = None
        self._recent: list[tuple[bool, StepResult]] = []
        self._named: set[tuple[str, str]] = set()
        self._warned: set[str] = set()
        self._skipped = SkippedSteps(every_seconds)
        if not active:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._file = LineFile(folder / "log.jsonl", lines)
        self.lines = self._file.lines
        self._speed = LineFile(folder / "speed.jsonl")
        self._board: SummaryWriter | None = None
        if importlib.util.find_spec("tensorboard") is None:
            self.say(
                "no TensorBoard events: tensorboard is not installed; "
                "run pip install '.[tensorboard]' in the checkout"
            )
            return
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def step(
        self, step: int, hours: float, labelled: bool, result: StepResult, used: StepHyperparameters
    ) -> None:
        """Log one optimizer step, and print a line every `every_seconds`."""
        if not self.active:
            return
        extra = {name: float(getattr(used, name)) for name in _HYPERPARAMETERS}
        record: dict[str, Any] = {
            "event": "step",
            "step": step,
            "hours": hours,
            "kind": "labelled" if labelled else "unlabelled",
            "loss": result.loss,
            "gradient_norm": result.gradient_norm,
            "utterances": result.utterances,
            "tokens": result.tokens,
            "taken": result.taken,
            **extra,
        }
        if result.dropped:
            record["dropped"] = dict(sorted(result.dropped.items()))
        record |= result.statistics
        if result.confidence is not None:
            record |= {"confidence": result.confidence, "nonempty": result.nonempty}
        if result.noise is not None:
            record["gradient_noise"] = [result.noise.variance, result.noise.mean_square]
        self._write(record)
        self._recent.append((labelled, result))
        now = time.monotonic()
        skipped = self._skipped.step(step, labelled, result, now)
        if skipped is not None:
            self.say(skipped)
        if self._since is None:
            self._since = (now, hours)
        elif now - self._since[0] >= self.every_seconds:
            self._report(step, hours, now - self._since[0], hours - self._since[1], extra)
            self._since, self._recent = (now, hours), []

    def batch(self, step: int, hours: float, seconds: float, noise_share: float | None) -> None:
        """Log that the batch has doubled to `seconds`, and the share of noise at the batch before."""
        if self.active:
            growth = {"seconds": seconds, "noise_share": noise_share}
            self._write({"event": "batch", "step": step, "hours": hours, **growth})

    def _report(
        self, step: int, hours: float, seconds: float, audio_hours: float, extra: dict[str, float]
    ) -> None:
        """Print and plot speed, losses and label quality since the last printed line."""
        speed = audio_hours / seconds
        scalars = {"speed/hours_per_second": speed, **{f"schedule/{k}": v for k, v in extra.items()}}
        parts = [f"{hours:7.3f}/{self.total_hours:g} h", f"{speed * 3600:5.0f} x real time"]
        parts.append(f"ETA {_duration((self.total_hours - hours) / speed) if speed > 0.0 else '?'}")
        for kind, chosen in (("labelled", True), ("unlabelled", False)):
            results = [r for labelled, r in self._recent if labelled is chosen]
            if not results:
                continue
            count = sum(r.utterances for r in results)
            loss = sum(r.loss * r.utterances for r in results) / max(1, count)
            parts.append(f"{kind} loss {loss:.2f}")
            scalars[f"loss/{kind}"] = loss
            for name, value in results[-1].statistics.items():
                scalars[f"self_supervised/{name}"] = value
            if results[-1].confidence is not None:
                quality = pseudo_label_quality(results)
                parts.append(f"non-empty labels {100 * quality['nonempty']:.0f} %")
                scalars |= {f"pseudo_labels/{name}": value for name, value in quality.items()}
        self.say(", ".join(parts))
        self._plot_scalars(step, scalars)
        self._write_speed({"step": step, "hours": hours, "hours_per_second": speed})

    def phases(self, step: int, hours: float, ranks: list[dict[str, float]]) -> None:
        """Log the time of each process by phase since the last call; see `Phases.take`."""
        self._write_speed({"step": step, "hours": hours, "ranks": ranks})

    def labels(self, step: int, hours: float, found: dict[str, Any]) -> None:
        """Log the quality of pseudo-labels; see `LabelMonitor.collect`."""
        if self.active and found:
            self._write({"event": "labels", "step": step, "hours": hours, **found})
            numbers = {name: value for name, value in found.items() if isinstance(value, float)}
            audio = found["audio_hours"]
            shares = {f"audio/{reason}": one / sum(audio.values()) for reason, one in audio.items()}
            self._plot_scalars(step, {f"pseudo_labels/{k}": v for k, v in (numbers | shares).items()})
            for one in found.get("followed", ()):
                self._plot_text(one["step"], f"pseudo_labels/{one['id']}", one["text"])

    def alarm(self, step: int, hours: float, alarm: Alarm, *, warn: bool) -> None:
        """Log that labels have collapsed.

        Args:
            warn: also on the terminal, once for each kind.
        """
        if not self.active:
            return
        self._write(
            {"event": "alarm", "step": step, "hours": hours, "reason": alarm.kind, "text": str(alarm)}
        )
        if warn:
            self.warn_once(alarm.kind, hours, str(alarm))

    def warn_once(self, kind: str, hours: float, text: str) -> None:
        """Print a warning, unless one of its kind was printed since the run was started or resumed."""
        if self.active and kind not in self._warned:
            self._warned.add(kind)
            self.say(f"{hours:7.3f}/{self.total_hours:g} h  warning: {text}")

    def validation(
        self, step: int, hours: float, rates: dict[str, float], left_out: LeftOut | None = None
    ) -> None:
        """Log WERs in percent by "model/split", and the excluded utterances."""
        if not self.active:
            return
        left_out = left_out or {}
        record: dict[str, Any] = {"event": "validation", "step": step, "hours": hours, "wer": rates}
        if left_out:
            record["left_out"] = {split: len(lost) for split, lost in left_out.items()}
        self._write(record)
        self._name_left_out(left_out)
        self._plot_scalars(step, {f"wer/{name}": rate for name, rate in rates.items()})
        parts = [f"{name} {rate:.1f}" for name, rate in rates.items()]
        parts += [f"excluded from {split}: {len(lost)}" for split, lost in left_out.items()]
        self.say(f"{hours:7.3f}/{self.total_hours:g} h  WER " + ", ".join(parts))
        self._file.flush()
        self._since = None

    def _name_left_out(self, left_out: LeftOut) -> None:
        """Warn of utterances that are excluded for the first time."""
        for split, lost in left_out.items():
            new = [(id_, why) for id_, why in lost.items() if (split, id_) not in self._named]
            self._named |= {(split, id_) for id_, _ in new}
            for id_, why in new[:_NAMED]:
                self.say(f"warning: validation split {split}: utterance {id_} is excluded from WER: {why}")
            if len(new) > _NAMED:
                self.say(f"warning: validation split {split}: {len(new) - _NAMED} more are excluded")

    def saved(self, saved: Saved) -> None:
        """Report a checkpoint's size and times, at most every `every_seconds`, or that it was not written."""
        if not self.active:
            return
        name = f"checkpoint of step {saved.step}"
        if saved.failure is not None:
            reason = saved.failure.strerror or saved.failure
            self.say(f"warning: {name} could not be written ({reason}); the previous one is kept")
            return
        now, paused = time.monotonic(), saved.wait_s + saved.copy_s
        # A short run saves several checkpoints per second.
        if self._told_saved is None or now - self._told_saved >= self.every_seconds:
            self._told_saved = now
            self.say(
                f"{name}: {saved.bytes / 1e6:.1f} MB in {saved.write_s:.2f} s, paused for {paused:.2f} s"
            )
        fields = ("step", "bytes", "wait_s", "copy_s", "write_s")
        self._write_speed({"event": "checkpoint"} | {field: getattr(saved, field) for field in fields})

    def say(self, text: str) -> None:
        """Print a line on the terminal."""
        if self.active:
            _logger.info("%s", text)

    def flush(self) -> None:
        """Flush all files; call it before a checkpoint records `lines`."""
        if self.active:
            self._file.flush()
            self._plot(lambda board: board.flush())

    def close(self) -> None:
        """Report the number of skipped steps and close all files."""
        if self.active:
            skipped = self._skipped.total()
            if skipped is not None:
                self.say(skipped)
            self._file.close()
            self._speed.close()
            self._plot(lambda board: board.close())

    def _write(self, record: dict[str, Any]) -> None:
        try:
            line = json.dumps(record, allow_nan=False)
        except ValueError:  # write NaN and infinities, which JSON lacks, as null
            line = json.dumps(json.loads(json.dumps(record), parse_constant=lambda name: None))
        self._file.write(line)
        self.lines = self._file.lines

    def _write_speed(self, record: dict[str, Any]) -> None:
        if self.active:
            self._speed.write(json.dumps(record))
            self._speed.flush()

    def _plot_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        def add(board: SummaryWriter) -> None:
            for name, value in scalars.items():
                board.add_scalar(name, value, step)

        self._plot(add)

    def _plot_text(self, step: int, name: str, text: str) -> None:
        self._plot(lambda board: board.add_text(name, text, step))

    def _plot(self, act: Callable[[SummaryWriter], None]) -> None:
        """Write to TensorBoard. If that fails, stop using it, because log.jsonl has the same data."""
        if self._board is None:
            return
        try:
            act(self._board)
        except OSError as error:
            self._board = None
            self.say(f"warning: TensorBoard gets no more data until the run is restarted ({error.strerror})")


def _duration(seconds: float) -> str:
    minutes, seconds_left = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds_left:02d}"


class SkippedSteps:
    """Counts steps without a weight update; warns at most once in `every_seconds`."""

    def __init__(self, every_seconds: float) -> None:
        self.every_seconds = every_seconds
        self.steps = self.skipped = self._unreported = 0
        self._named_at: float | None = None

    def step(self, number: int, labelled: bool, result: StepResult, now: float) -> str | None:
        """Count a step; return a warning if it was skipped and a warning is due.

        Args:
            now: time of a monotonic clock in seconds.
        """
        self.steps += 1
        if result.taken:
            return None
        self.skipped += 1
        if self._named_at is not None and now - self._named_at < self.every_seconds:
            self._unreported += 1
            return None
        others = (
            f" ({counted(self._unreported, 'other step')} since the last warning)" if self._unreported else ""
        )
        self._named_at, self._unreported = now, 0
        return f"warning: step {number} was skipped: {_why(labelled, result)}{others}"

    def total(self) -> str | None:
        """The warning at the end of a run; None if no step was skipped."""
        if not self.skipped:
            return None
        return f"warning: {self.skipped} of {self.steps} steps were skipped; asr-emapl report shows why"


def _why(labelled: bool, result: StepResult) -> str:
    if result.utterances:
        return "its gradient is not finite"
    kind = "labelled" if labelled else "unlabelled"
    reasons = ", ".join(f"{count} {reason}" for reason, count in result.dropped.most_common())
    count = result.dropped.total()
    if count == 1:
        return f"its only {kind} utterance was dropped ({reasons})"
    return f"all {count} {kind} utterances were dropped ({reasons})"

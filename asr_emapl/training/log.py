"""What a run says of itself: log.jsonl (exact), speed.jsonl (wall-clock), TensorBoard, and lines to read.

log.jsonl holds nothing that depends on the machine's mood, so that the log of a resumed run can be compared
with that of an uninterrupted one digit for digit. Times go to speed.jsonl.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_emapl.checkpoints.async_save import Saved
from asr_emapl.pseudo_labels.quality import pseudo_label_quality
from asr_emapl.runs.line_file import LineFile
from asr_emapl.scaling import StepHyperparameters
from asr_emapl.storage import parse_object, raw_lines
from asr_emapl.training.step import StepResult

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


_logger = logging.getLogger(__name__)
# By split, why utterances were left out of a validation, by id.
LeftOut = Mapping[str, Mapping[str, str]]
# Hyper-parameters of a step that the log keeps.
_HYPERPARAMETERS = ("lr", "rho", "kappa", "half_life_hours")
# Utterances of a split that are named when they are left out of a validation.
_NAMED = 3


class RunLog:
    """Writes a run's metrics; on a process that is not the first, does nothing.

    Args:
        folder: the run directory.
        lines: lines of log.jsonl to keep; what a killed run wrote after its last checkpoint is cut off.
        total_hours: of audio, for the time left.
        every_seconds: of wall-clock between lines on the terminal.
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
        self._recent: list[tuple[bool, StepResult]] = []
        self._told: set[tuple[str, str]] = set()
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
                "no TensorBoard events: tensorboard is not installed; pip install 'asr_emapl[tensorboard]'"
            )
            return
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def step(
        self, step: int, hours: float, labelled: bool, result: StepResult, used: StepHyperparameters
    ) -> None:
        """One optimizer step: a line in the log, now and then one on the terminal."""
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
            self._tell(step, hours, now, extra)

    def _tell(self, step: int, hours: float, now: float, extra: dict[str, float]) -> None:
        assert self._since is not None
        then, hours_then = self._since
        speed = (hours - hours_then) / (now - then)
        left = (self.total_hours - hours) / speed if speed > 0.0 else float("inf")
        scalars = {"speed/hours_per_second": speed, **{f"schedule/{k}": v for k, v in extra.items()}}
        parts = [
            f"{hours:7.3f}/{self.total_hours:g} h",
            f"{speed * 3600:5.0f} x real time",
            f"ETA {_clock(left)}",
        ]
        for kind, chosen in (("labelled", True), ("unlabelled", False)):
            results = [r for labelled, r in self._recent if labelled is chosen]
            count = sum(r.utterances for r in results)
            if not results:
                continue
            loss = sum(r.loss * r.utterances for r in results) / max(1, count)
            parts.append(f"{kind} loss {loss:.2f}")
            scalars[f"loss/{kind}"] = loss
            if not chosen:
                quality = pseudo_label_quality(results)
                parts.append(f"non-empty labels {100 * quality['nonempty']:.0f} %")
                scalars |= {f"pseudo_labels/{name}": value for name, value in quality.items()}
        self.say(", ".join(parts))
        self._plot(lambda board: _add(board, scalars, step))
        self._speed.write(json.dumps({"step": step, "hours": hours, "hours_per_second": speed}))
        self._speed.flush()
        self._since, self._recent = (now, hours), []

    def phases(self, step: int, hours: float, ranks: list[dict[str, float]]) -> None:
        """What each process's time went to since the last call; see `Phases.take`."""
        if self.active:
            self._speed.write(json.dumps({"step": step, "hours": hours, "ranks": ranks}))
            self._speed.flush()

    def validation(
        self, step: int, hours: float, rates: dict[str, float], left_out: LeftOut | None = None
    ) -> None:
        """WER by "model/split", in percent; by split, why utterances were left out of it, by id."""
        if not self.active:
            return
        left_out = left_out or {}
        record: dict[str, Any] = {"event": "validation", "step": step, "hours": hours, "wer": rates}
        if left_out:
            record["left_out"] = {split: len(lost) for split, lost in left_out.items()}
        self._write(record)
        self._tell_left_out(left_out)
        scalars = {f"wer/{name}": rate for name, rate in rates.items()}
        self._plot(lambda board: _add(board, scalars, step))
        parts = [f"{name} {rate:.1f}" for name, rate in rates.items()]
        parts += [f"left out of {split}: {len(lost)}" for split, lost in left_out.items()]
        self.say(f"{hours:7.3f}/{self.total_hours:g} h  WER " + ", ".join(parts))
        self._file.flush()
        self._since = None

    def _tell_left_out(self, left_out: LeftOut) -> None:
        """Name utterances when they are left out for the first time."""
        for split, lost in left_out.items():
            new = [(id_, why) for id_, why in lost.items() if (split, id_) not in self._told]
            self._told |= {(split, id_) for id_, _ in new}
            for id_, why in new[:_NAMED]:
                self.say(f"warning: validation split {split}: utterance {id_} is left out of the WER: {why}")
            if len(new) > _NAMED:
                self.say(f"warning: validation split {split}: {len(new) - _NAMED} more are left out")

    def saved(self, saved: Saved) -> None:
        """What became of a checkpoint: its size and times, or a warning that there is none."""
        if not self.active:
            return
        name = f"checkpoint of step {saved.step}"
        if saved.failure is not None:
            self.say(
                f"warning: {name} could not be written ({saved.failure.strerror or saved.failure}): the one "
                "before stays and training continues"
            )
            return
        still = saved.wait_s + saved.copy_s
        self.say(f"{name}: {saved.bytes / 1e6:.1f} MB in {saved.write_s:.2f} s, standing still {still:.2f} s")
        fields = ("step", "bytes", "wait_s", "copy_s", "write_s")
        record = {field: getattr(saved, field) for field in fields}
        self._speed.write(json.dumps({"event": "checkpoint"} | record))
        self._speed.flush()

    def event(self, event: str, **fields: Any) -> None:
        """Anything else worth keeping."""
        if self.active:
            self._write({"event": event, **fields})

    def say(self, text: str) -> None:
        """A line for whoever watches."""
        if self.active:
            _logger.info("%s", text)

    def flush(self) -> None:
        """Everything so far onto the disk; before a checkpoint counts the lines."""
        if self.active:
            self._file.flush()
            self._plot(lambda board: board.flush())

    def close(self) -> None:
        """No more is to come."""
        if self.active:
            skipped = self._skipped.total()
            if skipped is not None:
                self.say(skipped)
            self._file.close()
            self._speed.close()
            self._plot(lambda board: board.close())

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(_strict(record), allow_nan=False))
        self.lines = self._file.lines

    def _plot(self, act: Callable[[SummaryWriter], None]) -> None:
        """To TensorBoard, which is given up where its file cannot be written: the log has it all."""
        if self._board is None:
            return
        try:
            act(self._board)
        except OSError as error:
            self._board = None
            self.say(f"warning: no more goes to TensorBoard until the next start ({error.strerror})")


def _add(board: SummaryWriter, scalars: dict[str, float], step: int) -> None:
    for name, value in scalars.items():
        board.add_scalar(name, value, step)


def logged_validation(folder: Path, lines: int, step: int) -> dict[str, float] | None:
    """The rates of the validation of `step`, if the line after the log's first `lines` lines has it.

    A process that was killed may have left that line in pieces.

    Raises:
        UserError: the log is not a regular file, or cannot be read.
    """
    path = folder / "log.jsonl"
    written = raw_lines(path, complete=True) if path.exists() else iter(())
    line = next((line for number, line in written if number > lines), b"")
    try:
        record = parse_object(line)
        if (record["event"], record["step"]) != ("validation", step):
            return None
        return {name: math.nan if rate is None else float(rate) for name, rate in record["wer"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _strict(value: Any) -> Any:
    """Without NaN and infinities, which JSON does not have: null instead."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _clock(seconds: float) -> str:
    if math.isinf(seconds):
        return "?"
    minutes, seconds_left = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds_left:02d}"


class SkippedSteps:
    """Counts steps that moved nothing; at most one line about them in `every_seconds`."""

    def __init__(self, every_seconds: float) -> None:
        self.every_seconds = every_seconds
        self.steps = self.skipped = self._untold = 0
        self._told_at: float | None = None

    def step(self, number: int, labelled: bool, result: StepResult, now: float) -> str | None:
        """Count a step; the line to print about it, if it was skipped and one is due.

        Args:
            now: seconds on a clock that only goes forward.
        """
        self.steps += 1
        if result.taken:
            return None
        self.skipped += 1
        if self._told_at is not None and now - self._told_at < self.every_seconds:
            self._untold += 1
            return None
        others = f" ({self._untold} other steps since the last warning)" if self._untold else ""
        self._told_at, self._untold = now, 0
        return f"warning: step {number} was skipped: {_why(labelled, result)}{others}"

    def total(self) -> str | None:
        """The line to print at the end; None if no step was skipped."""
        if not self.skipped:
            return None
        return f"warning: {self.skipped} of {self.steps} steps were skipped; asr-emapl report says why"


def _why(labelled: bool, result: StepResult) -> str:
    if result.utterances:
        return "its gradient is not finite"
    kind = "labelled" if labelled else "unlabelled"
    reasons = ", ".join(f"{count} {reason}" for reason, count in result.dropped.most_common())
    return f"all {result.dropped.total()} {kind} utterances were dropped ({reasons})"

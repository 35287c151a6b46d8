"""How the time and the audio of a run were spent, and what to change first. Does not import torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.filters import reason_of
from asr_emapl.runs.reader import PHASES, read_log, read_speed

# The advice says nothing about error rates; see `verdict`.
_NORMAL = "speed, padding, dropped utterances and skipped steps are normal"


@dataclass(frozen=True)
class Usage:
    """A run's usage. Shares are of the time of all processes, in [0, 1].

    Attributes:
        seconds: training time without validation and checkpoints, averaged over processes.
        speed: total training audio of all processes divided by `seconds`.
        imbalance: work time of the slowest process divided by the mean; 1 means perfectly balanced.
        padding: share of padding in the padded audio.
        utterances: number of utterances trained on. dropped: number of dropped utterances by reason.
        cores_are_used: whether processes that train and decode use all cores of the machine.
        steps: number of optimizer steps, including skipped ones. Steps are skipped because all utterances
            were dropped (`barren_steps`) or the gradient was not finite (`broken_steps`).
    """

    seconds: float
    speed: float
    shares: dict[str, float]
    processes: int
    imbalance: float
    slowest: int
    padding: float
    utterances: int
    dropped: dict[str, int] = field(default_factory=dict)
    cores_are_used: bool = False
    steps: int = 0
    barren_steps: int = 0
    broken_steps: int = 0

    @property
    def dropped_share(self) -> float:
        """Dropped share of all utterances."""
        lost = sum(self.dropped.values())
        return lost / max(1, self.utterances + lost)

    def advice(self) -> str:
        """One line of advice on time and audio: what to change first, or that all is normal."""
        found = [rule(self) for rule in _RULES]
        costly = max(found, key=lambda one: one[0])
        return costly[1] if costly[0] > 0.0 else _NORMAL


def read_usage(run: Path) -> Usage:
    """Read the usage of a run, which may still be in progress. A resumed run is summed over all its parts.

    Raises:
        UserError: not a run directory, or no timings have been logged yet.
    """
    usage = usage_of(read_log(run / "log.jsonl"), read_speed(run / "speed.jsonl"))
    if usage is None:
        raise no_times(run)
    return usage


def no_times(run: Path) -> UserError:
    """The error to raise if the usage of a run is None."""
    return UserError(f"{run / 'speed.jsonl'}: has no times yet; wait for the run's first 50 steps")


def usage_of(log: Iterable[Mapping[str, Any]], speed: Iterable[Mapping[str, Any]]) -> Usage | None:
    """As `read_usage`, from the records of log.jsonl and of speed.jsonl; None without times."""
    steps = [r for r in log if r.get("event") == "step"]
    timed = [r["ranks"] for r in speed if "ranks" in r]
    if not timed:
        return None
    # A run may be resumed with a different number of processes, so the mean and the slowest process are
    # computed per part.
    by_rank: dict[int, Counter[str]] = {}
    seconds = slowest_work = mean_work = 0.0
    for ranks in timed:
        work = [_work(times) for times in ranks]
        seconds += sum(map(_seconds, ranks)) / len(ranks)
        slowest_work, mean_work = slowest_work + max(work), mean_work + sum(work) / len(work)
        for rank, times in enumerate(ranks):
            by_rank.setdefault(rank, Counter()).update(times)
    total: Counter[str] = Counter()
    for times in by_rank.values():
        total.update(times)
    dropped: Counter[str] = Counter()
    for step in steps:
        dropped.update(step.get("dropped", {}))
    skipped = [step for step in steps if not step.get("taken", True)]
    barren = sum(not step["utterances"] for step in skipped)
    return Usage(
        seconds=seconds,
        speed=total["audio"] / seconds if seconds else 0.0,
        shares={phase: total[phase] / max(_seconds(total), 1e-9) for phase in PHASES},
        processes=len(timed[-1]),
        imbalance=slowest_work / mean_work if mean_work else 1.0,
        slowest=max(by_rank, key=lambda rank: _work(by_rank[rank])),
        padding=1.0 - total["audio"] / total["padded"] if total["padded"] else 0.0,
        utterances=sum(step["utterances"] for step in steps),
        dropped=dict(dropped.most_common()),
        steps=len(steps),
        barren_steps=barren,
        broken_steps=len(skipped) - barren,
    )


def as_record(usage: Usage) -> dict[str, Any]:
    """The usage as a JSON object."""
    return {**vars(usage), "dropped_share": usage.dropped_share, "advice": usage.advice()}


def table(usages: Mapping[str, Usage]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table with one column per run."""
    of = list(usages.values())
    rows = [["throughput, x real time", *(f"{u.speed:.0f}" for u in of)]]
    rows += [[f"time: {phase}", *(f"{100 * u.shares[phase]:.1f} %" for u in of)] for phase in PHASES]
    rows += [
        ["processes", *(str(u.processes) for u in of)],
        ["slowest process / mean", *(f"{u.imbalance:.2f}" for u in of)],
        ["padding", *(f"{100 * u.padding:.1f} %" for u in of)],
        ["utterances trained on", *(f"{u.utterances:,}" for u in of)],
    ]
    rows += [
        ["steps", *(f"{u.steps:,}" for u in of)],
        ["skipped: all dropped", *(f"{u.barren_steps:,}" for u in of)],
        ["skipped: not finite", *(f"{u.broken_steps:,}" for u in of)],
    ]
    reasons = dict.fromkeys(reason for u in of for reason in u.dropped)
    rows += [[f"dropped: {r}", *(f"{u.dropped.get(r, 0):,}" for u in of)] for r in reasons]
    return ["", *usages], rows


def _seconds(times: Mapping[str, float]) -> float:
    return sum(times[phase] for phase in PHASES)


def _work(times: Mapping[str, float]) -> float:
    """Return the seconds of a process without communication, which includes waiting for others."""
    return _seconds(times) - times["communication"]


# Each rule returns the share of the run lost beyond the usual amount (<= 0: nothing lost) and a remedy.


def _data(usage: Usage) -> tuple[float, str]:
    share = usage.shares["data"]
    remedy = "raise data.workers, or pack the audio (asr-emapl shard)"
    if usage.cores_are_used:
        remedy = "pack the audio as FLAC at 16 kHz (asr-emapl shard --codec flac); all cores are in use"
    return share - 0.05, f"{100 * share:.0f} % of the time waits for data: {remedy}"


def _imbalance(usage: Usage) -> tuple[float, str]:
    lost = 1.0 - 1.0 / usage.imbalance
    return lost - 0.05, (
        f"process {usage.slowest} is the slowest, {usage.imbalance:.2f} x the mean: look at what else its "
        "device does, or raise batch.seconds, of which the shares are more even"
    )


def _communication(usage: Usage) -> tuple[float, str]:
    # Waiting for the slowest process also counts as communication; it is covered by `_imbalance`.
    share = usage.shares["communication"] - (1.0 - 1.0 / usage.imbalance)
    remedy = "raise batch.seconds, so that processes exchange gradients less often"
    return share - 0.15, f"{100 * share:.0f} % of the time is communication: {remedy}"


def _padding(usage: Usage) -> tuple[float, str]:
    remedy = "lower batch.shuffle_padding or batch.group_seconds, or raise batch.pool"
    return usage.padding - 0.05, f"{100 * usage.padding:.0f} % of the audio is padding: {remedy}"


def _teacher(usage: Usage) -> tuple[float, str]:
    # By operation count, the teacher costs at most a third of the student (if every step is unlabelled).
    beyond = usage.shares["teacher"] - 0.45 * usage.shares["student"]
    return beyond - 0.02, (
        f"the teacher takes {100 * usage.shares['teacher']:.0f} % of the time, the student "
        f"{100 * usage.shares['student']:.0f} %: device.precision=bf16, or a larger "
        "device.max_seconds; with a beam search, pseudo_labels.search_workers and label_ahead"
    )


def _optimizer(usage: Usage) -> tuple[float, str]:
    share = usage.shares["optimizer"]
    remedy = "raise batch.seconds, the rule keeps the run the same"
    return share - 0.15, f"{100 * share:.0f} % of the time is the optimizer's: {remedy}"


def _dropped(usage: Usage) -> tuple[float, str]:
    reason = next(iter(usage.dropped), "")
    share = usage.dropped_share
    told = f"{100 * share:.0f} % of the utterances are dropped, most as {reason}: {reason_of(reason).remedy}"
    return share - 0.05, told


def _broken(usage: Usage) -> tuple[float, str]:
    share = usage.broken_steps / max(1, usage.steps)
    remedy = "lower optimizer.lr, lengthen schedule.warmup_hours, or use device.precision=fp32"
    return (
        share - 0.01,
        f"{100 * share:.0f} % of the steps are skipped, their gradient is not finite: {remedy}",
    )


_RULES: tuple[Callable[[Usage], tuple[float, str]], ...] = (
    _data,
    _imbalance,
    _communication,
    _padding,
    _teacher,
    _optimizer,
    _dropped,
    _broken,
)

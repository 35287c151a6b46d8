"""Say plainly if runs recognise almost nothing, or if pseudo-labels made one worse. Does not import torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from asr_emapl.errors import listing
from asr_emapl.pseudo_labels.quality import WEAK_LABELLER_WER
from asr_emapl.report.run import Run

# At this WER in percent, a transcript is of no use; a model that outputs nothing has 100 %.
_USELESS = 90.0
# A difference in WER is reported if it is larger than this, in percent absolute and as a share.
_SMALLEST, _SMALLEST_SHARE = 1.0, 0.02


def verdict(runs: Sequence[Run]) -> list[str]:
    """What the error rates say against the runs, each with the likely cause and the next step.

    Empty if a run recognises speech and no pseudo-labels made a run worse.
    """
    useless = _useless(runs)
    if useless is not None:
        return [useless]
    return [line for run in runs if _uses_own_labels(run) for line in _worse(run, runs)]


def _useless(runs: Sequence[Run]) -> str | None:
    rates = [rate for run in runs for curve in run.wer.values() for _, rate in curve if math.isfinite(rate)]
    if not rates or min(rates) < _USELESS:
        return None
    hours = max(run.hours for run in runs)
    who = "the run recognises" if len(runs) == 1 else "the runs recognise"
    return (
        f"{who} almost nothing: the lowest WER is {min(rates):.0f} %. Likely causes: too little training "
        f"({hours:.3g} h of audio; raise hours and pseudo_labels.start_hours), too few transcripts (add "
        "some, or start from a trained model with init.checkpoint), or transcripts that do not match their "
        "audio (asr-emapl inspect, and listen to some)"
    )


def _worse(run: Run, runs: Sequence[Run]) -> Iterator[str]:
    """Compare a run with the model that it starts from, and with supervised runs that start from the same."""
    for name, curve in run.wer.items():
        if not name.startswith("teacher/") or not curve:
            continue
        split, last = name.partition("/")[2], curve[-1][1]
        seed = run.wer_from_seed[name][0][1] if run.wer_from_seed[name] != curve else None
        if seed is not None and _is_above(last, seed):
            yield (
                f"pseudo-labels made {run.label} worse: WER on {split} rose from {seed:.1f} % at the start "
                f"to {last:.1f} %. {_cause(seed)}; until then, use the model that it started from"
            )
            continue
        better = [
            other
            for other in runs
            if _origin(other) == _origin(run) and not _uses_labels(other) and other.wer.get(name)
            if _is_above(last, other.wer[name][-1][1])
        ]
        if better:
            names = listing([f"{other.label} ({other.wer[name][-1][1]:.1f} %)" for other in better], 3)
            yield (
                f"pseudo-labels made {run.label} worse than supervised training: WER on {split} is "
                f"{last:.1f} %, that of {names}. {_cause(seed)}"
            )


def _cause(seed: float | None) -> str:
    if seed is not None and seed > WEAK_LABELLER_WER:
        return (
            f"Likely cause: the teacher was too weak to label ({seed:.0f} % WER; above about "
            f"{WEAK_LABELLER_WER:.0f} %, labels seldom help): train the seed longer "
            "(raise pseudo_labels.start_hours and hours)"
        )
    return (
        "Likely cause: labels with errors, which the teacher repeats: drop uncertain ones (raise "
        "pseudo_labels.min_confidence), slow the teacher (raise teacher.half_life_hours), or lower "
        "pseudo_labels.unlabelled_per_labelled"
    )


def _is_above(rate: float, other: float) -> bool:
    return rate - other > max(_SMALLEST, _SMALLEST_SHARE * other)


def _setting(run: Run, group: str, name: str) -> Any:
    values = (run.config or {}).get(group)
    return values.get(name) if isinstance(values, dict) else None


def _uses_labels(run: Run) -> bool:
    return _setting(run, "pseudo_labels", "strategy") not in (None, "none")


def _uses_own_labels(run: Run) -> bool:
    return _uses_labels(run) and _setting(run, "pseudo_labels", "strategy") not in ("oracle", "external")


def _origin(run: Run) -> Any:
    return _setting(run, "init", "checkpoint")

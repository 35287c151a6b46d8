"""The charts of a report. A chart without logged values is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from asr_emapl.report.chart import Chart, Line
from asr_emapl.report.curves import highest
from asr_emapl.report.run import Run
from asr_emapl.runs.curves import Curve

Step = dict[str, Any]


@dataclass(frozen=True)
class ChartGroup:
    """Charts under one heading, with a sentence on how to read them."""

    name: str
    title: str
    note: str
    charts: list[Chart]


def chart_groups(runs: Sequence[Run]) -> list[ChartGroup]:
    """Return all chart groups for which the runs have logged values, in page order."""
    groups = [
        ChartGroup(
            "wer",
            "Word error rate",
            "Solid: teacher. Dashed: student. A run that starts from a checkpoint starts with its WER.",
            word_error_rates(runs),
        ),
        ChartGroup(
            "pseudo-labels",
            "Pseudo-labels",
            "What the teacher's labels were like, and how many of them were trained on.",
            _pseudo_labels(runs),
        ),
        ChartGroup(
            "scaling",
            "Learning rate and teacher",
            "kappa scales the optimizer. It is the mean audio of a step divided by that of a reference step. "
            "rho is the teacher's momentum in a step, computed from the audio of that step.",
            _scaling(runs),
        ),
        ChartGroup("learning", "Loss and gradient", "Means over steps.", _learning(runs)),
        ChartGroup("speed", "Throughput", "Hours of audio per hour of training.", _speed(runs)),
    ]
    return [group for group in groups if group.charts]


def word_error_rates(runs: Sequence[Run]) -> list[Chart]:
    """Return one chart per split. Student lines are drawn below teacher lines."""
    lines: dict[str, list[Line]] = {}
    for model in ("student", "teacher"):
        for number, run in enumerate(runs):
            for name, curve in run.wer_from_seed.items():
                of, _, split = name.partition("/")
                if of == model:
                    line = Line(f"{run.label}, {model}", number, curve, dashed=model == "student")
                    lines.setdefault(split, []).append(line)
    return [
        Chart(split, held, "%", ceiling=highest(line.points for line in held), marked=True)
        for split, held in lines.items()
    ]


def _learning(runs: Sequence[Run]) -> list[Chart]:
    def loss(step: Step) -> float | None:
        # A step without utterances has no loss.
        return step["loss"] if step["utterances"] else None

    return [
        *_over_steps(runs, "Loss, labelled", loss, kind="labelled", logarithmic=True),
        *_over_steps(runs, "Loss, pseudo-labelled", loss, kind="unlabelled", logarithmic=True),
        *_over_steps(runs, "Gradient norm", lambda step: step.get("gradient_norm"), logarithmic=True),
    ]


def _scaling(runs: Sequence[Run]) -> list[Chart]:
    charts = [
        *_over_steps(runs, "Learning rate", lambda step: step.get("lr"), from_zero=True),
        *_over_steps(runs, "kappa", lambda step: step.get("kappa"), from_zero=True),
        *_over_steps(runs, "rho", lambda step: step.get("rho")),
        *_over_steps(
            runs,
            "Teacher's half-life",
            lambda step: step.get("half_life_hours"),
            unit="h",
            from_zero=True,
        ),
    ]
    # Constant values are already shown in the settings table.
    return [chart for chart in charts if not chart.is_constant]


def _pseudo_labels(runs: Sequence[Run]) -> list[Chart]:
    def used(step: Step) -> float | None:
        seen = step["utterances"] + sum(step.get("dropped", {}).values())
        return 100.0 * step["utterances"] / seen if seen else None

    def nonempty(step: Step) -> float | None:
        return None if step.get("nonempty") is None else 100.0 * step["nonempty"]

    def confidence(step: Step) -> float | None:
        return None if step.get("confidence") is None else 100.0 * step["confidence"]

    def tokens(step: Step) -> float | None:
        return step["tokens"] / step["utterances"] if step["utterances"] else None

    def charts(title: str, value: Callable[[Step], float | None], unit: str = "") -> list[Chart]:
        ceiling = 104.0 if unit == "%" else None
        return _over_steps(runs, title, value, kind="unlabelled", unit=unit, ceiling=ceiling, from_zero=True)

    return [
        *charts("Trained on", used, "%"),
        *charts("Not empty", nonempty, "%"),
        *charts("Mean confidence", confidence, "%"),
        *charts("Tokens per utterance", tokens),
        *_of_labels(runs, "WER of labels", "label_wer", "%", 1.0),
        *_of_labels(runs, "Changed since the last pass", "changed", "%"),
        *_of_labels(runs, "Agreement with the second label", "agreement", "%"),
        *_of_labels(runs, "Words relative to the first label", "kept_words", "%", is_share=False),
        *_of_labels(runs, "Tokens relative to the first label", "kept_tokens", "%", is_share=False),
        *_of_labels(runs, "Words per second of audio", "words_per_second"),
        *_of_labels(runs, "Tokens per second of audio", "tokens_per_second"),
        *_of_labels(runs, "Blank frames", "blank_share", "%"),
        *_of_labels(runs, "Entropy of tokens", "entropy", "nats"),
        *_of_labels(runs, "Most frequent label", "most_frequent", "%"),
        *_of_labels(runs, "Labels that loop", "looping", "%"),
    ]


def _of_labels(
    runs: Sequence[Run],
    title: str,
    name: str,
    unit: str = "",
    factor: float | None = None,
    *,
    is_share: bool = True,
) -> list[Chart]:
    """One chart of a value that the label monitor logs, or none if it is always 0 or was not logged.

    Args:
        factor: None: 100 for percent, otherwise 1.
        is_share: whether percentages above 100 are clipped.
    """
    if factor is None:
        factor = 100.0 if unit == "%" else 1.0
    lines = [
        Line(run.label, number, [(r["hours"], factor * r[name]) for r in run.labels if name in r])
        for number, run in enumerate(runs)
    ]
    lines = [line for line in lines if line.points]
    if not any(value for line in lines for _, value in line.points):
        return []
    ceiling = 104.0 if unit == "%" and is_share else None
    return [Chart(title, lines, unit, ceiling=ceiling, from_zero=True)]


def _speed(runs: Sequence[Run]) -> list[Chart]:
    lines = [Line(run.label, number, run.speed) for number, run in enumerate(runs) if run.speed]
    return [Chart("Speed", lines, "x real time", from_zero=True)] if lines else []


def _over_steps(
    runs: Sequence[Run],
    title: str,
    value: Callable[[Step], float | None],
    *,
    kind: str | None = None,
    unit: str = "",
    ceiling: float | None = None,
    from_zero: bool = False,
    logarithmic: bool = False,
) -> list[Chart]:
    """Return one chart with a line per run that logged the value, or an empty list."""
    curves: list[tuple[int, Run, Curve]] = [
        (number, run, run.curve(value, kind)) for number, run in enumerate(runs)
    ]
    lines = [Line(run.label, number, curve) for number, run, curve in curves if curve]
    if not lines:
        return []
    return [Chart(title, lines, unit, ceiling=ceiling, from_zero=from_zero, logarithmic=logarithmic)]

"""Notice pseudo-labels that collapse while loss and confidence look healthy.

Labels collapse in several ways: to blanks (Likhomanenko et al. 2021; Higuchi et al. 2021), to one text, to
loops, and, if a language model takes part, slowly to deletions. A student learns each of them with a falling
loss and a confident teacher. The labels themselves show it, compared with earlier labels and with
transcripts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asr_emapl.errors import UserError

LABELS = 300
"""Number of labels of a window, over which their statistics are averaged before they are judged."""

PERSISTENCE_HOURS = 1.0
"""Hours of audio for which a sign must persist: labels of a poor teacher can look collapsed for a while."""

_RARE = 0.3  # share of labels that are empty, looping or equal, above that of the transcripts
_LOST = 0.12  # share of the tokens or words of the labels
_BELOW = 0.9  # of the tokens or words per second of the transcripts

_UNITS = ("words", "tokens")

_TOO_FAST = (
    "the teacher follows its own labels too fast: lengthen teacher.half_life_hours, or use strategy cache or "
    "rounds"
)
_TOO_EARLY = "the teacher was not ready: train longer before pseudo-labels (pseudo_labels.start_hours)"
_CAUSES = {
    "blanks": f"{_TOO_EARLY}, or lengthen teacher.half_life_hours",
    "one label": f"{_TOO_EARLY}, or drop unstable labels (pseudo_labels.min_agreement)",
    "loops": f"{_TOO_EARLY}, or drop them (pseudo_labels.max_repeats)",
    "drift": f"{_TOO_FAST}; with a language model, raise its word bonus (asr-emapl calibrate-lm)",
}


@dataclass(frozen=True)
class Alarm:
    """What is wrong with the labels.

    Attributes:
        kind: blanks, one label, loops or drift.
        description: the numbers that show it.
        healthy_step: training step of the last window without a sign of it; 0 if there was none.
    """

    kind: str
    description: str
    healthy_step: int

    def __str__(self) -> str:
        return f"pseudo-labels have collapsed ({self.kind}): {self.description}; {_CAUSES[self.kind]}"


def _measures(unit: str) -> tuple[str, str]:
    """Numbers that fall if labels become shorter: of utterances that were labelled before, and of all."""
    return f"kept_{unit}", f"{unit}_per_second"


class CollapsedLabelsError(UserError):
    """The pseudo-labels of a run have collapsed; `alarm` says how."""

    def __init__(self, alarm: Alarm) -> None:
        super().__init__(str(alarm))
        self.alarm = alarm


class LabelGuard:
    """Judges the statistics of labels, window by window.

    Its input is the same on all processes, so all raise the same alarm at the same step.

    Args:
        transcripts: `label_statistics` of labelled utterances, which healthy labels resemble.
    """

    def __init__(self, transcripts: Mapping[str, float]) -> None:
        self.transcripts = dict(transcripts)
        self._sums: dict[str, float] = {}
        # The highest value of a window, and its step.
        self._best: dict[str, tuple[float, int]] = {}
        # Since when each kind of collapse shows: hours, and the last step without it.
        self._since: dict[str, tuple[float, int]] = {}
        self._healthy_step = 0

    def check(self, step: int, hours: float, found: Mapping[str, Any]) -> Alarm | None:
        """Judge the labels up to a step.

        Args:
            found: numbers of `LabelMonitor.collect`.

        Returns:
            An alarm if signs of a collapse have persisted for `PERSISTENCE_HOURS`.
        """
        window = self._window(found)
        if not window:
            return None
        for name in ("nonempty", *(name for unit in _UNITS for name in _measures(unit))):
            if name in window and window[name] >= self._best.get(name, (0.0, 0))[0]:
                self._best[name] = window[name], step
        signs = dict(self._signs(window))
        self._since = {kind: self._since.get(kind, (hours, self._healthy_step)) for kind in signs}
        if not signs:
            self._healthy_step = step
        for kind, text in signs.items():
            since, healthy_step = self._since[kind]
            if hours - since >= PERSISTENCE_HOURS:
                return Alarm(kind, text, healthy_step)
        return None

    def _window(self, found: Mapping[str, Any]) -> dict[str, float]:
        """The means of a complete window, weighted by labels; empty as long as it is not complete."""
        weights = {"kept_tokens": "revisited", "kept_words": "revisited"}
        names = ("nonempty", "most_frequent", "looping", "tokens_per_second", "words_per_second", *weights)
        for name in names:
            if name in found:
                weight = found[weights.get(name, "utterances")]
                for key, value in ((name, weight * found[name]), (f"labels: {name}", weight)):
                    self._sums[key] = self._sums.get(key, 0.0) + value
        if self._sums.get("labels: nonempty", 0.0) < LABELS:
            return {}
        sums, self._sums = self._sums, {}
        return {name: sums[name] / sums[f"labels: {name}"] for name in names if name in sums}

    def _signs(self, window: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """Each kind of collapse that shows, with the numbers."""
        now, best = window["nonempty"], self._best["nonempty"][0]
        if now < _RARE and best > 2.0 * _RARE:
            yield "blanks", f"{100 * now:.0f} % of the labels are not empty, earlier {100 * best:.0f} %"
        for name, kind, what in (
            ("most_frequent", "one label", "are the same"),
            ("looping", "loops", "repeat a part of themselves"),
        ):
            usual = self.transcripts[name]
            if window[name] > usual + _RARE:
                text = f"{100 * window[name]:.0f} % of the labels {what}"
                yield kind, f"{text}, {100 * usual:.0f} % of the transcripts"
        for unit in _UNITS:
            yield from self._drift(window, unit)

    def _drift(self, window: Mapping[str, float], unit: str) -> Iterator[tuple[str, str]]:
        """Labels that become shorter than they were, and shorter than transcripts.

        A change alone is no sign, because the labels of a poor teacher may be too long. In the first pass
        over the audio, only the rate shows the change, because no utterance has an earlier label.
        """
        rate, usual = window[f"{unit}_per_second"], self.transcripts[f"{unit}_per_second"]
        if rate >= _BELOW * usual:
            return
        name = next(name for name in _measures(unit) if name in window)
        best, step = self._best[name]
        lost = 1.0 - window[name] / best
        if lost > _LOST:
            text = f"the labels have lost {100 * lost:.0f} % of their {unit} since step {step}"
            yield "drift", f"{text} ({rate:.2f} per second, in transcripts {usual:.2f})"

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs."""
        return {
            "sums": dict(self._sums),
            "best": {name: list(pair) for name, pair in self._best.items()},
            "since": {kind: list(pair) for kind, pair in self._since.items()},
            "healthy_step": self._healthy_step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._sums, self._healthy_step = dict(state["sums"]), state["healthy_step"]
        self._best = {name: (pair[0], pair[1]) for name, pair in state["best"].items()}
        self._since = {kind: (pair[0], pair[1]) for kind, pair in state["since"].items()}

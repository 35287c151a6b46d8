"""Decide whether a round replaces the current labels: only if the labeller's WER has improved.

A labeller that has become worse would spread its errors to all utterances. Recognisers that alternate
labelling and training therefore keep the present labels until the WER on held-out transcribed speech has
improved, as flashlight's `PlGenerator` for IPL does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping


class RoundGate:
    """Compares the labeller's WER on a validation split with its WER when the current labels were made.

    All processes get the same rates, so they take the same decision.

    Args:
        name: "model/split" of the rates to compare; None: every round takes place.
    """

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.latest: float | None = None
        self.present: float | None = None

    def validated(self, rates: Mapping[str, float]) -> None:
        """Note the rates in percent of a validation, by "model/split"; ignores those that are not finite."""
        if self.name is not None and math.isfinite(rates[self.name]):
            self.latest = rates[self.name]

    def is_open(self) -> bool:
        """Whether a round that is due takes place: the first one, and later ones if the WER is lower."""
        return self.latest is None or self.present is None or self.latest < self.present

    def finish_round(self) -> str:
        """Note that a round is complete, and return what became of its labels.

        The answer of `is_open` does not change during a round, because no validation takes place in it.
        """
        if not self.is_open():
            return f"present labels are kept: WER {self.name} is {self.latest:.2f}, was {self.present:.2f} %"
        self.present = self.latest
        return "labels are ready"

    def state_dict(self) -> dict[str, float]:
        """What a resume needs."""
        known = {"latest": self.latest, "present": self.present}
        return {name: rate for name, rate in known.items() if rate is not None}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """The inverse of `state_dict`."""
        self.latest, self.present = state.get("latest"), state.get("present")

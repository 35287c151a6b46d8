"""Progress of labelling that training waits for: that of a round, or of filling the cache."""

from __future__ import annotations

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.label_plan import LabelPlan, RoundsPlan
from asr_emapl.data.mixture import DataCursor
from asr_emapl.progress import Progress


class LabellingProgress:
    """Shows the progress from the first batch that is only labelled to the next step.

    Args:
        plan: when utterances are labelled; None: in each step, which shows nothing.
        is_shown: False for all but the first process.
    """

    def __init__(self, plan: LabelPlan | None, *, is_shown: bool) -> None:
        self.plan, self.is_shown = plan, is_shown
        self._progress: Progress | None = None
        self._left = 0  # samples to label

    def __enter__(self) -> LabellingProgress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def begin(self, position: DataCursor) -> None:
        """Note that the batch at this position is about to be labelled."""
        if self._progress is not None or self.plan is None:
            return
        self._left = self.plan.left(position.labels, position.consumed)
        if self._left:
            of = "for the cache"
            if isinstance(self.plan, RoundsPlan):
                of = f"of round {self.plan.due(position.consumed)}"
            seconds = self._left / SAMPLE_RATE_HZ
            self._progress = Progress(f"labels {of}", seconds, is_shown=self.is_shown)
            self._progress.__enter__()

    def advance(self, samples: int) -> None:
        """Note that a batch with this audio, over all processes, was labelled."""
        if self._progress is not None:
            self._left -= samples
            self._progress.advance(samples / SAMPLE_RATE_HZ)
            if self._left <= 0:
                self._end()

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.__exit__()
            self._progress = None

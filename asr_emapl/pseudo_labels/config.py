"""Settings of pseudo-labels. Does not import torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len

from asr_emapl.errors import UserError
from asr_emapl.settings import Factor, Hours, ImportPath, Place, PositiveCount, PositiveHours, Share

StrategyName = Literal["none", "ema", "cache", "rounds", "from_the_start", "soft", "external", "oracle"]


@dataclass
class CacheConfig:
    """The cache of strategy `cache`."""

    hours: PositiveHours = 1.0
    """Hours of audio in the cache. The number of batches in it depends on the batch size."""
    replace: Share = 0.1
    """Probability that a batch is replaced by a newly labelled batch after training on it."""


@dataclass
class RoundsConfig:
    """The rounds of strategy `rounds`."""

    hours: Annotated[list[Hours], Len(1)] = field(default_factory=lambda: [0.0])
    """Hours of audio at which the unlabelled utterances are labelled, ascending; 0: at start_hours."""
    share: Share = 1.0
    """Share of the utterances, drawn at random, that each round after the first labels again."""
    gate: str | None = None
    """Validation split (key of data.validation) for comparing WER. A round replaces the labels only if the
    labeller's WER on it is lower than when the current labels were made; null: each round replaces them."""


@dataclass
class PseudoLabelConfig:
    """Labels for untranscribed audio. Times are in hours of audio consumed."""

    strategy: StrategyName | ImportPath = "none"
    """none: supervised training; ema: labels of the teacher, made in each step; cache: labels kept in a cache
    (slimIPL); rounds: all utterances labelled at given hours (IPL); from_the_start: sampled labels, unstable
    ones dropped; soft: the teacher's distribution of each frame (experimental, known to collapse); external:
    labels of a file; oracle: transcripts (an upper bound); or a class of your own."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of a user-defined strategy class."""
    start_hours: Hours = 0.0
    """Hours of supervised training before pseudo-labels are used."""
    unlabelled_per_labelled: Factor = 1.0
    """Ratio of unlabelled to labelled audio after start_hours."""
    labeller: Literal["teacher", "student", "best_average"] = "teacher"
    """Model that labels; best_average: the mean of the student at its best validations (TopIPL),
    with strategy rounds."""
    best_count: PositiveCount = 3
    """Number of validations in best_average."""
    lm_config: Place | None = None
    """Output of `asr-emapl tune-lm`. If set, decode labels by beam search; null: greedy labels."""
    search_workers: Annotated[int, Ge(0), Le(1024)] = 0
    """Number of processes per rank for the beam search; 0: search in the training process."""
    label_ahead: bool = False
    """With a beam search and strategy ema or cache: label the next batch before the student trains on this
    one, so that the search runs at the same time. The labels are one optimizer step older."""
    temperature: Factor = 0.0
    """Sample labels at this temperature; 0: greedy labels."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    hypotheses: Place | None = None
    """Labels of strategy external: JSONL (id and text), NeMo manifest, CTM or any file that `score` reads."""
    confidence: Literal["frames", "tokens"] = "frames"
    """frames: mean over frames of the highest probability; tokens: geometric mean of the probabilities of the
    label's tokens, each in its best frame, which neither silence nor the length of the label changes."""
    min_confidence: Share = 0.0
    """Drop labels with a lower confidence."""
    keep_share: Annotated[float, Gt(0.0), Le(1.0)] | None = None
    """Keep only this share of the labels that are not empty, the most confident ones: the threshold is a
    quantile of the confidences in earlier steps, where a label counts half after 1,000 others; null: all."""
    tokens_per_second: Annotated[list[Factor], Len(2, 2)] | Literal["learned"] | None = None
    """Drop labels with fewer or more tokens per second of audio: [low, high], or learned: the 1 % and 99 %
    quantiles of the transcripts, widened by a factor of 1.25; null: keep them."""
    agreement: Literal["none", "student", "greedy"] = "none"
    """Second label for comparison. student: the student's label; greedy: without language model."""
    min_agreement: Share = 0.0
    """Drop labels if a smaller share of their tokens agrees with the second label."""
    max_repeats: PositiveCount | None = None
    """Drop labels that repeat a sequence of up to 8 tokens more often in a row; null: keep them."""
    min_level_db: Annotated[float, Ge(-200.0), Le(0.0)] | None = None
    """Drop utterances with a lower root mean square level (dB re full scale); null: keep them."""
    max_change: Share | None = None
    """With strategy from_the_start: drop labels if a larger share of their tokens changed since the previous
    pass; null: keep them."""
    filters: dict[ImportPath, dict[str, Any]] = field(default_factory=dict)
    """Filters of your own and their options, {package.module:function: {option: value}}: the function gets a
    `LabelCandidate` and the options, and returns whether to drop the label."""
    on_collapse: Literal["stop", "slower_teacher", "warn"] = "stop"
    """When labels collapse to blanks, one text or loops, or lose their words: stop; go back to the last
    healthy checkpoint with twice the half-life; or only warn."""
    hard_share: Share = 0.1
    """With strategy soft: weight of the CTC loss on the teacher's label in the total loss, in [0, 1]."""
    dropout: Share | None = None
    """Dropout of the student after start_hours; null: unchanged."""
    layerdrop: Share | None = None
    """LayerDrop of the student after start_hours; null: unchanged."""

    @property
    def uses_unlabelled(self) -> bool:
        """Whether the run trains on unlabelled audio."""
        return self.strategy != "none"

    @property
    def token_rates(self) -> tuple[float, float]:
        """Lowest and highest number of tokens per second, once they are known.

        Raises:
            UserError: the lowest is above the highest.
        """
        if self.tokens_per_second is None:
            return 0.0, math.inf
        assert self.tokens_per_second != "learned"
        low, high = self.tokens_per_second
        if not low <= high:
            raise UserError(
                f"pseudo_labels.tokens_per_second: [{low:g}, {high:g}] is empty; put the lower number first"
            )
        return low, high

    @property
    def learns_from_itself(self) -> bool:
        """Whether labels come from a model of the run."""
        return self.strategy not in ("none", "oracle", "external")

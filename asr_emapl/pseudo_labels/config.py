"""Settings of pseudo-labels. Imports no torch."""

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
    """Hours of audio in the cache. As a number of batches it scales with kappa."""
    replace: Share = 0.1
    """Probability that a batch is replaced by a newly labelled one after it was trained on."""


@dataclass
class RoundsConfig:
    """The rounds of strategy `rounds`."""

    hours: Annotated[list[Hours], Len(1)] = field(default_factory=lambda: [0.0])
    """Hours of audio at which the unlabelled utterances are labelled, ascending; at 0, with start_hours."""
    share: Share = 1.0
    """Share of the utterances that each round after the first labels anew, drawn at random."""
    gate: str | None = None
    """Set of data.validation on which the labeller must have a lower WER than the labeller of the present
    labels; otherwise they are kept. null: each round replaces labels."""


@dataclass
class PseudoLabelConfig:
    """Labels for untranscribed audio. Times are in hours of audio consumed."""

    strategy: StrategyName | ImportPath = "none"
    """none: supervised training; ema: labels of the teacher, made in each step; cache: labels kept in a cache
    (slimIPL); rounds: all utterances labelled at given hours (IPL); from_the_start: sampled labels, unstable
    ones dropped; soft: the teacher's distribution of each frame (experimental, known to collapse); external:
    labels of a file; oracle: transcripts (an upper bound); or a class of your own."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of a class of your own."""
    start_hours: Hours = 0.0
    """Hours of supervised training before pseudo-labels are used."""
    unlabelled_per_labelled: Factor = 1.0
    """Ratio of unlabelled to labelled audio after start_hours."""
    labeller: Literal["teacher", "student", "best_average"] = "teacher"
    """Model that makes the labels; best_average: the mean of the student at its best validations (TopIPL),
    with strategy rounds."""
    best_count: PositiveCount = 3
    """Number of validations in best_average."""
    lm_config: Place | None = None
    """Output of `asr-emapl tune-lm`: labels by its beam search; null: greedy labels."""
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
    """Second label to compare the label with: student, of the student; greedy, without the language model."""
    min_agreement: Share = 0.0
    """Drop labels of which a smaller share of the tokens agrees with the second label."""
    max_repeats: PositiveCount | None = None
    """Drop labels in which a part of up to 8 tokens follows itself more often; null: keep them."""
    min_level_db: Annotated[float, Ge(-200.0), Le(0.0)] | None = None
    """Drop utterances with a lower root mean square level (dB re full scale); null: keep them."""
    max_change: Share | None = None
    """With strategy from_the_start: drop labels of which a larger share of the tokens changed since the pass
    before; null: keep them."""
    filters: dict[ImportPath, dict[str, Any]] = field(default_factory=dict)
    """Filters of your own and their options, {package.module:function: {option: value}}: the function gets a
    `LabelCandidate` and the options, and returns whether to drop the label."""
    on_collapse: Literal["stop", "slower_teacher", "warn"] = "stop"
    """When labels collapse to blanks, one text or loops, or lose their words: stop; go back to the last
    healthy checkpoint with twice the half-life; or only warn."""
    hard_share: Share = 0.1
    """With strategy soft: share of the CTC loss on the teacher's label in the loss."""
    dropout: Share | None = None
    """Dropout of the student after start_hours; null: unchanged."""
    layerdrop: Share | None = None
    """LayerDrop of the student after start_hours; null: unchanged."""

    @property
    def uses_unlabelled(self) -> bool:
        """Whether unlabelled audio is trained on."""
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

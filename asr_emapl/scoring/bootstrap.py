"""How far an error rate would move with other utterances, or other speakers: the bootstrap.

Utterances (or speakers, with all that they say) are drawn with replacement, as many as there are, and the
rate of the drawn corpus is its errors over its words: the quotient of sums, not a mean (Bisani and Ney 2004).

The interval is that of percentiles. BCa was tried and gains nothing here. With 400, 40, 20 and 10 speakers,
whose rates are gamma-distributed (5 % on average, deviation 3.5 %) and who say 600 to 1,800 words each,
intervals of 95 % hold the true rate in 94, 93, 91 and 88 of 100 corpora with percentiles, in 95, 93, 92 and
88 with BCa. Both are too narrow for a dozen speakers.

Utterances of one speaker err alike; where speakers are known, the interval by speaker is the honest one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_emapl.errors import UserError

LEVEL = 0.95

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Where a quantity lies, at a level of confidence.

    Attributes:
        low, high: the ends, in the quantity's own units.
        units: what was drawn: "utterances" or "speakers".
        drawn: how many of these there are.
        resamples, seed, level: how it was found.
    """

    low: float
    high: float
    units: str
    drawn: int
    resamples: int
    seed: int
    level: float = LEVEL

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; an end that is no number is None."""
        ends = {
            end: getattr(self, end) if np.isfinite(getattr(self, end)) else None for end in ("low", "high")
        }
        return {**asdict(self), **ends}


def resampled_sums(values: NDArray[Any], clusters: Sequence[str] | None, resamples: int, seed: int) -> Values:
    """[resamples, K]: the K columns of values summed over units that were drawn with replacement.

    Args:
        values: counts, a row an utterance.
        clusters: whose utterance each row is; those of one are drawn together. None: each on its own.
        resamples: how often to draw.
        seed: the same gives the same draws.

    Raises:
        UserError: fewer than one resample.
    """
    if resamples < 1:
        raise UserError(f"{resamples} resamples: draw at least one (1000 are usual)")
    totals = _by_cluster(values.astype(np.float64), clusters)
    count = len(totals)
    rng = np.random.default_rng(seed)
    # How often each unit was drawn, times what is in it: one resample at a time stays in the cache.
    draws = (rng.integers(0, count, count) for _ in range(resamples))
    return np.stack([np.bincount(drawn, minlength=count) @ totals for drawn in draws])


def intervals(
    quotients: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    clusters: Sequence[str] | None,
    resamples: int,
    seed: int,
) -> dict[str, Interval | None]:
    """The interval of each rate; None where there is nothing to draw from: one unit.

    Args:
        quotients: name -> errors and lengths, a number an utterance each.
        clusters, resamples, seed: as `resampled_sums` takes them; all rates are of the same draws.

    Raises:
        UserError: as `resampled_sums`.
    """
    values = np.stack([column for quotient in quotients.values() for column in quotient], 1)
    drawn = units(len(values), clusters)
    if drawn < 2:
        return dict.fromkeys(quotients)
    sums = resampled_sums(values, clusters, resamples, seed)
    return {
        name: percentiles(rates(sums[:, 2 * k], sums[:, 2 * k + 1]), clusters, drawn, seed)
        for k, name in enumerate(quotients)
    }


def percentiles(values: Values, clusters: Sequence[str] | None, drawn: int, seed: int) -> Interval:
    """The interval that holds LEVEL of the resampled values, as much above as below."""
    # Ends that were drawn, not between two: one of them may be infinite.
    tail = (1.0 - LEVEL) / 2.0
    low = float(np.quantile(values, tail, method="lower"))
    high = float(np.quantile(values, 1.0 - tail, method="higher"))
    name = "utterances" if clusters is None else "speakers"
    return Interval(low, high, name, drawn, len(values), seed)


def rates(errors: Values, lengths: Values) -> Values:
    """errors / lengths; of no words 0, or infinite with errors."""
    empty = np.where(errors > 0, np.inf, 0.0)
    return np.divide(errors, lengths, out=empty, where=lengths > 0)


def units(utterances: int, clusters: Sequence[str] | None) -> int:
    """How many there are to draw."""
    return utterances if clusters is None else len(set(clusters))


def _by_cluster(values: Values, clusters: Sequence[str] | None) -> Values:
    if clusters is None:
        return values
    names, index = np.unique(np.array(clusters, dtype=object).astype(str), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, index, values)
    return sums

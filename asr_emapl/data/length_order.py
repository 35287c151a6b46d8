"""Which utterances may share a group: a random order by length in which padding stays within a bound.

A group has utterances of nearly the same length. Sorted by length alone, the same utterances would share a
group in every pass, and the steps of different passes would not be independent, which the SDE behind the
scaling rule assumes. So each utterance is moved up or down in the sorted order by a random distance first.
The distance is chosen where it costs least: far where many utterances have the same length, little where few
have.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from asr_emapl.data.permutation import Indices


def shuffled_by_length(
    samples: Indices, group_samples: int, padding: float, rng: np.random.Generator
) -> Indices:
    """Positions [n] of utterances, from the longest to the shortest but for the random distances.

    A group in the middle of the order draws its utterances from W groups' worth of the sorted ones, so that
    two of them meet again in the next pass with a probability of about 1 / W. With n utterances in a group
    and s the range of log-length that a group spans, W groups cost a padding of W s / 2. The W that minimise
    the number of pairs that meet again (n ** 2 / W, summed) at a fixed mean padding are proportional to n /
    sqrt(s).

    Args:
        samples: length of each utterance, in samples, [n].
        group_samples: padded samples of a group.
        padding: share of padding that the random distances may cost on average; 0: sorted by length.
    """
    order = np.argsort(-samples, kind="stable")
    lengths = samples[order].astype(np.float64)
    in_group = np.maximum(group_samples / lengths, 1.0)
    span = _log_span(lengths, in_group)
    # Half of the log-length that a group's utterances come from: what they are padded by on average.
    reach = in_group * np.sqrt(span)
    total = float((lengths * reach).sum())
    if padding <= 0.0:
        return order
    reach *= padding * float(lengths.sum()) / total if total > 0.0 else 0.0
    # On this axis every utterance moves by up to 1 in either direction.
    steps = np.divide(span, in_group * reach, out=np.zeros_like(span), where=reach > 1e-12)
    place = np.cumsum(steps) + rng.uniform(-1.0, 1.0, len(order))
    return order[np.argsort(place, kind="stable")]


def _log_span(lengths: NDArray[np.float64], in_group: NDArray[np.float64]) -> NDArray[np.float64]:
    """Range of log-length in a sorted group around each utterance, [n]; lengths are descending."""
    last = len(lengths) - 1
    here = np.arange(len(lengths))
    half = in_group / 2.0
    first, end = (here - half).astype(np.int64).clip(0, last), (here + half).astype(np.int64).clip(0, last)
    # At either end of the order, half a group represents a whole one.
    return np.log(lengths[first] / lengths[end]) * in_group / np.maximum(end - first, 1)

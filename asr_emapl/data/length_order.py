"""Shuffle utterances approximately by length, with a bound on padding.

A group has utterances of similar length. If they were sorted by length, the same utterances would share a
group in every pass, and the steps of different passes would not be independent, as the SDE behind the scaling
rule assumes. Therefore each utterance is first moved up or down in the sorted order by a random distance.
Distances are large where many utterances have similar lengths, so that padding is low, and small elsewhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from asr_emapl.data.permutation import Indices


def shuffled_by_length(
    samples: Indices, group_samples: int, padding: float, rng: np.random.Generator
) -> Indices:
    """Indices [n] of the utterances, sorted from longest to shortest and then moved by the random distances.

    A group contains a random sample from W groups of the sorted order, so two of its utterances share a group
    again in the next pass with probability of about 1 / W. With n utterances per group and s the range of
    log-length in a group, the padding is W s / 2. The W that minimise the number of repeated pairs
    (n ** 2 / W, summed) at a fixed mean padding are proportional to n / sqrt(s).

    Args:
        samples: length of each utterance, in samples, [n].
        group_samples: padded samples of a group.
        padding: share of padding that the random distances may cost on average; 0: sorted by length.
    """
    order = np.argsort(-samples, kind="stable")
    lengths = samples[order].astype(np.float64)
    in_group = np.maximum(group_samples / lengths, 1.0)
    span = _log_span(lengths, in_group)
    # Half of the range of log-length from which a group is sampled: its mean padding.
    reach = in_group * np.sqrt(span)
    total = float((lengths * reach).sum())
    if padding <= 0.0:
        return order
    reach *= padding * float(lengths.sum()) / total if total > 0.0 else 0.0
    # On this axis, each utterance moves by up to 1 in either direction.
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

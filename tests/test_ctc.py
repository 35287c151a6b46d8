"""Greedy decoding and confidence agree with a naive loop over frames, whatever the padding holds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr_emapl.ctc import blank_share, greedy, token_confidence


def naive(log_probs: Tensor, lengths: Tensor, blank: int) -> tuple[list[list[int]], list[float]]:
    paths, confidences = [], []
    for frames, length in zip(log_probs, lengths.tolist(), strict=True):
        path, previous, probability = [], None, 0.0
        for frame in frames[:length]:
            values = frame.tolist()
            label = values.index(max(values))
            probability += math.exp(max(values))
            if label != blank and label != previous:
                path.append(label)
            previous = label
        paths.append(path)
        confidences.append(probability / length if length else 0.0)
    return paths, confidences


def peaky(best_BT: list[list[int]], labels: int) -> Tensor:
    """Log-probabilities [B, T, labels] whose argmax is the given path."""
    return torch.log_softmax(4.0 * torch.nn.functional.one_hot(torch.tensor(best_BT), labels), dim=-1)


@st.composite
def posteriors(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    batch, frames, labels = draw(st.integers(1, 4)), draw(st.integers(0, 12)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    # Few labels and a coarse grid: repeats, blanks between repeats, and ties are common.
    logits = torch.randint(
        0, draw(st.sampled_from([2, 4, 1000])), (batch, frames, labels), generator=generator
    )
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    log_probs = torch.log_softmax(logits.float() / 4, dim=-1).to(dtype)
    lengths = torch.tensor(draw(st.lists(st.integers(0, frames), min_size=batch, max_size=batch)))
    garbage = draw(st.sampled_from([math.nan, math.inf, -math.inf, 7.0]))
    for utterance, length in enumerate(lengths.tolist()):
        log_probs[utterance, length:] = garbage
    return log_probs, lengths, draw(st.integers(0, labels - 1))


@settings(deadline=None)
@given(case=posteriors())
def test_same_as_the_naive_loop(case: tuple[Tensor, Tensor, int]) -> None:
    log_probs, lengths, blank = case
    result = greedy(log_probs, lengths, blank)
    paths, confidences = naive(log_probs, lengths, blank)
    assert result.to_lists() == paths
    assert result.labels.dtype == result.label_lengths.dtype == torch.long
    assert result.labels.shape == log_probs.shape[:2]
    assert all(
        not any(row[length:])
        for row, length in zip(result.labels.tolist(), result.label_lengths.tolist(), strict=True)
    )
    assert result.label_lengths.tolist() == [len(path) for path in paths]
    assert result.confidence.dtype == torch.float32
    assert result.confidence.tolist() == pytest.approx(confidences, rel=1e-5, abs=1e-7)
    assert all(
        (0 < value <= 1) if length else value == 0
        for value, length in zip(result.confidence, lengths, strict=True)
    )


@pytest.mark.parametrize(
    ("path", "labels"),
    [
        ([1, 1, 1], [1]),
        ([1, 0, 1], [1, 1]),
        ([1, 1, 0, 0, 1, 2, 2, 0], [1, 1, 2]),
        ([0, 0, 0], []),
        ([2], [2]),
        ([1, 2, 1, 2], [1, 2, 1, 2]),
    ],
)
def test_adversarial_paths(path: list[int], labels: list[int]) -> None:
    assert greedy(peaky([path], 3), torch.tensor([len(path)])).to_lists() == [labels]


def test_padding_does_not_join_or_part_utterances() -> None:
    result = greedy(
        peaky([[1, 1, 2, 2], [2, 2, 2, 2], [1, 1, 1, 1]], 3), torch.tensor([2, 0, 4], dtype=torch.int32)
    )
    assert result.to_lists() == [[1], [], [1]]
    assert result.confidence[1] == 0


def test_nan_in_a_valid_frame_shows_in_that_utterance_only() -> None:
    log_probs = peaky([[1, 2], [1, 2]], 3)
    log_probs[0, 1] = math.nan
    confidence = greedy(log_probs, torch.tensor([2, 2])).confidence
    assert torch.isnan(confidence).tolist() == [True, False]


def test_input_is_untouched_and_nothing_requires_grad() -> None:
    log_probs = peaky([[1, 2, 0]], 3).requires_grad_()
    before = log_probs.detach().clone()
    result = greedy(log_probs, torch.tensor([2]))
    assert not result.confidence.requires_grad
    assert torch.equal(log_probs, before)


@pytest.mark.parametrize("shape", [(2, 3), (3, 4, 5)])
def test_shapes_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected log_probs"):
        greedy(torch.zeros(shape), torch.tensor([1, 1]))


@pytest.mark.parametrize("length", [-1, 4])
def test_lengths_outside_the_frames(length: int) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 3\]"):
        greedy(torch.zeros(1, 3, 2), torch.tensor([length]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_same_on_the_gpu() -> None:
    log_probs = torch.log_softmax(torch.randn(8, 200, 29, generator=torch.Generator().manual_seed(1)), dim=-1)
    lengths = torch.arange(8) * 28
    here, there = greedy(log_probs, lengths), greedy(log_probs.cuda(), lengths)
    assert there.labels.is_cuda
    assert there.to_lists() == here.to_lists()
    torch.testing.assert_close(there.confidence.cpu(), here.confidence)


@settings(deadline=None)
@given(case=posteriors())
def test_token_confidence_is_that_of_a_naive_loop(case: tuple[Tensor, Tensor, int]) -> None:
    log_probs, lengths, _ = case
    path = greedy(log_probs, lengths).path
    expected = []
    for row, frames, length in zip(path.tolist(), log_probs, lengths.tolist(), strict=True):
        best: list[float] = []
        for t in range(length):
            log_prob = float(frames[t, row[t]])
            if row[t] and t and row[t] == row[t - 1]:
                best[-1] = max(best[-1], log_prob)
            elif row[t]:
                best.append(log_prob)
        expected.append(min(1.0, math.exp(sum(best) / len(best))) if best else 0.0)
    found = token_confidence(log_probs, lengths, path)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_token_confidence_ignores_blanks_and_flanks_and_marks_broken_utterances() -> None:
    probability = torch.tensor([[[0.1, 0.9], [0.4, 0.6], [0.99, 0.01], [0.6, 0.4]]]).repeat(2, 1, 1)
    probability[1, 3] = math.nan
    path = torch.tensor([[1, 1, 0, 0]] * 2)
    sure, broken = token_confidence(probability.log(), torch.tensor([4, 4]), path).tolist()
    assert sure == pytest.approx(0.9)
    assert math.isnan(broken)
    assert token_confidence(probability.log(), torch.tensor([2, 2]), path).tolist() == pytest.approx(
        [0.9] * 2
    )


def test_share_of_blanks_is_that_of_the_valid_frames():
    path_BT = torch.tensor([[0, 1, 0, 0], [0, 2, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    shares = blank_share(path_BT, torch.tensor([4, 2, 3, 0])).tolist()
    assert shares[:3] == [0.75, 0.5, 0.0]
    assert math.isnan(shares[3])

"""Labels of teacher and oracle, and which of them are rejected, at the edges of each limit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from asr_emapl.ctc import greedy, token_confidence
from asr_emapl.ema import EmaTeacher
from asr_emapl.models.transformer import TransformerCtc
from asr_emapl.pseudo_labels.filters import similarity
from asr_emapl.pseudo_labels.labeller import Labeller
from asr_emapl.pseudo_labels.labels import LabelRequest, Labels
from asr_emapl.pseudo_labels.search_pool import SearchPool
from asr_emapl.pseudo_labels.strategies.ema import FreshLabels
from asr_emapl.pseudo_labels.strategies.given import GivenLabels

LENGTHS_B = torch.tensor([60, 45, 20])


def student(dropout: float = 0.5) -> nn.Module:
    torch.manual_seed(0)
    model = TransformerCtc(7, 6, dim=16, heads=2, layers=2, dropout=dropout, layerdrop=0.3)
    with torch.no_grad():
        model.output.weight.mul_(20.0)  # labels of many tokens, far from ties
    return model


def batch(targets: list[list[int]] | None = None) -> LabelRequest:
    x_BTF = torch.randn(3, 60, 6, generator=torch.Generator().manual_seed(1))
    x_BTF = x_BTF * (torch.arange(60) < LENGTHS_B[:, None])[..., None]
    return LabelRequest(["a", "b", "c"], x_BTF, LENGTHS_B, [0.6, 0.45, 0.2], targets)


def request_with_rows() -> LabelRequest:
    return replace(batch(), rows=[0, 1, 2])


def train(model: nn.Module, steps: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        log_probs, _ = model.train()(torch.randn(2, 30, 6), torch.tensor([30, 30]))
        log_probs[..., 3].sum().neg().backward()
        optimizer.step()


def decoded(model: nn.Module, of: LabelRequest) -> tuple[list[list[int]], Tensor]:
    with torch.no_grad():
        paths = greedy(*model.eval()(of.features, of.lengths))
    return paths.to_lists(), paths.confidence


def texts(labels: Labels) -> list[list[int]]:
    """What the student would learn, as lists."""
    return [row[:n] for row, n in zip(labels.tokens_BS.tolist(), labels.lengths_B.tolist(), strict=True)]


def check_against(labels: Labels, model: nn.Module) -> None:
    tokens, confidence = decoded(model, batch())
    assert texts(labels) == tokens
    assert labels.confidence_B.tolist() == pytest.approx(confidence.tolist())


def test_ema_labels_are_the_teacher_s_greedy_path() -> None:
    model = student()
    labels = FreshLabels(Labeller(EmaTeacher(model, half_life=100.0))).labels(batch())
    assert int(labels.lengths_B.sum()) > 3
    assert all(0 not in tokens for tokens in texts(labels))
    assert all(0.0 < sure <= 1.0 for sure in labels.confidence_B.tolist())
    check_against(labels, model)


def test_ema_labels_do_not_follow_a_student_that_trains() -> None:
    model, untrained = student(), student()
    strategy = FreshLabels(Labeller(EmaTeacher(model, half_life=100.0)))
    train(model, 3)
    assert model.training
    assert decoded(student(), batch())[0] != decoded(model, batch())[0]
    model.train()
    check_against(strategy.labels(batch()), untrained)
    assert model.training


def test_ema_labels_follow_the_teacher() -> None:
    model = student()
    teacher = EmaTeacher(model, half_life=1.0)
    strategy = FreshLabels(Labeller(teacher))
    train(model, 3)
    teacher.update(1e6)
    assert not teacher.module.training
    check_against(strategy.labels(batch()), model)


def test_ema_labels_are_repeatable_and_draw_nothing() -> None:
    strategy = FreshLabels(Labeller(EmaTeacher(student(), half_life=100.0)))
    before = torch.get_rng_state()
    first, second = strategy.labels(batch()), strategy.labels(batch())
    assert texts(first) == texts(second)
    assert torch.equal(first.confidence_B, second.confidence_B)
    assert torch.equal(torch.get_rng_state(), before)


def test_ema_labels_do_not_depend_on_company() -> None:
    strategy, whole = FreshLabels(Labeller(EmaTeacher(student(), half_life=100.0))), batch()
    together = strategy.labels(whole)
    for i, frames in enumerate(LENGTHS_B.tolist()):
        features, lengths = whole.features[i : i + 1, :frames], LENGTHS_B[i : i + 1]
        alone = strategy.labels(LabelRequest(["x"], features, lengths, [1.0]))
        assert texts(alone) == [texts(together)[i]]
        assert alone.confidence_B.item() == pytest.approx(together.confidence_B[i].item(), abs=1e-5)


def test_ema_labels_under_autocast_are_near() -> None:
    teacher = EmaTeacher(student(), half_life=100.0)
    exact, rounded = (FreshLabels(Labeller(teacher, bf16=on)).labels(batch()) for on in (False, True))
    assert rounded.confidence_B.tolist() == pytest.approx(exact.confidence_B.tolist(), abs=0.05)


@pytest.mark.parametrize("how", ["greedy", "sampled", "searched"])
def test_confidence_of_tokens_is_that_of_the_chosen_path(how: str) -> None:
    model = student()
    path_of = {
        "greedy": {},
        "sampled": {"temperature": 2.0},
        "searched": {"searches": SearchPool(lambda log_probs_TV: log_probs_TV[:, 1:].argmax(-1) + 1)},
    }[how]
    frames, tokens = (
        Labeller(EmaTeacher(model, half_life=100.0), confidence=kind, **path_of)(request_with_rows())
        for kind in ("frames", "tokens")
    )
    assert texts(frames) == texts(tokens)
    with torch.no_grad():
        log_probs_BTV, lengths_B = model.eval()(batch().features, batch().lengths)
    assert all(0.0 < sure <= 1.0 for sure in tokens.confidence_B.tolist())
    if how == "searched":
        path_BT = log_probs_BTV[..., 1:].argmax(-1) + 1
        expected = token_confidence(log_probs_BTV, lengths_B, path_BT)
        torch.testing.assert_close(tokens.confidence_B, expected)
    if how == "sampled":  # less probable than the best path
        best = token_confidence(log_probs_BTV, lengths_B, log_probs_BTV.argmax(-1))
        assert tokens.confidence_B.sum() < best.sum()


def test_ema_labels_leave_no_gradient() -> None:
    model = student()
    labels = FreshLabels(Labeller(EmaTeacher(model, half_life=100.0))).labels(batch())
    assert all(p.grad is None for p in model.parameters())
    # A loss keeps its targets for the backward pass, which tensors of inference mode refuse.
    assert not any(t.is_inference() for t in (labels.tokens_BS, labels.lengths_B, labels.confidence_B))


def test_oracle_labels_are_the_truth() -> None:
    truth = [[1, 2, 2], [], [6]]
    labels = GivenLabels().labels(batch(truth))
    assert texts(labels) == truth
    assert labels.confidence_B.tolist() == [1.0, 1.0, 1.0]


def test_oracle_without_texts_is_a_fault() -> None:
    with pytest.raises(AssertionError):
        GivenLabels().labels(batch())


def test_agreement_with_the_labels_of_a_search_reaches_the_filters() -> None:
    """Labels of a search are known to the host before they are compared."""
    model = student()
    searches = SearchPool(lambda log_probs_TV: torch.ones(len(log_probs_TV)))
    labeller = Labeller(model, searches=searches, second="greedy")
    labels = labeller(batch())
    expected = [similarity([1], tokens) for tokens in decoded(model, batch())[0]]
    assert max(expected) < 1.0
    assert [label.agreement for label in labels.to_list()] == pytest.approx(expected)


def test_labels_have_the_share_of_blanks_of_the_best_path() -> None:
    model = student()
    path_BT = model.eval()(batch().features, LENGTHS_B)[0].argmax(-1)
    frames = model.output_lengths(LENGTHS_B).tolist()
    expected = [float((path[:n] == 0).float().mean()) for path, n in zip(path_BT, frames, strict=True)]
    for searches in (None, SearchPool(lambda log_probs_TV: torch.ones(len(log_probs_TV)))):
        labels = Labeller(model, searches=searches)(batch()).to_list()
        assert [label.blank_share for label in labels] == pytest.approx(expected)

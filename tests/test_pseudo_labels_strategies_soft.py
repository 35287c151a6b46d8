"""Soft labels: the loss, whole runs, and the collapse that the paper describes."""

from __future__ import annotations

import pytest
import torch
from support.runs import losses
from support.tiny import tiny_config

from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.strategies.soft import soft_loss
from asr_emapl.training.trainer import train

START = ("hours=0.03", "pseudo_labels.start_hours=0.01", "validation.every_hours=null")
SOFT = "pseudo_labels.strategy=soft"


def distributions(seed: int) -> torch.Tensor:
    return torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


def test_the_loss_is_the_cross_entropy_of_the_frames_without_padding():
    student, teacher, lengths = distributions(0), distributions(1), [7, 4, 0]
    found = soft_loss(student, teacher, torch.tensor(lengths))
    for row, frames in enumerate(lengths):
        expected = sum(-(teacher[row, t].exp() * student[row, t]).sum() for t in range(frames))
        assert float(found[row]) == pytest.approx(float(expected), rel=1e-5)


def test_the_teacher_itself_is_the_minimum():
    teacher = distributions(2)
    best = teacher.clone().requires_grad_()
    lengths = torch.tensor([7, 7, 7])
    (gradient,) = torch.autograd.grad(soft_loss(best.log_softmax(-1), teacher, lengths).sum(), best)
    assert float(gradient.abs().max()) < 1e-6
    others = (soft_loss(distributions(seed), teacher, lengths) for seed in (3, 4, 5))
    assert all((other > soft_loss(teacher, teacher, lengths)).all() for other in others)


def test_only_hard_labels_are_strategy_ema(corpus, tmp_path):
    train(tiny_config(corpus, f"run_dir={tmp_path / 'soft'}", *START, SOFT, "pseudo_labels.hard_share=1"))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'ema'}", *START, "pseudo_labels.strategy=ema"))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'mixed'}", *START, SOFT))
    assert losses(tmp_path / "soft") == losses(tmp_path / "ema")
    assert losses(tmp_path / "mixed") != losses(tmp_path / "ema")


def test_with_speed_perturbation_frames_would_not_match(corpus, tmp_path):
    with pytest.raises(UserError, match=r"perturb\.speed=null"):
        train(
            tiny_config(
                corpus, f"run_dir={tmp_path / 'run'}", *START, SOFT, "perturb.speed.factors=[0.9,1.1]"
            )
        )

"""The 2-D front-end: lengths, padding, gradients, and the model's checks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.runs import losses
from support.tiny import tiny_config

from asr_emapl.checks.conformance import check
from asr_emapl.models.contract import ModelConfig
from asr_emapl.models.front_ends import Conv2dFrontEnd, build_front_end
from asr_emapl.training.trainer import train

STRIDES = pytest.mark.parametrize("stride", [4, 8])
TRANSFORMER = "asr_emapl.models.transformer:TransformerCtc"


def front_end(stride: int, size: int = 20) -> Conv2dFrontEnd:
    torch.manual_seed(0)
    made = build_front_end("conv2d", size, 12, 7, stride, 0.0)
    assert isinstance(made, Conv2dFrontEnd)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@STRIDES
@pytest.mark.parametrize("size", [1, 7, 80])
def test_lengths_are_the_real_ones(stride: int, size: int) -> None:
    made = front_end(stride, size)
    promised = made.output_lengths(torch.arange(1, 41))
    for frames in range(1, 41):
        x_BTD, lengths = made(torch.randn(1, frames, size), torch.tensor([frames]))
        assert x_BTD.shape == (1, int(promised[frames - 1]), 12)
        assert lengths.tolist() == [-(-frames // stride)] == [x_BTD.shape[1]]


@STRIDES
def test_padding_changes_nothing_and_gets_no_gradient(stride: int) -> None:
    made, lengths_B = front_end(stride), torch.tensor([50, 31, 3])
    features_BTF = (10.0 * torch.randn(3, 50, 20)).requires_grad_()
    together, frames_B = made(features_BTF, lengths_B)
    for i, length in enumerate(lengths_B.tolist()):
        alone, _ = made(features_BTF[i : i + 1, :length], lengths_B[i : i + 1])
        torch.testing.assert_close(alone[0], together[i, : frames_B[i]], atol=1e-5, rtol=1e-5)
    sum(together[i, :frames].square().sum() for i, frames in enumerate(frames_B.tolist())).backward()
    inside_BT = torch.arange(50) < lengths_B[:, None]
    assert features_BTF.grad is not None
    assert not features_BTF.grad[~inside_BT].any()
    assert features_BTF.grad[inside_BT].any(-1).all()


@STRIDES
def test_all_checks_pass(stride: int) -> None:
    options: dict[str, Any] = {"dim": 16, "heads": 2, "layers": 2, "frontend": "conv2d", "stride": stride}
    assert [one for one in check(ModelConfig(TRANSFORMER, options=options)) if not one.passed] == []


def test_a_run_resumes_exactly(corpus, tmp_path):
    overrides = ("hours=0.01", "validation.every_hours=null", "model.options.frontend=conv2d")
    overrides += ("model.options.stride=4", "model.options.frontend_dropout=0.1")
    train(tiny_config(corpus, f"run_dir={tmp_path / 'whole'}", *overrides))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'two'}", *overrides, "hours=0.006"))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'two'}", *overrides))
    assert losses(tmp_path / "two") == losses(tmp_path / "whole")

"""Compiled and recomputed layers give the same loss and gradients as those as they are."""

from __future__ import annotations

import copy

import pytest
import torch
from support.tiny import make_corpus, tiny_config
from torch import Tensor, nn

from asr_emapl.checkpoints.files import load
from asr_emapl.checks.memory import AllocationCount, bytes_on_gpu
from asr_emapl.models.blocks import blocks, compile_blocks, recompute_blocks
from asr_emapl.models.transformer import TransformerCtc
from asr_emapl.training.trainer import train


def model(**options: object) -> TransformerCtc:
    torch.manual_seed(0)
    sizes = {"dim": 16, "heads": 2, "layers": 3, "norm": "pre", "convolution": 3}
    return TransformerCtc(5, 8, **(sizes | options)).train()


def gradients(model: nn.Module, frames: int = 60) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probabilities and gradients, with the same random numbers each time."""
    torch.manual_seed(1)
    model.zero_grad()
    x, lengths = torch.randn(2, frames, 8), torch.tensor([frames, frames // 2])
    log_probs, _ = model(x, lengths)
    log_probs.square().mean().backward()
    return log_probs.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_same(found: nn.Module, expected: nn.Module, frames: int = 60, **tolerance: float) -> None:
    ours, theirs = gradients(found, frames), gradients(expected, frames)
    torch.testing.assert_close(ours[0], theirs[0], **tolerance)
    torch.testing.assert_close(ours[1], theirs[1], **tolerance)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_layers_are_exact(dropout: float) -> None:
    plain = model(dropout=dropout, layerdrop=0.5)
    other = model(dropout=dropout, layerdrop=0.5)
    recompute_blocks(other)
    assert plain.state_dict().keys() == other.state_dict().keys()
    for part in (plain, other):
        part.begin_step(3)
    assert_same(other, plain, atol=0.0, rtol=0.0)


def test_recomputed_layers_need_less_memory() -> None:
    peaks = []
    for recompute in (False, True):
        layers = model(layers=6)
        if recompute:
            recompute_blocks(layers)
        with AllocationCount() as count:
            gradients(layers, 2000)
        computed = bytes_on_gpu(layers, (2, 2000, 8), 10, 1, bf16=True)
        peaks.append((count.peak, computed))
    assert peaks[1][0] < 0.6 * peaks[0][0]
    assert peaks[1][1] < 0.6 * peaks[0][1]


# aot_eager captures the graphs of forward and backward pass as inductor does, but needs no compiler.
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_layers_agree(backend: str, recompute: bool) -> None:
    plain = model(dropout=0.0, frontend_dropout=0.0)
    other = copy.deepcopy(plain)
    if recompute:
        recompute_blocks(other)
    compile_blocks(other, backend)
    assert plain.state_dict().keys() == other.state_dict().keys()
    for frames in (60, 90, 31):  # lengths are dynamic
        assert_same(other, plain, frames, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        inputs = torch.randn(3, 40, 8), torch.tensor([40, 20, 1])
        torch.testing.assert_close(other.eval()(*inputs), plain.eval()(*inputs), atol=1e-5, rtol=1e-4)


def test_blocks_are_those_of_the_outermost_lists() -> None:
    layers = nn.ModuleList([nn.Linear(1, 1), nn.ModuleList([nn.Linear(2, 2)])])
    assert [block.in_features for block in blocks(nn.Sequential(layers, nn.Linear(3, 3)))] == [1, 2]


def test_a_run_with_recomputed_layers_is_the_same(tmp_path) -> None:
    make_corpus(tmp_path)
    with_labels = ("hours=0.004", "pseudo_labels.strategy=ema", "pseudo_labels.start_hours=0.002")
    students = []
    for recompute in ("none", "blocks"):
        last = train(
            tiny_config(
                tmp_path, *with_labels, f"device.recompute={recompute}", f"run_dir={tmp_path}/{recompute}"
            )
        )
        assert last is not None
        students.append(load(last)["student"])
    assert all(torch.equal(students[1][name], tensor) for name, tensor in students[0].items())

"""The transformer: padding, lengths, layerdrop, dropout, positions, precision, size."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl.models.transformer import ConvolutionModule, TransformerCtc

NORMS = pytest.mark.parametrize("norm", ["post", "pre"])
LENGTHS_B = torch.tensor([50, 31, 8])


def tiny(**options: Any) -> TransformerCtc:
    torch.manual_seed(0)
    values: dict[str, Any] = {"input_size": 6, "dim": 16, "heads": 2, "layers": 3, "dropout": 0.0}
    model = TransformerCtc(7, **(values | {"frontend_dropout": 0.0} | options))
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms start at 0 and 1, which would hide leaks
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def features(seed: int = 0, padding: float = 0.0) -> Tensor:
    """[3, 50, 6], noise of size `padding` beyond each utterance's end."""
    x_BTF = torch.randn(3, 50, 6, generator=torch.Generator().manual_seed(seed))
    valid_BT = torch.arange(50) < LENGTHS_B[:, None]
    return torch.where(valid_BT[..., None], x_BTF, padding * torch.randn(3, 50, 6))


def ctc(model: nn.Module, seed: int = 0) -> Tensor:
    log_probs, lengths, *_ = model(features(seed), LENGTHS_B)
    labels = torch.tensor([[1, 2], [3, 4], [5, 6]])
    return F.ctc_loss(log_probs.transpose(0, 1), labels, lengths, torch.tensor([2, 2, 2]))


@NORMS
@pytest.mark.parametrize("padding", [0.0, 50.0])
@pytest.mark.parametrize(("kernel", "convolution"), [(3, 0), (7, 0), (8, 0), (7, 5), (3, 31)])
def test_padding_and_company_change_nothing(norm: str, padding: float, kernel: int, convolution: int) -> None:
    model = tiny(norm=norm, kernel=kernel, convolution=convolution).eval()
    x_BTF = features(padding=padding)
    together, lengths = model(x_BTF, LENGTHS_B)
    for i, frames in enumerate(LENGTHS_B.tolist()):
        alone, length = model(x_BTF[i : i + 1, :frames], LENGTHS_B[i : i + 1])
        assert length[0] == lengths[i] == alone.shape[1]
        torch.testing.assert_close(alone[0], together[i, : lengths[i]], atol=1e-5, rtol=1e-5)


@NORMS
@pytest.mark.parametrize("convolution", [0, 5])
def test_padding_gets_no_gradient(norm: str, convolution: int) -> None:
    model = tiny(norm=norm, max_shift_seconds=0.0, convolution=convolution)
    x_BTF = features(padding=1.0).requires_grad_()
    log_probs, lengths = model(x_BTF, LENGTHS_B)
    sum(log_probs[i, : lengths[i], 0].sum() for i in range(3)).backward()
    inside_BT = torch.arange(50) < LENGTHS_B[:, None]
    assert x_BTF.grad[~inside_BT].abs().max() == 0.0
    assert (x_BTF.grad[inside_BT].abs().sum(-1) > 0.0).all()


@NORMS
@pytest.mark.parametrize("stride", [2, 3, 4])
def test_output_lengths_are_the_real_ones(norm: str, stride: int) -> None:
    model = tiny(norm=norm, stride=stride, layers=1, dim=4).eval()
    promised = model.output_lengths(torch.arange(1, 61))
    assert promised.dtype == torch.long
    for frames in range(1, 61):
        log_probs, lengths = model(torch.zeros(1, frames, 6), torch.tensor([frames]))
        assert log_probs.shape == (1, int(promised[frames - 1]), 7)
        assert lengths.tolist() == [log_probs.shape[1]]


@NORMS
def test_output_is_log_probabilities(norm: str) -> None:
    log_probs, _ = tiny(norm=norm)(features(), LENGTHS_B)
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 17))


def skipped(model: TransformerCtc) -> list[bool]:
    """Of each layer: whether all its parameters have a gradient, and that gradient is zero."""
    result = []
    for layer in model.layers:
        gradients = [p.grad for p in layer.parameters()]
        assert all(g is not None for g in gradients)
        result.append(all(not g.any() for g in gradients))
    return result


@NORMS
def test_layerdrop_is_alike_over_micro_batches(norm: str) -> None:
    model = tiny(norm=norm, layers=6, layerdrop=0.5)
    patterns = []
    for step in range(8):
        model.begin_step(step)
        of_step = []
        for micro_batch in range(3):  # whatever else was drawn before
            torch.manual_seed(100 * step + micro_batch)
            model.zero_grad()
            ctc(model, seed=micro_batch).backward()
            of_step.append(skipped(model))
        assert of_step[0] == of_step[1] == of_step[2]
        patterns.append(tuple(of_step[0]))
    assert len(set(patterns)) > 4
    share = sum(map(sum, patterns)) / (8 * 6)
    assert 0.25 < share < 0.75


def test_layerdrop_is_alike_in_another_process() -> None:
    """The draw is torch's own generator on the CPU, on every rank."""
    model = tiny(layers=12, layerdrop=0.5)
    model.train().begin_step(2**62)
    expected = torch.rand(12, generator=torch.Generator().manual_seed(2**62)) < 0.5
    assert model._dropped_layers() == expected.tolist()


@NORMS
def test_skipped_layers_have_zero_gradients_and_change_nothing(norm: str) -> None:
    model = tiny(norm=norm, layerdrop=1.0, max_shift_seconds=0.0)
    model.begin_step(0)
    ctc(model).backward()
    assert skipped(model) == [True] * 3
    assert all(p.grad.any() for name, p in model.named_parameters() if not name.startswith("layers."))
    kept = model(features(), LENGTHS_B)[0]
    model.layers = nn.ModuleList()
    torch.testing.assert_close(kept, model(features(), LENGTHS_B)[0])


def test_layerdrop_leaves_eval_alone() -> None:
    dropping, whole = tiny(layerdrop=0.9).eval(), tiny().eval()
    dropping.begin_step(3)
    assert torch.equal(dropping(features(), LENGTHS_B)[0], whole(features(), LENGTHS_B)[0])


def test_layerdrop_without_begin_step_follows_torch_s_seed() -> None:
    model = tiny(layers=20, layerdrop=0.5)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(model._dropped_layers())
    assert draws[0] == draws[1] != draws[2]


def test_layerdrop_moves_no_other_draw() -> None:
    """With begin_step, what is drawn from torch's global state does not depend on layerdrop."""
    model = tiny(layerdrop=0.5)
    model.begin_step(0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model._dropped_layers()
    assert torch.equal(torch.get_rng_state(), before)


def test_set_dropout_leaves_the_front_end() -> None:
    model = tiny(dropout=0.3, frontend_dropout=0.4, layerdrop=0.2)
    model.set_dropout(0.0, 0.1)
    assert model.frontend.dropout.p == 0.4
    assert [layer.dropout for layer in model.layers] == [0.0] * 3
    assert model.layerdrop == 0.1


def test_a_rate_that_is_not_given_stays() -> None:
    model = tiny(dropout=0.3, layerdrop=0.2)
    model.set_dropout(layerdrop=0.5)
    assert ([layer.dropout for layer in model.layers], model.layerdrop) == ([0.3] * 3, 0.5)
    model.set_dropout(dropout=0.0, layerdrop=None)
    assert ([layer.dropout for layer in model.layers], model.layerdrop) == ([0.0] * 3, 0.5)
    model.set_dropout()
    assert ([layer.dropout for layer in model.layers], model.layerdrop) == ([0.0] * 3, 0.5)
    for rates in ({"dropout": 1.5}, {"layerdrop": -0.1}):
        with pytest.raises(ValueError, match=r"is outside \[0, 1\]"):
            model.set_dropout(**rates)


@NORMS
def test_dropout_acts_in_training_only(norm: str) -> None:
    model = tiny(norm=norm, dropout=0.5, max_shift_seconds=0.0)
    outputs = [model(features(), LENGTHS_B)[0] for _ in range(2)]
    assert not torch.allclose(*outputs)
    model.set_dropout(0.0, 0.0)
    assert torch.equal(*[model(features(), LENGTHS_B)[0] for _ in range(2)])
    model.set_dropout(0.5, 0.0)
    model.eval()
    assert torch.equal(*[model(features(), LENGTHS_B)[0] for _ in range(2)])


@NORMS
def test_eval_does_not_depend_on_the_shift(norm: str) -> None:
    shifted, plain = tiny(norm=norm, max_shift_seconds=30.0), tiny(norm=norm, max_shift_seconds=0.0)
    plain.load_state_dict(shifted.state_dict())
    outputs = [model.eval()(features(), LENGTHS_B)[0] for model in (shifted, plain)]
    assert torch.equal(*outputs)


def test_training_shifts_each_utterance_as_a_whole() -> None:
    positions = tiny().positions
    lengths, valid_BT = torch.tensor([17, 17]), torch.ones(2, 17, dtype=torch.bool)
    positions.train()
    shifted = positions(valid_BT, lengths).double()
    assert not torch.allclose(shifted[0], shifted[1])
    # The angle between neighbouring frames, hence what attention can see of distances, is kept.
    positions.eval()
    plain = positions(valid_BT, lengths).double()
    torch.testing.assert_close(gram(shifted[0]), gram(plain[0]), atol=2e-3, rtol=0.0)
    torch.testing.assert_close(gram(shifted[1]), gram(plain[1]), atol=2e-3, rtol=0.0)


def gram(encoding_TD: Tensor) -> Tensor:
    return encoding_TD @ encoding_TD.T


def test_positions_are_seconds_from_the_middle() -> None:
    model = tiny(stride=4).eval()
    encoding = model.positions(torch.ones(2, 9, dtype=torch.bool), torch.tensor([9, 5]))
    assert encoding.dtype == torch.float32
    middle = torch.cat([torch.zeros(8), torch.ones(8)])
    torch.testing.assert_close(encoding[0, 4], middle)
    torch.testing.assert_close(encoding[1, 2], middle)
    torch.testing.assert_close(encoding[0, 2:7], encoding[1, :5])
    # omega_0 is 30: a frame of 40 ms further on, the first sinusoid is at 1.2.
    torch.testing.assert_close(encoding[0, 5, 0], torch.tensor(1.2).sin())


@NORMS
def test_bf16(norm: str) -> None:
    model = tiny(norm=norm, layerdrop=0.5)
    model.begin_step(1)
    exact = model.eval()(features(), LENGTHS_B)[0]
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.eval()(features(), LENGTHS_B)[0]
        loss = ctc(model.train())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.15, rtol=0.0)
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded.exp().sum(-1), torch.ones(3, 17))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_half_precision_weights() -> None:
    model = tiny().eval()
    exact = model(features(), LENGTHS_B)[0]
    log_probs = model.bfloat16()(features().bfloat16(), LENGTHS_B)[0]
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs, exact, atol=0.3, rtol=0.0)


@pytest.mark.parametrize("conditioned", [False, True])
def test_intermediate_layers_are_labelled_in_training_only(conditioned: bool) -> None:
    options = {"intermediate_layers": [1, 2], "self_conditioning": conditioned, "max_shift_seconds": 0.0}
    model = tiny(norm="pre", **options)
    log_probs, _, between = model(features(), LENGTHS_B)
    assert [one.shape for one in between] == [log_probs.shape] * 2
    torch.testing.assert_close(between[0].exp().sum(-1), torch.ones(3, 17))
    quiet = model.eval()(features(), LENGTHS_B)
    assert len(quiet) == 2
    torch.testing.assert_close(quiet[0], log_probs)
    # Without conditioning, the first output is that of a model with one layer.
    model.layers, model.intermediate_layers = model.layers[:1], frozenset()
    torch.testing.assert_close(between[0], model(features(), LENGTHS_B)[0])


def test_without_conditioning_intermediate_layers_change_no_output() -> None:
    plain, between = tiny(), tiny(intermediate_layers=[2])
    assert torch.equal(plain.eval()(features(), LENGTHS_B)[0], between.eval()(features(), LENGTHS_B)[0])
    conditioned = tiny(intermediate_layers=[2], self_conditioning=True)
    conditioned.load_state_dict(plain.state_dict(), strict=False)
    assert not torch.allclose(
        plain(features(), LENGTHS_B)[0], conditioned.eval()(features(), LENGTHS_B)[0], atol=1e-3
    )


def test_padding_does_not_pass_through_the_conditions() -> None:
    model = tiny(intermediate_layers=[1], self_conditioning=True, convolution=5).eval()
    quiet, _ = model(features(), LENGTHS_B)
    loud, lengths = model(features(padding=50.0), LENGTHS_B)
    for i in range(3):
        torch.testing.assert_close(quiet[i, : lengths[i]], loud[i, : lengths[i]], atol=1e-5, rtol=1e-5)


def test_parameters_of_the_published_model() -> None:
    with torch.device("meta"):
        model = TransformerCtc(29, 80, dim=768, heads=4, layers=36, feedforward=3072)
    count = sum(p.numel() for p in model.parameters())
    assert 250e6 < count < 260e6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"norm": "batch"}, "norm 'batch'"),
        ({"frontend": "lstm"}, "frontend 'lstm'"),
        ({"frontend": "conv2d"}, "stride must be 4 or 8 with frontend conv2d, not 3"),
        ({"max_shift_seconds": -1.0}, "max_shift_seconds"),
        ({"max_shift_seconds": math.nan}, "max_shift_seconds"),
        ({"heads": 2.0}, "heads"),
        ({"feedforward": -1}, "feedforward"),
        ({"layers": True}, "layers"),
        ({"convolution": "15"}, "convolution"),
        ({"heads": 3}, "dim 16"),
        ({"dim": 15, "heads": 3}, "dim 15"),
        ({"convolution": 4}, "convolution 4 must be odd"),
        ({"convolution": -1}, "convolution .*-1"),
        ({"intermediate_layers": [3]}, r"integers from 1 to 2, not \[3\]"),
        ({"intermediate_layers": [2, 1]}, "increasing integers"),
        ({"intermediate_layers": [True]}, "increasing integers"),
        ({"self_conditioning": True}, "requires intermediate_layers"),
        ({"stride": 0}, "stride must be 1 to 10,000"),
        ({"kernel": 0}, "kernel must be 1 to 10,000"),
        ({"layers": 0}, "layers must be 1 to 10,000"),
        ({"layers": 10**20}, "layers must be 1 to 10,000"),
        ({"dropout": 3.0}, "dropout 3.0 is outside"),
        ({"layerdrop": -0.1}, "layerdrop -0.1 is outside"),
        ({"frontend_dropout": 1.5}, "frontend_dropout 1.5 is outside"),
        ({"attention_dropout": float("nan")}, "attention_dropout nan is outside"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tiny(**options)


@NORMS
def test_learns_an_utterance_by_heart(norm: str) -> None:
    model = tiny(norm=norm)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    first = ctc(model).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = ctc(model)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2 * first


def test_convolution_sees_its_kernel_and_no_more() -> None:
    module = ConvolutionModule(4, 5)
    x_BTD = torch.randn(1, 20, 4, requires_grad=True)
    module(x_BTD, torch.ones(1, 20, dtype=torch.bool))[0, 10].square().sum().backward()
    assert x_BTD.grad is not None
    seen = x_BTD.grad[0].abs().sum(-1).nonzero().flatten().tolist()
    assert seen == [8, 9, 10, 11, 12]


def test_attention_dropout_stays_when_the_others_change() -> None:
    model = tiny(dropout=0.5, attention_dropout=0.0)
    model.set_dropout(0.2, 0.0)
    assert {layer.attention_dropout for layer in model.layers} == {0.0}
    other = tiny(dropout=0.5)
    other.set_dropout(0.2, 0.0)
    assert {layer.attention_dropout for layer in other.layers} == {0.2}

"""Each check of check-model fails for the model that breaks it, and for no other."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import torch
from support.broken_models import (
    AlwaysDrops,
    Bare,
    BatchNormed,
    BatchNormedAfterMask,
    BothRatesAtOnce,
    ByPlace,
    HalfUnderAutocast,
    IntermediateLogits,
    IntermediateShapes,
    IntermediateTensor,
    KeepsDoubles,
    LayersByCount,
    LayersByGlobalDraw,
    LayersUnseeded,
    LeaksBehindZeros,
    LeaksGarbage,
    LeaksLength,
    LengthsAsFloat,
    LengthsOfInput,
    NotPacked,
    NoTuple,
    OnWaveforms,
    OtherSignature,
    Overflows,
    Packed,
    Probabilities,
    Raises,
    ReadsOtherState,
    ResetsTheOtherRate,
    RoundedDown,
    Sound,
    TimeFirst,
    TooLong,
    TwiceAsPrecise,
    UndefinedForSilence,
    Unused,
    ValidFramesNormed,
    WeightNormed,
)
from torch import nn
from typer.testing import CliRunner

from asr_emapl import cli
from asr_emapl.checks import conformance
from asr_emapl.checks.check import CheckResult
from asr_emapl.checks.conformance import check
from asr_emapl.errors import UserError
from asr_emapl.models.contract import ModelConfig

TRANSFORMER = "asr_emapl.models.transformer:TransformerCtc"
TINY: dict[str, Any] = {"dim": 16, "heads": 2, "layers": 3}


def checked(model: type[nn.Module]) -> list[CheckResult]:
    return check(ModelConfig(f"{model.__module__}:{model.__name__}"))


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("layerdrop", [0.0, 0.4])
def test_the_transformer_passes(norm: str, layerdrop: float) -> None:
    findings = check(ModelConfig(TRANSFORMER, options=TINY | {"norm": norm, "layerdrop": layerdrop}))
    assert [f for f in findings if not f.passed] == []
    assert len(findings) == len(conformance.CHECKS)


@pytest.mark.parametrize("conditioned", [False, True])
def test_intermediate_layers_pass(conditioned: bool) -> None:
    options = {"intermediate_layers": [1, 2], "self_conditioning": conditioned, "convolution": 3}
    findings = check(ModelConfig(TRANSFORMER, options=TINY | options))
    assert [f for f in findings if not f.passed] == []


@pytest.mark.parametrize("model", [Sound, Packed, Bare, WeightNormed, ValidFramesNormed, OnWaveforms])
def test_sound_models_pass(model: type[nn.Module]) -> None:
    findings = checked(model)
    assert [f for f in findings if not f.passed] == []
    assert [f.name for f in findings] == [c.name for c in conformance.CHECKS]
    optional = [f.name for f in findings if "optional" in f.detail]
    assert optional == (["set_dropout", "begin_step"] if model is Bare else [])


@pytest.mark.parametrize(
    ("model", "name", "said"),
    [
        (NoTuple, "output shape", "returned Tensor instead of a tuple"),
        (TimeFirst, "output shape", r"expected \[2, T', 29\], but forward returned \[32, 2, 29\]"),
        (TwiceAsPrecise, "output shape", "expected float32, but forward returned torch.float64"),
        (
            Raises,
            "output shape",
            r"RuntimeError: mat1 and mat2 shapes cannot be multiplied \(.*"
            r"broken_models.py:\d+, in hidden: raise RuntimeError.*\); forward",
        ),
        (Probabilities, "log-probabilities", "log_softmax"),
        (
            LengthsOfInput,
            "lengths",
            r"\[18, 18\] frames, forward returns the lengths \[18, 18\], but output_lengths \[9, 9\]",
        ),
        (RoundedDown, "lengths", r"\[19, 18\] frames, .* lengths \[10, 9\], but output_lengths \[9, 9\]"),
        (TooLong, "lengths", "but its output has 9 frames"),
        (LengthsAsFloat, "lengths", "of torch.float32"),
        (AlwaysDrops, "eval is deterministic", "self.training"),
        (LeaksGarbage, "padding", "garbage"),
        (LeaksLength, "padding", "zeros"),
        (LeaksBehindZeros, "padding", "zeros"),
        (ByPlace, "order", "another order"),
        (UndefinedForSilence, "unusual inputs", "silence"),
        (IntermediateTensor, "intermediate outputs", "a list of tensors"),
        (IntermediateLogits, "intermediate outputs", "output 1 sums over tokens to 1"),
        (IntermediateShapes, "intermediate outputs", r"output 0 is \[2, 16, 29\], .* \[2, 32, 29\]"),
        (BatchNormed, "padding in training", r"more zeros as padding.* \(batch normalisation: norm\)"),
        (BatchNormedAfterMask, "padding in training", "more zeros"),
        (Unused, "gradients", "does not reach forgotten.weight, forgotten.bias"),
        (Overflows, "gradients", "NaN or infinite gradient in conv.weight"),
        (KeepsDoubles, "teacher", "RuntimeError.*in hidden"),
        (ReadsOtherState, "state_dict", "persistent buffer"),
        (HalfUnderAutocast, "bf16", "torch.bfloat16"),
        (OtherSignature, "set_dropout", "TypeError"),
        (BothRatesAtOnce, "set_dropout", "TypeError"),
        (ResetsTheOtherRate, "set_dropout", r"set_dropout\(layerdrop=0.0\) changes dropout as well"),
        (LayersByGlobalDraw, "begin_step", "two micro-batches"),
        (LayersByCount, "begin_step", "two micro-batches"),
        (LayersUnseeded, "begin_step", "second time"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_broken_models_fail_their_check_alone(model: type[nn.Module], name: str, said: str) -> None:
    findings = checked(model)
    failed = [f for f in findings if not f.passed]
    assert [f.name for f in failed] == [name]
    assert re.search(said, failed[0].detail)
    remedy = next(c.remedy for c in conformance.CHECKS if c.name == name)
    assert f"; {remedy}" in failed[0].detail
    assert "\n" not in failed[0].detail
    # What was not judged is named.
    absent = {c.name for c in conformance.CHECKS} - {f.name for f in findings}
    assert all(other in failed[0].detail for other in absent)


def test_the_remedy_for_a_recurrent_layer_is_packing() -> None:
    (failed,) = [f for f in checked(NotPacked) if not f.passed]
    assert failed.name == "padding"
    assert "(first in recurrent, from output frame" in failed.detail
    assert "pack_padded_sequence" in failed.detail
    assert "convolution" not in failed.detail


def test_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    checked(Sound)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_that_cannot_be_built() -> None:
    with pytest.raises(UserError, match="nowhere"):
        check(ModelConfig("nowhere.at_all:Model"))


def run_cli(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["check-model", *arguments])
    return result.exit_code, result.output


def test_command_with_a_model_that_passes() -> None:
    code, output = run_cli(TRANSFORMER, "dim=16", "heads=2", "layers=1", "norm=pre")
    assert code == 0
    lines = output.splitlines()
    assert lines[: len(conformance.CHECKS)] == [f"ok   {c.name}" for c in conformance.CHECKS]
    verdict, size = lines[len(conformance.CHECKS) :][:2]
    assert verdict == "all checks passed"
    assert "M parameters; 100 input and" in size


def test_command_with_a_model_that_fails() -> None:
    code, output = run_cli("support.broken_models:LeaksLength", "dim=4")
    assert code == 1
    assert [line.split(":")[0] for line in output.splitlines() if line.startswith("FAIL")] == ["FAIL padding"]


def test_command_without_a_target() -> None:
    assert run_cli()[0] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.at_all:Model"], "nowhere.at_all"),
        ([TRANSFORMER, "dim"], "option 'dim': write key=value"),
        ([TRANSFORMER, "depth=3"], "depth"),
    ],
)
def test_command_with_what_the_user_can_mend(arguments, said, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["asr-emapl", "check-model", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1

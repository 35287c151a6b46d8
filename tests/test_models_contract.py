"""A model named by import path: what is wrong with the path, the class or its options is named."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from asr_emapl.errors import UserError
from asr_emapl.models import CtcModel, ModelConfig, build_model
from asr_emapl.models.target import NO_TRUST, USERS_OWN, resolve
from asr_emapl.models.transformer import TransformerCtc

TRANSFORMER = "asr_emapl.models.transformer:TransformerCtc"
TINY: dict[str, Any] = {"dim": 8, "heads": 2, "layers": 1}


class NoLengths(nn.Module):
    """Has no output_lengths."""

    def __init__(self, vocabulary_size: int, input_size: int) -> None:
        super().__init__()


class NoModule:
    """Keeps the contract, but has no parameters that torch knows of."""

    def __init__(self, vocabulary_size: int, input_size: int) -> None:
        pass

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return features, lengths

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths


class OtherArguments(nn.Module):
    """Cannot be told the vocabulary."""

    def __init__(self, classes: int) -> None:
        super().__init__()


def build(target: str, **options: Any) -> nn.Module:
    return build_model(
        ModelConfig(target, options=options), vocabulary_size=29, input_size=40, trust=USERS_OWN
    )


def test_the_model_a_config_names() -> None:
    model = build(TRANSFORMER, **TINY)
    assert isinstance(model, TransformerCtc)
    assert isinstance(model, CtcModel)
    assert model.output.out_features == 29
    assert model.frontend.norm.normalized_shape == (40,)


def test_the_default_is_the_transformer() -> None:
    assert resolve(ModelConfig().target, NO_TRUST) is TransformerCtc
    assert ModelConfig().options == {}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("asr_emapl.models.transformer", r"'asr_emapl.models.transformer': write package.module:Class"),
        ("asr_emapl.models.transformer:", "write package.module:Class"),
        (":TransformerCtc", "':TransformerCtc'"),
        (".transformer:TransformerCtc", "'.transformer:TransformerCtc'"),
        ("", "''"),
        ("no_such_package:Model", "'no_such_package:Model': No module named 'no_such_package'.*PYTHONPATH"),
        ("asr_emapl.no_such_module:Model", "No module named 'asr_emapl.no_such_module'"),
        ("asr_emapl.models.transformer:Missing", "module asr_emapl.models.transformer has no Missing"),
    ],
)
def test_paths_that_lead_nowhere(target: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(target, **TINY)


def test_a_module_whose_own_import_is_missing(tmp_path, monkeypatch) -> None:
    (tmp_path / "half_installed_model.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError,
        match=r"'half_installed_model:Model' cannot be imported: .*No module named 'no_such_dependency' "
        r"\(.*half_installed_model.py:1, in <module>: import no_such_dependency\)",
    ):
        build("half_installed_model:Model")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"depth": 3},
            "unexpected keyword argument 'depth'; it is called with vocabulary_size, input_size, d",
        ),
        ({"norm": "batch"}, "norm 'batch' is neither"),
        ({"heads": 3}, r"dim 8 must be even and a multiple of heads \(3\)"),
        ({"dim": "wide"}, ""),
        ({"heads": 0}, ""),
        ({"frontend_dropout": 2.0}, "dropout"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"model.options for {TRANSFORMER}: .*{said}"):
        build(TRANSFORMER, **(TINY | options))


@pytest.mark.parametrize("name", ["NoLengths", "NoModule"])
def test_classes_that_do_not_keep_the_contract(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} is not a torch module with forward.* and output_lengths"):
        build(f"{__name__}:{name}")


def test_a_class_that_takes_other_arguments() -> None:
    with pytest.raises(UserError, match=r"OtherArguments: .*'(classes|vocabulary_size)'"):
        build(f"{__name__}:OtherArguments")


@pytest.mark.parametrize("target", ["math:pi", "math:floor", "builtins:type"])
def test_things_that_are_no_class(target: str) -> None:
    with pytest.raises(UserError, match=target):
        build(target)


def test_the_options_are_not_written_to() -> None:
    options = dict(TINY)
    build_model(ModelConfig(TRANSFORMER, options=options), vocabulary_size=29, input_size=40)
    assert options == TINY

"""What a model has to be, and how a config names one: by import path, nothing is registered."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from asr_emapl.errors import UserError


@runtime_checkable
class CtcModel(Protocol):
    """The contract. Axes: B utterances, T feature frames, F mel bands, T' output frames, V tokens (blank 0).

    Built as `Target(vocabulary_size=V, mel_bands=F, **model.options)`.

    Two methods are optional, for what only some models have:
    `begin_step(seed: int)`, called before each optimizer step with a number that is the same on all ranks
    and micro-batches (layerdrop draws from it); `set_dropout(dropout: float, layerdrop: float)`, called once
    pseudo-labels begin if the config asks for another dropout from there on.
    """

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, F] float and [B] long -> log-probabilities [B, T', V] float32 and their lengths [B] long."""
        ...

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Feature frames [B] -> output frames [B]. Tells beforehand which labels CTC can align."""
        ...


@dataclass
class ModelConfig:
    """`target` is "package.module:Class"; `options` are the constructor's keyword arguments."""

    target: str = "asr_emapl.models.transformer:TransformerCtc"
    options: dict[str, Any] = field(default_factory=dict)


def build_model(config: ModelConfig, *, vocabulary_size: int, mel_bands: int) -> nn.Module:
    """The model a config names.

    Raises:
        UserError: the path leads nowhere, the class does not keep the contract, or an option is unknown.
    """
    cls = find(config.target)
    options = {"vocabulary_size": vocabulary_size, "mel_bands": mel_bands, **config.options}
    try:
        inspect.signature(cls).bind(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"model.options for {config.target}: {error}") from error
    try:
        model = cls(**options)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"model.options for {config.target}: {error}") from error
    if not isinstance(model, nn.Module) or not isinstance(model, CtcModel):
        raise UserError(
            f"model.target {config.target} is no torch module with forward(features, lengths) "
            "and output_lengths(lengths)"
        )
    return model


def find(target: str) -> Any:
    """The object at "package.module:Name".

    Raises:
        UserError: no such module or name.
    """
    module_name, _, name = target.partition(":")
    if not name or not module_name or module_name.startswith("."):
        raise UserError(f"model.target {target!r}: write package.module:Class")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"model.target {target!r}: {error}; is its folder on PYTHONPATH?") from error
    if not hasattr(module, name):
        raise UserError(f"model.target {target!r}: module {module_name} has no {name}")
    return getattr(module, name)

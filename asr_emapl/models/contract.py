"""What a model has to be, and how a config names one: by import path, nothing is registered."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from asr_emapl.errors import UserError
from asr_emapl.models.failure import blaming
from asr_emapl.models.target import NO_TRUST, Trust, resolve
from asr_emapl.settings import Text


@runtime_checkable
class CtcModel(Protocol):
    """The contract. Axes: B utterances, T feature frames, F mel bands, T' output frames, V tokens (blank 0).

    Built as `Target(vocabulary_size=V, mel_bands=F, **model.options)`.

    Two methods are optional, for what only some models have:
    `begin_step(seed: int)`, called before each optimizer step with a number that is the same on all ranks
    and micro-batches (layerdrop draws from it);
    `set_dropout(dropout: float | None = None, layerdrop: float | None = None)`, called by keyword before each
    step once pseudo-labels have begun, if the config asks for another dropout from there on. A rate that is
    not to change is not passed.
    """

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, F] float and [B] long -> log-probabilities [B, T', V] float32 and their lengths [B] long."""
        ...

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Feature frames [B] -> output frames [B]. Tells beforehand which labels CTC can align."""
        ...


@dataclass
class ModelConfig:
    """The acoustic model."""

    target: Text = "asr_emapl.models.transformer:TransformerCtc"
    """Import path of the class, package.module:Class."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of its constructor."""


def build_model(
    config: ModelConfig, *, vocabulary_size: int, mel_bands: int, trust: Trust = NO_TRUST
) -> nn.Module:
    """The model a config names.

    Args:
        trust: whose code may be imported for it; unless told otherwise, none but asr_emapl's own.

    Raises:
        UserError: the path leads nowhere or is not trusted, the class does not keep the contract, an option
            is unknown, or the class raises an error.
    """
    cls = resolve(config.target, trust)
    options = {"vocabulary_size": vocabulary_size, "mel_bands": mel_bands, **config.options}
    try:
        inspect.signature(cls).bind(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"model.options for {config.target}: {error}") from error
    with blaming(f"model.options for {config.target}", cls.__module__):
        model = cls(**options)
    if not isinstance(model, nn.Module) or not isinstance(model, CtcModel):
        raise UserError(
            f"model.target {config.target} is no torch module with forward(features, lengths) "
            "and output_lengths(lengths)"
        )
    return model


def build_twin(model: nn.Module, build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A second instance with the state of `model`, as a teacher's module.

    It is built and loaded, not copied: copy.deepcopy fails for a module with torch.nn.utils.weight_norm,
    which keeps the output of a computation as an attribute.

    Args:
        build: as `model` was built, after torch.manual_seed(seed); a constructor then draws the same numbers.

    Raises:
        UserError: the second instance does not take the state_dict of the first.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = build()
    try:
        twin.load_state_dict(model.state_dict())
    except RuntimeError as error:
        raise UserError(
            f"a second {type(model).__name__} with these options does not load the state_dict of the first "
            f"({' '.join(str(error).split())[:300]}): name and shape its weights alike in each instance"
        ) from error
    return twin

"""The interface of a model, and how to build one from its import path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from asr_emapl.errors import UserError
from asr_emapl.models.presets import PRESETS, TRANSFORMER, Preset
from asr_emapl.models.target import NO_TRUST, Trust, construct, resolve
from asr_emapl.settings import Place, Text


@runtime_checkable
class CtcModel(Protocol):
    """Interface of a model. Axes: B utterances, T feature frames, F features, T' output frames, V tokens.

    The model is built as `Target(vocabulary_size=V, input_size=F, **model.options)`, without `input_size` if
    its input is the waveform. Token 0 is the blank.

    The class attribute `input: str` states what the model takes, as in the setting `features.extractor`:
    log_mel (the default), waveform ([B, N] instead of [B, T, F]), or the import path of an extractor.

    Four methods are optional:
    `begin_step(seed: int)` is called before each optimizer step with a seed that is the same on all ranks
    and micro-batches, for example for layerdrop;
    `set_dropout(dropout: float | None = None, layerdrop: float | None = None)` is called with keyword
    arguments before each step with pseudo-labels, if the config changes the dropout. Rates that do not change
    are omitted;
    `layer_outputs(features: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]` returns the outputs of
    the layers [B, T', D], and their lengths [B]. Self-supervised training requires it, and a linear layer
    `output` that `forward` applies to the last of them;
    `options_without_weights()` returns options with which the constructor builds the same model without
    `model.weights`, so that checkpoints and exported models do not need that file; without the method, those
    of the config are used. Extractors may have it, too.
    """

    def forward(
        self, features: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, list[Tensor]]:
        """[B, T, F] float and [B] long -> log-probabilities [B, T', V] float32 and their lengths [B] long.

        In training mode, a third element may follow: a list of log-probabilities [B, T', V] of intermediate
        layers, which the setting loss.intermediate weighs.
        """
        ...

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Feature frames [B] -> output frames [B], used to check which labels CTC can align."""
        ...


@dataclass
class ModelConfig:
    """The acoustic model."""

    target: Text = TRANSFORMER
    """Import path of the class, package.module:Class."""
    weights: Place | None = None
    """File of weights, passed to the constructor as keyword argument `weights`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Other keyword arguments of the constructor."""
    preset: Preset | None = None
    """Target and options by name; `options` override them. small (about 5 M parameters) and base (30 M):
    transformers with convolutions, for few hours of audio; paper (255 M): the model of slimIPL; conformer
    (25 M): torchaudio's, with the sizes of Conformer (M). Runs store target and options instead."""

    def __post_init__(self) -> None:
        """Replace the preset by its target and options, so that a stored config does not depend on it.

        Raises:
            UserError: the target is not that of the preset.
        """
        if self.preset is None:
            return
        target, options = PRESETS[self.preset]
        if self.target not in (TRANSFORMER, target):
            raise UserError(
                f"model.preset {self.preset} is {target}, but model.target is {self.target}; remove one"
            )
        self.preset, self.target, self.options = None, target, dict(options) | self.options


def build_model(
    config: ModelConfig, *, vocabulary_size: int, input_size: int | None, trust: Trust = NO_TRUST
) -> nn.Module:
    """Build the model of a config.

    Args:
        input_size: number of features per frame; None: the input is the waveform.
        trust: code that may be imported; by default, only asr_emapl's.

    Raises:
        UserError: the class does not exist or is not trusted, it does not implement `CtcModel`, an option is
            unknown, or the constructor raises an error.
    """
    cls = resolve(config.target, trust)
    given = {"vocabulary_size": vocabulary_size, "input_size": input_size, "weights": config.weights}
    options = {name: value for name, value in given.items() if value is not None} | config.options
    model = construct(cls, options, f"model.options for {config.target}")
    if not isinstance(model, nn.Module) or not isinstance(model, CtcModel):
        raise UserError(
            f"model.target {config.target} is not a torch module with forward(features, lengths) "
            "and output_lengths(lengths)"
        )
    return model


def build_twin(model: nn.Module, build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a second instance with the state of `model`, as a teacher's module.

    It is built and loaded, not copied, because copy.deepcopy fails for a module with
    torch.nn.utils.weight_norm, which has a non-leaf tensor as an attribute.

    Args:
        build: builds a model as `model` was built; called after torch.manual_seed(seed).

    Raises:
        UserError: the second instance cannot load the state_dict of the first.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = build()
    try:
        twin.load_state_dict(model.state_dict())
    except RuntimeError as error:
        raise UserError(
            f"a second {type(model).__name__} with these options cannot load the state_dict of the first "
            f"({' '.join(str(error).split())[:300]}); use the same names and shapes in each instance"
        ) from error
    return twin

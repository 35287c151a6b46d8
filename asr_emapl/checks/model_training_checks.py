"""Checks of a model in training mode, and of its optional methods; they modify the model.

Axes: B utterances, T feature frames, F features, T' output frames, V tokens (blank 0).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from asr_emapl.checks.check import Passed
from asr_emapl.checks.model_subject import SHORT_FRAMES, SHOWN_NAMES, TOLERANCE, Subject, backward, distance
from asr_emapl.errors import listing


def padding_in_training(subject: Subject) -> str:
    """Batch normalisation over padded frames changes the output in training mode only."""
    model = subject.build().train()
    model.load_state_dict(subject.model.state_dict())
    if hasattr(model, "set_dropout"):
        model.set_dropout(dropout=0.0, layerdrop=0.0)  # type: ignore[operator]
    _disable_dropout(model)

    def output(features_BTF: Tensor, seed: int = 0) -> Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            return model(features_BTF, subject.lengths_B)[0]

    expected_BTV = output(subject.features_BTF)
    garbage_BTF = subject.features_BTF.clone()
    short = SHORT_FRAMES * subject.unit
    garbage_BTF[1, short:] = 100.0 * torch.randn_like(garbage_BTF[1, short:])
    variants = {"garbage": garbage_BTF}
    # Random numbers that remain after dropout is disabled depend on the shape.
    if distance(expected_BTV, output(subject.features_BTF, seed=1)) <= TOLERANCE:
        zeros_BTF = torch.zeros_like(subject.features_BTF)
        variants["more zeros"] = torch.cat([subject.features_BTF, zeros_BTF], dim=1)
    for what, features_BTF in variants.items():
        found_BTV = output(features_BTF)
        for row, frames in enumerate(model.output_lengths(subject.lengths_B).tolist()):  # type: ignore[operator]
            off = distance(expected_BTV[row, :frames], found_BTV[row, :frames])
            if not off <= TOLERANCE:
                norms = [
                    n for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
                ]
                where = f" (batch normalisation: {listing(norms, SHOWN_NAMES)})" if norms else ""
                return f"in training mode, with {what} as padding, valid frames change by {off:.3g}{where}"
    return ""


def _disable_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0


def set_dropout(subject: Subject) -> str:
    """Check that setting one rate does not change the other: one is 0, the other active."""
    model = subject.model
    for kept, changed in (("dropout", "layerdrop"), ("layerdrop", "dropout")):
        # Use a layerdrop close to 1, so that it does not matter which layers are drawn.
        model.set_dropout(**{kept: 0.5 if kept == "dropout" else 0.999, changed: 0.0})  # type: ignore[operator]
        first_BTV = _train_output(subject)
        model.set_dropout(**{changed: 0.0})  # type: ignore[operator]
        if not distance(first_BTV, _train_output(subject)) <= TOLERANCE:
            return f"set_dropout({changed}=0.0) changes {kept} as well"
    model.set_dropout(dropout=0.2, layerdrop=0.2)  # type: ignore[operator]
    _train_output(subject)
    return ""


def intermediate(subject: Subject) -> str:
    """Check the outputs of intermediate layers, which forward may return in training mode."""
    with torch.no_grad():
        output = subject.model.train()(subject.features_BTF, subject.lengths_B)
    if len(output) == 2:
        return ""
    if len(output) != 3 or not isinstance(output[2], list) or not output[2]:
        return "in training mode, forward returns neither two tensors nor two tensors and a list of tensors"
    for i, log_probs_BTV in enumerate(output[2]):
        if log_probs_BTV.shape != output[0].shape:
            return f"output {i} is {list(log_probs_BTV.shape)}, but the last one {list(output[0].shape)}"
        off = (log_probs_BTV.exp().sum(-1) - 1.0).abs().max().item()
        if not off <= 1e-3:
            return f"exp of output {i} sums over tokens to 1 +- {off:.3g}"
    return ""


def begin_step(subject: Subject) -> str:
    """Detect skipped layers from zero gradients, which works regardless of other randomness."""
    model, begin = subject.model, subject.model.begin_step
    if hasattr(model, "set_dropout"):
        model.set_dropout(dropout=0.0, layerdrop=0.5)  # type: ignore[operator]
    _disable_dropout(model)
    for step in range(4):
        begin(seed=step)  # type: ignore[operator]
        first_BTV, first = backward(subject, seed=step), _silent(model)
        backward(subject, seed=step + 100)
        if _silent(model) != first:
            return "two micro-batches of one step skip different layers"
        begin(seed=step + 1)  # type: ignore[operator]
        begin(seed=step)  # type: ignore[operator]
        again_BTV = backward(subject, seed=step)
        if _silent(model) != first or not distance(first_BTV, again_BTV) <= TOLERANCE:
            return "the same seed skips different layers the second time"
    return ""


def optional(method: str, run: Callable[[Subject], str | Passed]) -> Callable[[Subject], str | Passed]:
    """The check of a method, which a model need not have."""

    def run_if_present(subject: Subject) -> str | Passed:
        if not hasattr(subject.model, method):
            return Passed("not defined; it is optional")
        return run(subject)

    return run_if_present


def _train_output(subject: Subject, seed: int = 0) -> Tensor:
    """Log-probabilities [B, T', V] in training mode, with the given torch seed."""
    torch.manual_seed(seed)
    with torch.no_grad():
        return subject.model.train()(subject.features_BTF, subject.lengths_B)[0]


def _silent(model: nn.Module) -> set[str]:
    """Names of the parameters whose gradient is missing or zero."""
    return {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}

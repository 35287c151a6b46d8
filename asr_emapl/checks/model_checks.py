"""The checks of a model's interface; `checks.conformance` runs them.

Axes: B utterances, T feature frames, F features, T' output frames, V tokens (blank 0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl.checks.check import Check, Passed
from asr_emapl.checks.padding_leak import leaking_module
from asr_emapl.ema import EmaTeacher
from asr_emapl.errors import listing
from asr_emapl.models.contract import build_twin

LONG_FRAMES, SHORT_FRAMES = 64, 41
"""Lengths in frames of the two test utterances used by most checks."""

LEAST_FRAMES = 18
"""Frames in 0.2 s, the default data.min_seconds."""

_VERY_LONG_FRAMES = 3500  # of 10 ms; the longest utterances of LibriSpeech have 35 s

TOLERANCE = 1e-4
"""Tolerance when comparing log-probabilities: different shapes may use different kernels."""

SEED = 0
"""Seed of the model's random initialisation."""

_SHOWN_NAMES = 5  # maximum number of parameter names listed in a message


@dataclass(frozen=True)
class Subject:
    """The model under test, and a factory for further instances.

    Attributes:
        features_BTF: two utterances of `LONG_FRAMES` and `SHORT_FRAMES`, or their waveforms [B, N].
        unit: input frames per frame of this module: 1, or the samples of 10 ms.
    """

    model: nn.Module
    build: Callable[[], nn.Module]
    vocabulary_size: int
    features_BTF: Tensor
    lengths_B: Tensor
    unit: int = 1

    def evaluate(
        self, features_BTF: Tensor | None = None, lengths_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the model in eval mode, by default on the two test utterances."""
        return _evaluate(
            self.model,
            self.features_BTF if features_BTF is None else features_BTF,
            self.lengths_B if lengths_B is None else lengths_B,
        )


def _shape(subject: Subject) -> str:
    output = subject.evaluate()
    if not (isinstance(output, tuple) and len(output) == 2 and all(isinstance(o, Tensor) for o in output)):
        return f"forward returned {type(output).__name__} instead of a tuple of two tensors"
    log_probs = output[0]
    batch = subject.features_BTF.shape[0]
    if log_probs.dim() != 3 or log_probs.shape[0] != batch or log_probs.shape[2] != subject.vocabulary_size:
        expected = f"[{batch}, T', {subject.vocabulary_size}]"
        return f"expected {expected}, but forward returned {list(log_probs.shape)}"
    return (
        ""
        if log_probs.dtype == torch.float32
        else f"expected float32, but forward returned {log_probs.dtype}"
    )


def _normalised(subject: Subject) -> str:
    log_probs_BTV, _ = subject.evaluate()
    off = (log_probs_BTV.exp().sum(-1) - 1.0).abs().max().item()
    return "" if off <= 1e-3 else f"exp(output) sums over tokens to 1 +- {off:.3g}"


def _lengths(subject: Subject) -> str:
    """Test 12 consecutive lengths, each as the longest of its batch, for all remainders of the stride."""
    least = LEAST_FRAMES * subject.unit
    for longest in range(least, least + 12):
        lengths_B = torch.tensor([longest, least])
        log_probs_BTV, returned_B = subject.evaluate(subject.features_BTF[:, :longest], lengths_B)
        promised_B = subject.model.output_lengths(lengths_B)  # type: ignore[operator]
        for what, tensor in (
            ("forward returned lengths", returned_B),
            ("output_lengths returned", promised_B),
        ):
            if tensor.shape != lengths_B.shape or tensor.dtype != torch.long:
                return f"{what} of {tensor.dtype} {list(tensor.shape)}; expected long [2]"
        returned, promised, frames = returned_B.tolist(), promised_B.tolist(), log_probs_BTV.shape[1]
        if returned != promised:
            return (
                f"for {lengths_B.tolist()} frames, forward returns the lengths {returned}, "
                f"but output_lengths {promised}"
            )
        if not all(1 <= length <= frames for length in returned):
            return (
                f"for {lengths_B.tolist()} frames, forward returns the lengths {returned}, "
                f"but its output has {frames} frames"
            )
    return ""


def _deterministic(subject: Subject) -> str:
    off = _distance(subject.evaluate()[0], subject.evaluate()[0])
    return "" if off <= TOLERANCE else f"two passes in eval mode differ by {off:.3g}"


def _padding(subject: Subject) -> str:
    short = SHORT_FRAMES * subject.unit
    alone = partial(subject.evaluate, subject.features_BTF[1:, :short], torch.tensor([short]))
    alone_BTV, lengths_B = alone()
    frames = int(lengths_B[0])
    for what, size in (("zeros", 0.0), ("garbage", 100.0)):
        features_BTF = subject.features_BTF.clone()
        features_BTF[1, short:] = size * torch.randn_like(features_BTF[1, short:])
        together_BTV, _ = subject.evaluate(features_BTF)
        off = _distance(alone_BTV[0, :frames], together_BTV[1, :frames])
        if not off <= TOLERANCE:
            place = leaking_module(
                subject.model, alone, partial(subject.evaluate, features_BTF), 1, TOLERANCE
            )
            where = f" (first in {place})" if place else ""
            return (
                f"in a batch with a longer utterance and {what} as padding, valid frames change "
                f"by {off:.3g}{where}"
            )
    return ""


def _order(subject: Subject) -> str:
    """Random numbers or state that depend on the place in the batch."""
    expected_BTV, _ = subject.evaluate()
    features_BTF, lengths_B = subject.features_BTF.flip(0), subject.lengths_B.flip(0)
    found_BTV = subject.evaluate(features_BTF, lengths_B)[0].flip(0)
    for row, frames in enumerate(subject.model.output_lengths(subject.lengths_B).tolist()):  # type: ignore[operator]
        off = _distance(expected_BTV[row, :frames], found_BTV[row, :frames])
        if not off <= TOLERANCE:
            return f"with the utterances in another order, their outputs change by {off:.3g}"
    return ""


def _unusual(subject: Subject) -> str:
    """Silence, loud noise, the shortest and a long utterance must have a finite output."""
    shape, unit = subject.features_BTF.shape[2:], subject.unit
    inputs = {
        "silence": torch.zeros(1, LONG_FRAMES * unit, *shape),
        "loud noise": 100.0 * torch.randn(1, LONG_FRAMES * unit, *shape),
        "0.2 s": torch.randn(1, LEAST_FRAMES * unit, *shape),
        "35 s": torch.randn(1, _VERY_LONG_FRAMES * unit, *shape),
    }
    for what, features_BTF in inputs.items():
        log_probs_BTV, _ = subject.evaluate(features_BTF, torch.tensor([features_BTF.shape[1]]))
        if not log_probs_BTV.isfinite().all():
            return f"for {what}, the output is not finite"
    return ""


def _padding_in_training(subject: Subject) -> str:
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
    if _distance(expected_BTV, output(subject.features_BTF, seed=1)) <= TOLERANCE:
        zeros_BTF = torch.zeros_like(subject.features_BTF)
        variants["more zeros"] = torch.cat([subject.features_BTF, zeros_BTF], dim=1)
    for what, features_BTF in variants.items():
        found_BTV = output(features_BTF)
        for row, frames in enumerate(model.output_lengths(subject.lengths_B).tolist()):  # type: ignore[operator]
            off = _distance(expected_BTV[row, :frames], found_BTV[row, :frames])
            if not off <= TOLERANCE:
                norms = [
                    n for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
                ]
                where = f" (batch normalisation: {listing(norms, _SHOWN_NAMES)})" if norms else ""
                return f"in training mode, with {what} as padding, valid frames change by {off:.3g}{where}"
    return ""


def _disable_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0


def _gradients(subject: Subject) -> str:
    _backward(subject)
    trained = [(name, p.grad) for name, p in subject.model.named_parameters() if p.requires_grad]
    if not trained:
        return "no parameter requires a gradient"
    absent = [name for name, gradient in trained if gradient is None]
    if absent:
        return f"the CTC loss does not reach {listing(absent, _SHOWN_NAMES)}"
    broken = [name for name, g in trained if g is not None and not g.isfinite().all()]
    return f"NaN or infinite gradient in {listing(broken, _SHOWN_NAMES)}" if broken else ""


def _teacher(subject: Subject) -> str:
    twin = build_twin(subject.model, subject.build, SEED)
    teacher = EmaTeacher(subject.model, half_life=3600.0, module=twin)
    off = _distance(subject.evaluate()[0], teacher(subject.features_BTF, subject.lengths_B)[0])
    return "" if off <= TOLERANCE else f"a teacher with the same weights differs from the model by {off:.3g}"


def _bf16(subject: Subject) -> str:
    with torch.autocast("cpu", torch.bfloat16):
        log_probs_BTV, _ = subject.evaluate()
    if log_probs_BTV.dtype != torch.float32:
        return f"under autocast to bfloat16 the log-probabilities are {log_probs_BTV.dtype}"
    return "" if log_probs_BTV.isfinite().all() else "under autocast to bfloat16 the output is not finite"


def _state_dict(subject: Subject) -> str:
    other = subject.build()
    other.load_state_dict(subject.model.state_dict())
    off = _distance(subject.evaluate()[0], _evaluate(other, subject.features_BTF, subject.lengths_B)[0])
    return (
        ""
        if off <= TOLERANCE
        else f"a second instance with its state_dict differs from the model by {off:.3g}"
    )


def _set_dropout(subject: Subject) -> str:
    """Check that setting one rate does not change the other: one is 0, the other active."""
    model = subject.model
    for kept, changed in (("dropout", "layerdrop"), ("layerdrop", "dropout")):
        # Use a layerdrop close to 1, so that it does not matter which layers are drawn.
        model.set_dropout(**{kept: 0.5 if kept == "dropout" else 0.999, changed: 0.0})  # type: ignore[operator]
        first_BTV = _train_output(subject)
        model.set_dropout(**{changed: 0.0})  # type: ignore[operator]
        if not _distance(first_BTV, _train_output(subject)) <= TOLERANCE:
            return f"set_dropout({changed}=0.0) changes {kept} as well"
    model.set_dropout(dropout=0.2, layerdrop=0.2)  # type: ignore[operator]
    _train_output(subject)
    return ""


def _begin_step(subject: Subject) -> str:
    """Detect skipped layers from zero gradients, which works regardless of other randomness."""
    model, begin = subject.model, subject.model.begin_step
    if hasattr(model, "set_dropout"):
        model.set_dropout(dropout=0.0, layerdrop=0.5)  # type: ignore[operator]
    _disable_dropout(model)
    for step in range(4):
        begin(seed=step)  # type: ignore[operator]
        first_BTV, first = _backward(subject, seed=step), _silent(model)
        _backward(subject, seed=step + 100)
        if _silent(model) != first:
            return "two micro-batches of one step skip different layers"
        begin(seed=step + 1)  # type: ignore[operator]
        begin(seed=step)  # type: ignore[operator]
        again_BTV = _backward(subject, seed=step)
        if _silent(model) != first or not _distance(first_BTV, again_BTV) <= TOLERANCE:
            return "the same seed skips different layers the second time"
    return ""


def _optional(method: str, run: Callable[[Subject], str | Passed]) -> Callable[[Subject], str | Passed]:
    """The check of a method, which a model need not have."""

    def run_if_present(subject: Subject) -> str | Passed:
        if not hasattr(subject.model, method):
            return Passed("the model does not define it; it is optional")
        return run(subject)

    return run_if_present


CHECKS: tuple[Check[Subject], ...] = (
    Check(
        "output shape",
        _shape,
        "forward(features [B, T, F], lengths [B]) returns (log_probs float32 [B, T', V], lengths long [B])",
    ),
    Check(
        "log-probabilities",
        _normalised,
        "end forward with log_softmax(logits.float(), dim=-1)",
        needs=("output shape",),
    ),
    Check(
        "lengths",
        _lengths,
        "return output_lengths(lengths) from forward, and derive it from kernel, stride and padding",
        needs=("output shape",),
    ),
    Check(
        "eval is deterministic",
        _deterministic,
        "use random numbers only if self.training (nn.Dropout does; for F.dropout, pass training)",
        needs=("output shape",),
    ),
    Check(
        "padding",
        _padding,
        "set padding to zero before each convolution, and exclude it from attention and statistics",
        needs=("output shape", "lengths", "eval is deterministic"),
    ),
    Check(
        "order",
        _order,
        "do not use the place of an utterance in the batch",
        needs=("output shape", "lengths", "eval is deterministic"),
    ),
    Check(
        "unusual inputs",
        _unusual,
        "add a small constant to each denominator and logarithm, and support utterances of 35 s",
        needs=("output shape",),
    ),
    Check(
        "gradients",
        _gradients,
        "use each parameter in each pass (multiplied by 0.0 if its layer is skipped), or remove or freeze "
        "it, because distributed training waits for every gradient",
        needs=("output shape", "lengths"),
    ),
    Check(
        "teacher",
        _teacher,
        "the teacher is a second instance in float32 that loads the model's state_dict: use the same names "
        "and shapes of weights in each instance, and their dtype in forward",
        needs=("output shape", "eval is deterministic"),
    ),
    Check(
        "bf16",
        _bf16,
        "end forward with log_softmax(logits.float(), dim=-1)",
        needs=("output shape",),
    ),
    Check(
        "state_dict",
        _state_dict,
        "checkpoints contain only the state_dict: register everything that forward needs as a parameter or "
        "persistent buffer",
        needs=("output shape", "eval is deterministic"),
    ),
    # The following checks modify the model.
    Check(
        "set_dropout",
        _optional("set_dropout", _set_dropout),
        "after set_dropout(dropout: float | None = None, layerdrop: float | None = None), the model must "
        "still train, and None must leave a rate unchanged; or remove the method",
        needs=("output shape",),
    ),
    Check(
        "padding in training",
        _padding_in_training,
        "compute statistics over valid frames only, or replace batch normalisation by LayerNorm; otherwise "
        "training depends on the other utterances in the micro-batch",
        needs=("output shape", "lengths", "eval is deterministic", "padding", "set_dropout"),
    ),
    Check(
        "begin_step",
        _optional("begin_step", _begin_step),
        "store the seed in begin_step(seed: int), and in each forward pass choose the skipped layers with a "
        "new torch.Generator that has this seed; or remove the method",
        needs=("output shape", "lengths", "set_dropout"),
    ),
)


def _evaluate(model: nn.Module, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    model.eval()
    with torch.no_grad():
        return model(features_BTF, lengths_B)


def _train_output(subject: Subject, seed: int = 0) -> Tensor:
    """Log-probabilities [B, T', V] in training mode, with the given torch seed."""
    torch.manual_seed(seed)
    with torch.no_grad():
        return subject.model.train()(subject.features_BTF, subject.lengths_B)[0]


def _backward(subject: Subject, seed: int = 0) -> Tensor:
    """Run one CTC backward pass in training mode with a fixed seed; return log-probabilities [B, T', V]."""
    torch.manual_seed(seed)
    subject.model.train().zero_grad(set_to_none=True)
    log_probs_BTV, lengths_B = subject.model(subject.features_BTF, subject.lengths_B)
    # One token per utterance can be aligned at any stride.
    labels_BS, label_lengths_B = torch.tensor([[1], [subject.vocabulary_size - 1]]), torch.tensor([1, 1])
    F.ctc_loss(log_probs_BTV.transpose(0, 1), labels_BS, lengths_B, label_lengths_B).backward()
    return log_probs_BTV.detach()


def _silent(model: nn.Module) -> set[str]:
    """Names of the parameters whose gradient is missing or zero."""
    return {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}


def _distance(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()

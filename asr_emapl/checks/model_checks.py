"""The checks of a model's interface; `checks.conformance` runs them.

Axes: B utterances, T feature frames, F features, T' output frames, V tokens (blank 0).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from asr_emapl.checks.check import Check, Failed
from asr_emapl.checks.model_subject import (
    LEAST_FRAMES,
    LONG_FRAMES,
    SEED,
    SHORT_FRAMES,
    SHOWN_NAMES,
    TOLERANCE,
    Subject,
    backward,
    distance,
    evaluate,
)
from asr_emapl.checks.model_training_checks import (
    begin_step,
    intermediate,
    optional,
    padding_in_training,
    set_dropout,
)
from asr_emapl.checks.padding_leak import leaking_module
from asr_emapl.ema import EmaTeacher
from asr_emapl.errors import listing
from asr_emapl.models.contract import build_twin

_VERY_LONG_FRAMES = 3500  # of 10 ms; the longest utterances of LibriSpeech have 35 s
# A backward direction starts in the padding, whatever its values are.
_PACK = (
    "pack the input of this recurrent layer with torch.nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), "
    "batch_first=True, enforce_sorted=False), and unpack its output with pad_packed_sequence"
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
    off = distance(subject.evaluate()[0], subject.evaluate()[0])
    return "" if off <= TOLERANCE else f"two passes in eval mode differ by {off:.3g}"


def _padding(subject: Subject) -> str | Failed:
    short = SHORT_FRAMES * subject.unit
    alone = partial(subject.evaluate, subject.features_BTF[1:, :short], torch.tensor([short]))
    alone_BTV, lengths_B = alone()
    frames = int(lengths_B[0])
    for what, size in (("zeros", 0.0), ("garbage", 100.0)):
        features_BTF = subject.features_BTF.clone()
        features_BTF[1, short:] = size * torch.randn_like(features_BTF[1, short:])
        together_BTV, _ = subject.evaluate(features_BTF)
        off = distance(alone_BTV[0, :frames], together_BTV[1, :frames])
        if not off <= TOLERANCE:
            place = leaking_module(
                subject.model, alone, partial(subject.evaluate, features_BTF), 1, TOLERANCE
            )
            where = "" if place is None else f" (first in {place})"
            problem = (
                f"in a batch with a longer utterance and {what} as padding, valid frames change "
                f"by {off:.3g}{where}"
            )
            is_recurrent = place is not None and isinstance(place.module, nn.RNNBase)
            return Failed(problem, _PACK) if is_recurrent else problem
    return ""


def _order(subject: Subject) -> str:
    """Random numbers or state that depend on the place in the batch."""
    expected_BTV, _ = subject.evaluate()
    features_BTF, lengths_B = subject.features_BTF.flip(0), subject.lengths_B.flip(0)
    found_BTV = subject.evaluate(features_BTF, lengths_B)[0].flip(0)
    for row, frames in enumerate(subject.model.output_lengths(subject.lengths_B).tolist()):  # type: ignore[operator]
        off = distance(expected_BTV[row, :frames], found_BTV[row, :frames])
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


def _gradients(subject: Subject) -> str:
    backward(subject)
    trained = [(name, p.grad) for name, p in subject.model.named_parameters() if p.requires_grad]
    if not trained:
        return "no parameter requires a gradient"
    absent = [name for name, gradient in trained if gradient is None]
    if absent:
        return f"the CTC loss does not reach {listing(absent, SHOWN_NAMES)}"
    broken = [name for name, g in trained if g is not None and not g.isfinite().all()]
    return f"NaN or infinite gradient in {listing(broken, SHOWN_NAMES)}" if broken else ""


def _teacher(subject: Subject) -> str:
    twin = build_twin(subject.model, subject.build, SEED)
    teacher = EmaTeacher(subject.model, half_life=3600.0, module=twin)
    off = distance(subject.evaluate()[0], teacher(subject.features_BTF, subject.lengths_B)[0])
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
    off = distance(subject.evaluate()[0], evaluate(other, subject.features_BTF, subject.lengths_B)[0])
    return (
        ""
        if off <= TOLERANCE
        else f"a second instance with its state_dict differs from the model by {off:.3g}"
    )


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
        "intermediate outputs",
        intermediate,
        "in training mode, return (log_probs, lengths) or (log_probs, lengths, [log_probs of a layer, ...]), "
        "all after log_softmax and of the same shape",
        needs=("output shape", "log-probabilities"),
    ),
    Check(
        "set_dropout",
        optional("set_dropout", set_dropout),
        "after set_dropout(dropout: float | None = None, layerdrop: float | None = None), the model must "
        "still train, and None must leave a rate unchanged; or remove the method",
        needs=("output shape",),
    ),
    Check(
        "padding in training",
        padding_in_training,
        "compute statistics over valid frames only, or replace batch normalisation by LayerNorm; otherwise "
        "training depends on the other utterances in the micro-batch",
        needs=("output shape", "lengths", "eval is deterministic", "padding", "set_dropout"),
    ),
    Check(
        "begin_step",
        optional("begin_step", begin_step),
        "store the seed in begin_step(seed: int), and in each forward pass choose the skipped layers with a "
        "new torch.Generator that has this seed; or remove the method",
        needs=("output shape", "lengths", "set_dropout"),
    ),
)

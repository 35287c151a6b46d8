"""Size, frame rate, context, speed and memory of a model, measured on the CPU with random features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl.audio.features import FeatureConfig
from asr_emapl.checks.idle_time import idle_seconds
from asr_emapl.models.contract import ModelConfig, build_model
from asr_emapl.models.inputs import build_features
from asr_emapl.models.target import USERS_OWN

_SECONDS, _UTTERANCES, _PASSES = 10.0, 2, 3


@dataclass(frozen=True)
class ModelFacts:
    """What a model costs.

    Attributes:
        parameters: number of parameters.
        input_frame_seconds, output_frame_seconds: audio per frame.
        context_seconds: length of the input that one output frame depends on; None: the whole utterance.
        forward, backward: seconds of audio per second, in evaluation, and in training with the CTC loss, on
            an otherwise idle CPU.
        megabytes_per_second: tensors kept for the backward pass per second of audio, in MB, without autocast.
    """

    parameters: int
    input_frame_seconds: float
    output_frame_seconds: float
    context_seconds: float | None
    forward: float
    backward: float
    megabytes_per_second: float

    def __str__(self) -> str:
        context = "the whole utterance" if self.context_seconds is None else f"{self.context_seconds:.2f} s"
        return (
            f"{self.parameters / 1e6:.2f} M parameters; {1.0 / self.input_frame_seconds:.0f} input and "
            f"{1.0 / self.output_frame_seconds:.1f} output frames/s; an output frame depends on {context}\n"
            f"on this CPU, otherwise idle: {self.forward:.0f} s of audio per second forward, "
            f"{self.backward:.0f} forward and backward; {self.megabytes_per_second:.2f} MB of activations "
            "per second of audio"
        )


def measure(
    config: ModelConfig, features: FeatureConfig | None = None, *, vocabulary_size: int = 29
) -> ModelFacts:
    """Build the model of a config and measure it.

    Raises:
        UserError: see `build_model`.
    """
    extractor = build_features(features or FeatureConfig(), config, USERS_OWN)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(
            config, vocabulary_size=vocabulary_size, input_size=extractor.size, trust=USERS_OWN
        )
        frames = round(_SECONDS / extractor.frame_seconds)
        size = [] if extractor.size is None else [extractor.size]
        features_BTF = torch.randn(_UTTERANCES, frames, *size)
        lengths_B = torch.full((_UTTERANCES,), frames)
        outputs = int(model.output_lengths(lengths_B[:1]))  # type: ignore[operator]
        audio = _SECONDS * _UTTERANCES

        def forward() -> None:
            with torch.no_grad():
                model.eval()(features_BTF, lengths_B)

        def backward() -> None:
            _loss(model.train(), features_BTF, lengths_B).backward()

        context = _context_frames(model, features_BTF[:1], lengths_B[:1])
        return ModelFacts(
            parameters=sum(p.numel() for p in model.parameters()),
            input_frame_seconds=extractor.frame_seconds,
            output_frame_seconds=_SECONDS / outputs,
            context_seconds=None if context is None else context * extractor.frame_seconds,
            forward=audio / idle_seconds(forward, torch.device("cpu"), _PASSES),
            backward=audio / idle_seconds(backward, torch.device("cpu"), _PASSES),
            megabytes_per_second=_saved_bytes(model, features_BTF, lengths_B) / audio / 1e6,
        )


def _loss(model: nn.Module, features_BTF: Tensor, lengths_B: Tensor) -> Tensor:
    log_probs_BTV, frames_B, *_ = model(features_BTF, lengths_B)
    labels_BS = torch.ones(len(lengths_B), 1, dtype=torch.long)
    ones_B = torch.ones(len(lengths_B), dtype=torch.long)
    return F.ctc_loss(log_probs_BTV.transpose(0, 1), labels_BS, frames_B, ones_B)


def _saved_bytes(model: nn.Module, features_BTF: Tensor, lengths_B: Tensor) -> int:
    """Bytes of the tensors that autograd keeps, without parameters and buffers."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}
    held: list[Any] = []  # so that no memory is freed and counted twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _loss(model.train(), features_BTF, lengths_B)
    return sum(kept.values())


def _context_frames(model: nn.Module, features_BTF: Tensor, lengths_B: Tensor) -> int | None:
    """Input frames that the middle output frame depends on; None: all."""
    features_BTF = features_BTF.clone().requires_grad_()
    log_probs_BTV, _ = model.eval()(features_BTF, lengths_B)
    log_probs_BTV[0, log_probs_BTV.shape[1] // 2].square().sum().backward()
    assert features_BTF.grad is not None
    touched = features_BTF.grad[0].flatten(1).any(1) if features_BTF.dim() == 3 else features_BTF.grad[0] != 0
    places = touched.nonzero()[:, 0]
    if not len(places):
        return 0
    first, last = int(places[0]), int(places[-1])
    # A recurrent layer's influence vanishes before the ends, so allow for a small margin.
    whole = last - first + 1 >= 0.9 * features_BTF.shape[1]
    return None if whole else last - first + 1

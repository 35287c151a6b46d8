"""Export a trained model to ONNX, for any batch size and length. Axes: B utterances, N samples, T frames."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.decoding.transcribe import Recognizer
from asr_emapl.errors import UserError
from asr_emapl.storage import publish

TOLERANCE = 1e-3
"""Largest difference of a log-probability between torch and onnxruntime. It is about
1e-6 for features, and 1e-4 if the features are computed inside: frames that are almost silent amplify it."""

_TRACED_SECONDS, _CHECKED_SECONDS = (2.0, 1.5), (3.1, 2.7, 0.9)
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def write_onnx(recognizer: Recognizer, path: Path, *, waveforms: bool) -> float:
    """Write a model as ONNX with the inputs "input" and "lengths", and the outputs "log_probs" and "frames".

    The metadata entry "tokens" has the text of each label, a JSON list; label 0 is the CTC blank.

    Args:
        recognizer: on the CPU.
        waveforms: whether the input is a waveform [B, N] at 16 kHz, so that the features are computed inside;
            otherwise features [B, T, F]. Lengths are long [B].

    Returns:
        The largest difference to torch on other shapes than those exported, computed by onnxruntime.

    Raises:
        UserError: a package is missing, the model cannot be exported, the result differs by more than
            `TOLERANCE`, or the file cannot be written.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export to ONNX needs {' and '.join(missing)}; pip install {' '.join(missing)}")
    model = _WithFeatures(recognizer) if waveforms else recognizer.model
    model.eval()
    inputs = _inputs(recognizer, waveforms)
    content = _exported(model, inputs(_TRACED_SECONDS), recognizer)
    difference = max(
        _difference(model, content, inputs(seconds)) for seconds in (_CHECKED_SECONDS, _CHECKED_SECONDS[:1])
    )
    if not difference <= TOLERANCE:
        raise UserError(f"{path}: the exported model differs from torch's by {difference:.3g}; not written")
    try:
        with publish(str(path)) as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    return difference


class _WithFeatures(nn.Module):
    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.features, self.model = recognizer.features, recognizer.model

    def forward(self, waveforms_BN: Tensor, samples_B: Tensor) -> tuple[Tensor, Tensor]:
        log_probs: tuple[Tensor, Tensor] = self.model(*self.features(waveforms_BN, samples_B))
        return log_probs


_Inputs = tuple[Tensor, Tensor]


def _inputs(recognizer: Recognizer, waveforms: bool) -> Callable[[tuple[float, ...]], _Inputs]:
    """A function that returns a random input for utterances of given seconds, the longest first."""
    features = recognizer.features

    def draw(seconds: tuple[float, ...]) -> _Inputs:
        samples_B = torch.tensor([round(s * SAMPLE_RATE_HZ) for s in seconds])
        generator = torch.Generator().manual_seed(0)
        audio_BN = 0.1 * torch.randn(len(seconds), int(samples_B[0]), generator=generator)
        return (audio_BN, samples_B) if waveforms else features(audio_BN, samples_B)

    return draw


def _exported(model: nn.Module, inputs: _Inputs, recognizer: Recognizer) -> bytes:
    import onnx

    auto = torch.export.Dim.AUTO
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                inputs,
                dynamo=True,
                dynamic_shapes=({0: auto, 1: auto}, {0: auto}),
                input_names=["input", "lengths"],
                output_names=["log_probs", "frames"],
                verbose=False,
            )
    # The exporter raises many kinds of errors for models that it does not support.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{type(model).__name__} cannot be exported to ONNX ({reason})") from error
    assert program is not None
    proto: Any = program.model_proto
    onnx.helper.set_model_props(proto, {"tokens": json.dumps(recognizer.tokenizer.surfaces)})
    serialized: bytes = proto.SerializeToString()
    return serialized


def _difference(model: nn.Module, content: bytes, inputs: _Inputs) -> float:
    """The largest difference of valid log-probabilities between torch and onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    given = {"input": inputs[0].numpy(), "lengths": inputs[1].numpy()}
    try:
        log_probs, frames = session.run(["log_probs", "frames"], given)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the exported model supports only some batch sizes or lengths ({reason})") from error
    with torch.no_grad():
        expected_BTV, expected_B = model(*inputs)
    if frames.tolist() != expected_B.tolist():
        return float("inf")
    found_BTV = torch.from_numpy(log_probs)
    return max(
        float((found_BTV[row, :length] - expected_BTV[row, :length]).abs().max())
        for row, length in enumerate(expected_B.tolist())
    )

"""Export a trained model to ONNX, for any batch size and length."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from asr_emapl.checkpoints.traced import DYNAMIC_SHAPES, Pair, Traced
from asr_emapl.decoding.transcribe import Recognizer
from asr_emapl.errors import UserError
from asr_emapl.storage import publish

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def write_onnx(recognizer: Recognizer, path: Path, *, waveforms: bool) -> float:
    """Write a model as ONNX with the inputs "input" and "lengths", and the outputs "log_probs" and "frames".

    The metadata entry "tokens" has the text of each label, a JSON list; label 0 is the CTC blank.

    Args:
        recognizer, waveforms: see `Traced`.

    Returns:
        The largest difference to torch on other shapes than those exported, computed by onnxruntime.

    Raises:
        UserError: a package is missing, the model cannot be exported, the result differs too much, or the
            file cannot be written.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export to ONNX needs {' and '.join(missing)}; pip install {' '.join(missing)}")
    import onnxruntime

    model = Traced(recognizer, waveforms=waveforms)
    content = _exported(model, recognizer)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(inputs: Pair) -> Pair:
        given = {"input": inputs[0].numpy(), "lengths": inputs[1].numpy()}
        log_probs, frames = session.run(["log_probs", "frames"], given)
        return torch.from_numpy(log_probs), torch.from_numpy(frames)

    difference = model.checked(run, path)
    try:
        with publish(str(path)) as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    return difference


def _exported(model: Traced, recognizer: Recognizer) -> bytes:
    import onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                model.inputs(),
                dynamo=True,
                dynamic_shapes=DYNAMIC_SHAPES,
                input_names=["input", "lengths"],
                output_names=["log_probs", "frames"],
                verbose=False,
            )
    # The exporter raises many kinds of errors for models that it does not support.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{type(recognizer.model).__name__} cannot be exported to ONNX ({reason})") from error
    assert program is not None
    proto: Any = program.model_proto
    onnx.helper.set_model_props(proto, {"tokens": json.dumps(recognizer.tokenizer.surfaces)})
    serialized: bytes = proto.SerializeToString()
    return serialized

"""Export a trained model as a torch.export program, for any batch size and length."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import torch

from asr_emapl.checkpoints.traced import DYNAMIC_SHAPES, Pair, Traced
from asr_emapl.decoding.transcribe import Recognizer
from asr_emapl.errors import UserError
from asr_emapl.storage import publish

TOKENS = "tokens.json"


def write_program(recognizer: Recognizer, path: Path, *, waveforms: bool) -> float:
    """Write a model as a program that `torch.export.load` reads, without the code of the model.

    The extra file "tokens.json" has the text of each label, a JSON list; label 0 is the CTC blank.

    Args:
        recognizer, waveforms: see `Traced`.

    Returns:
        The largest difference to the model on other shapes than those exported.

    Raises:
        UserError: the model cannot be exported, the result differs too much, or the file cannot be written.
    """
    model, content = Traced(recognizer, waveforms=waveforms), io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, model.inputs(), dynamic_shapes=DYNAMIC_SHAPES)
            torch.export.save(
                program, content, extra_files={TOKENS: json.dumps(recognizer.tokenizer.surfaces)}
            )
    # torch.export raises many kinds of errors for models that it does not support.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{type(recognizer.model).__name__} cannot be exported by torch.export ({reason})"
        ) from error
    content.seek(0)
    loaded = torch.export.load(content).module()

    def run(inputs: Pair) -> Pair:
        with torch.no_grad():
            found: Pair = loaded(*inputs)
        return found

    difference = model.checked(run, path)
    try:
        with publish(str(path)) as file:
            file.write(content.getvalue())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    return difference

"""Load a trained model with its tokenizer and features from a checkpoint, for transcription."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from asr_emapl.checkpoints.built import Built
from asr_emapl.checkpoints.export import is_export, load_export
from asr_emapl.checkpoints.files import find, fitting, read_tokenizer
from asr_emapl.config import config_from_dict
from asr_emapl.decoding.transcribe import Recognizer
from asr_emapl.distributed.process_group import choose_device
from asr_emapl.errors import UserError
from asr_emapl.models.target import Trust


def load_recognizer(
    path: Path, which: str = "teacher", device: str = "auto", trust: Sequence[str] = ()
) -> Recognizer:
    """Load a checkpoint file, the newest one of a run directory, or an exported model.

    Args:
        which: teacher or student; an exported model is only one of them.
        trust: packages, besides asr_emapl, that may be imported to build the checkpoint's model.

    Raises:
        UserError: there is no checkpoint, `which` is neither teacher nor student, the model's code is not
            trusted, or the weights do not fit the model.
    """
    if which not in ("teacher", "student"):
        raise UserError(f"--model {which!r} is not one of teacher, student")
    if is_export(path):
        return load_export(path, device, trust)
    path, state, problems = find(path)
    config = config_from_dict(state["config"], f"the config in checkpoint {path}")
    tokenizer = read_tokenizer(path, state)
    torch_device = choose_device(device)
    trusted = Trust.of(f"checkpoint {path}", trust)
    built = Built(path, state)
    features = built.features(config.features, config.model, trusted).to(torch_device)
    model = built.model(
        config.model,
        vocabulary_size=tokenizer.vocabulary_size,
        input_size=features.size,
        trust=trusted,
    )
    with fitting(path, config.model.target):
        model.load_state_dict(state["teacher"]["module"] if which == "teacher" else state["student"])
    return Recognizer(model.to(torch_device), features, tokenizer, torch_device, problems, path)

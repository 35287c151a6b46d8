"""A trained model in a folder of its own: weights, tokenizer and features, without the state of a run.

    model.safetensors    the model's tensors as model.NAME, those of its feature extractor as features.NAME
    config.json          class and options of model and features, the tokenizer, and where they come from

The files that the model was started from (Whisper's weights, a folder of Hugging Face) are not needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr_emapl import storage
from asr_emapl.audio.features import FeatureConfig, FeatureExtractor
from asr_emapl.checkpoints.built import without_weights
from asr_emapl.checkpoints.files import fitting, load
from asr_emapl.config import config_from_dict
from asr_emapl.decoding.transcribe import Recognizer
from asr_emapl.distributed.process_group import choose_device
from asr_emapl.errors import UserError
from asr_emapl.models.contract import ModelConfig, build_model
from asr_emapl.models.inputs import build_features
from asr_emapl.models.target import Trust
from asr_emapl.storage import publish, read_object
from asr_emapl.text.tokenizer import tokenizer_from_state

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_FORMAT = 1


def is_export(path: Path) -> bool:
    """Whether a folder has an exported model."""
    try:
        return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()
    except OSError:  # a name that no file can have; reading it raises the error
        return False


@dataclass(frozen=True)
class ExportedModel:
    """What an exported model is built from."""

    model: ModelConfig
    features: FeatureConfig
    tokenizer: dict[str, Any]
    provenance: dict[str, Any]

    def build(self, trust: Trust) -> tuple[nn.Module, FeatureExtractor]:
        """The model and its feature extractor, with random weights.

        Raises:
            UserError: see `build_model`.
        """
        extractor = build_features(self.features, self.model, trust)
        size = tokenizer_from_state(self.tokenizer).vocabulary_size
        return build_model(
            self.model, vocabulary_size=size, input_size=extractor.size, trust=trust
        ), extractor


def write_export(
    recognizer: Recognizer, which: str, out: Path, trust: Trust, averaged: Sequence[Path] = ()
) -> None:
    """Write the model of a checkpoint to a folder.

    Args:
        recognizer: loaded from a checkpoint.
        which: teacher or student.
        trust: code that may be imported to build the model.
        averaged: the checkpoints of which the recognizer has the mean weights.

    Raises:
        UserError: the recognizer is an exported model, safetensors is not installed, the model cannot be
            built without its file of weights, or the folder cannot be written.
    """
    if recognizer.path is None or recognizer.path.name == WEIGHTS:
        raise UserError(f"{recognizer.path}: is not a checkpoint; specify one, or a run directory")
    state = load(recognizer.path)
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise UserError(
            "export needs safetensors; run pip install '.[safetensors]' in the checkout"
        ) from error
    run = config_from_dict(state["config"], f"the config in checkpoint {recognizer.path}")
    model, features = run.model, run.features
    model.options = without_weights(recognizer.model, model)
    features.options = without_weights(recognizer.features, features)
    model.weights = features.weights = None
    provenance = {"checkpoint": storage.sha256(recognizer.path), "model": which, "step": state["step"]}
    if averaged:
        provenance["averaged"] = {path.name: storage.sha256(path) for path in averaged}
    exported = ExportedModel(model, features, recognizer.tokenizer.state_dict(), provenance)
    tensors: dict[str, Tensor] = {}  # copies, because safetensors does not store shared memory
    for prefix, module in (("model", recognizer.model), ("features", recognizer.features)):
        state = module.state_dict()
        tensors |= {f"{prefix}.{name}": tensor.cpu().contiguous().clone() for name, tensor in state.items()}
    with _without_file(model.target):
        _fill(*exported.build(trust), tensors)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with publish(str(out / WEIGHTS)) as file:
            file.write(save(tensors))
        with publish(str(out / CONFIG)) as file:
            file.write(json.dumps({"format": _FORMAT, **asdict(exported)}, indent=1).encode())
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from error


def load_export(folder: Path, device: str = "auto", trust: Sequence[str] = ()) -> Recognizer:
    """Load an exported model. No code of the folder is run.

    Args:
        trust: packages, besides asr_emapl, that may be imported to build the model.

    Raises:
        UserError: a file is damaged or of another format, or the model's code is not trusted.
    """
    place = folder / CONFIG
    values = read_object(str(place), "the config of an exported model")
    if values.get("format") != _FORMAT:
        raise UserError(f"{place}: format {values.get('format')!r} is not {_FORMAT}; export the model again")
    keys = ("model", "features")
    run = config_from_dict({key: values.get(key) or {} for key in keys}, str(place))
    try:
        tokenizer = tokenizer_from_state(values.get("tokenizer") or {})
    except (UserError, ValueError, TypeError) as error:
        raise UserError(f"{place}: its tokenizer is invalid ({error})") from error
    exported = ExportedModel(run.model, run.features, tokenizer.state_dict(), values.get("provenance") or {})
    model, extractor = exported.build(Trust.of(f"exported model {folder}", trust))
    tensors = _read(folder / WEIGHTS)
    with fitting(folder / WEIGHTS, run.model.target):
        _fill(model, extractor, tensors)
    where: torch.device = choose_device(device)
    return Recognizer(model.to(where), extractor.to(where), tokenizer, where, [], folder / WEIGHTS)


def _fill(model: nn.Module, extractor: FeatureExtractor, tensors: Mapping[str, Tensor]) -> None:
    for prefix, module in (("model", model), ("features", extractor)):
        part = {name.partition(".")[2]: t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
        module.load_state_dict(part)


@contextmanager
def _without_file(target: str) -> Iterator[None]:
    """Context in which a model is built as its export will be.

    Raises:
        UserError: it cannot be built, or its tensors have other names or shapes.
    """
    try:
        yield
    # Any exception, because a model may have its own load_state_dict.
    except Exception as error:
        raise UserError(
            f"{target} or its feature extractor cannot be built without its file of weights "
            f"({' '.join(str(error).split())[:300]}); define its method options_without_weights()"
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    from asr_emapl.models.weights import read_tensors

    return read_tensors(path)

"""Build the model and the features of a checkpoint without the files of weights that its run started from.

A checkpoint has the model's weights. Its entry "built" has options that build the model and the feature
extractor without `model.weights` and `features.weights`, and the extractor's fingerprint. The weights of an
extractor never change: they are written once, to features.pt in the run directory.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asr_emapl.audio.features import FeatureConfig, FeatureExtractor
from asr_emapl.checkpoints.entries import State
from asr_emapl.checkpoints.files import checkpoint_paths, checkpoints_of
from asr_emapl.config import RunConfig
from asr_emapl.errors import UserError
from asr_emapl.models.contract import ModelConfig, build_model
from asr_emapl.models.inputs import build_features
from asr_emapl.models.target import Trust
from asr_emapl.models.weights import read_tensors
from asr_emapl.runs.reader import CHECKPOINTS, FEATURES
from asr_emapl.storage import publish


def built_entry(config: RunConfig, model: nn.Module, extractor: FeatureExtractor) -> State:
    """The entry "built" of a checkpoint; empty if the run needs no file of weights."""
    if config.model.weights is None and config.features.weights is None:
        return {}
    return {
        "model": without_weights(model, config.model),
        "features": without_weights(extractor, config.features),
        "fingerprint": extractor.fingerprint,
    }


def without_weights(module: nn.Module, config: ModelConfig | FeatureConfig) -> dict[str, Any]:
    """Options that build a module without its file of weights; see `CtcModel`.

    Raises:
        UserError: the module's method returns values that JSON does not have.
    """
    method = getattr(module, "options_without_weights", None)
    if config.weights is None or method is None:
        return config.options
    try:
        options: dict[str, Any] = json.loads(json.dumps(dict(method())))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"options_without_weights() of {type(module).__name__} returns something that JSON does not have "
            f"({error}); return numbers, texts, lists and mappings"
        ) from error
    return options


def write_features(folder: Path, config: RunConfig, extractor: FeatureExtractor) -> None:
    """Write features.pt of a run, if its features have a file of weights.

    Raises:
        UserError: it cannot be written.
    """
    path = folder / FEATURES
    if config.features.weights is None or path.exists():
        return
    try:
        with publish(path) as file:
            torch.save({name: tensor.cpu() for name, tensor in extractor.state_dict().items()}, file)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be written ({error})") from error


@dataclass(frozen=True)
class Built:
    """What a checkpoint says about building its model and features.

    Attributes:
        path: of the checkpoint.
        state: the checkpoint; of its tensors, only names and shapes are read.
    """

    path: Path
    state: State

    @staticmethod
    def of_run(config: RunConfig) -> Built | None:
        """The newest checkpoint that a run resumes or starts from; None if it has none or needs no file."""
        if config.model.weights is None and config.features.weights is None:
            return None
        paths = checkpoint_paths(Path(config.run_dir) / CHECKPOINTS)
        if not paths and config.init.checkpoint is not None:
            paths = checkpoints_of(Path(config.init.checkpoint))
        if not paths:
            return None
        try:
            state = torch.load(paths[-1], map_location="cpu", weights_only=True, mmap=True)
            same = {key: state["config"][key] for key in ("model", "features")}
        # Loading the checkpoint later reports what is wrong with it; until then, the files are read.
        except Exception:
            return None
        if same != {"model": asdict(config.model), "features": asdict(config.features)}:
            return None
        return Built(paths[-1], state)

    def features(self, features: FeatureConfig, model: ModelConfig, trust: Trust) -> FeatureExtractor:
        """Build the features of the checkpoint, from features.pt if there is one.

        Raises:
            UserError: see `build_features`; also if features.pt has other features.
        """
        entry = self.state.get("built") or {}
        folders = (self.path.parent, self.path.parent.parent)
        stored = [folder / FEATURES for folder in folders if (folder / FEATURES).is_file()]
        if features.weights is None or not entry or not stored:
            return self._from_file(features, model, trust)
        extractor = build_features(replace(features, weights=None, options=entry["features"]), model, trust)
        try:
            extractor.load_state_dict(read_tensors(stored[0]))
        except RuntimeError as error:
            raise UserError(f"{stored[0]}: does not fit {features.extractor}; {_COPY}") from error
        if extractor.fingerprint != entry["fingerprint"]:
            raise UserError(f"{stored[0]}: has other features than checkpoint {self.path}; {_COPY}")
        return extractor

    def _from_file(self, features: FeatureConfig, model: ModelConfig, trust: Trust) -> FeatureExtractor:
        try:
            return build_features(features, model, trust)
        except UserError as error:
            if features.weights is None or Path(features.weights).exists():
                raise
            raise UserError(f"checkpoint {self.path}: {error}; or {_COPY}") from error

    def model(
        self, config: ModelConfig, *, vocabulary_size: int, input_size: int | None, trust: Trust
    ) -> nn.Module:
        """Build the model of the checkpoint, with random weights if that is possible without its file.

        Raises:
            UserError: see `build_model`.
        """
        build = partial(build_model, vocabulary_size=vocabulary_size, input_size=input_size, trust=trust)
        if config.weights is not None:
            entry = self.state.get("built") or {}
            options = entry.get("model", config.options)
            try:
                found = build(replace(config, weights=None, options=options))
            except UserError:
                found = None
            if found is not None and _shapes(found.state_dict()) == _shapes(self.state["student"]):
                return found
        return build(config)


_COPY = f"copy {FEATURES} of the run into the folder of the checkpoint"


def _shapes(tensors: State) -> dict[str, Any]:
    return {name: getattr(tensor, "shape", None) for name, tensor in tensors.items()}

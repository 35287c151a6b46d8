"""Build the parts of a trainer from the config: batches, plan, student, teacher. Errors name the setting."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from asr_emapl.audio.features import FeatureExtractor
from asr_emapl.checkpoints.built import Built
from asr_emapl.checkpoints.files import checkpoint_paths, checkpoints_of
from asr_emapl.config import RunConfig
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.ema import EmaTeacher
from asr_emapl.errors import UserError
from asr_emapl.models.blocks import compile_blocks, recompute_blocks
from asr_emapl.models.contract import build_model, build_twin
from asr_emapl.models.inputs import build_features
from asr_emapl.models.target import USERS_OWN
from asr_emapl.models.weights import load_matching
from asr_emapl.objectives.ctc import CtcObjective
from asr_emapl.objectives.labels_ahead import LabelsAhead
from asr_emapl.objectives.loss import LossConfig
from asr_emapl.pseudo_labels.dropout import require_dropout_switch
from asr_emapl.pseudo_labels.filters import LabelFilters
from asr_emapl.pseudo_labels.labels import Strategy
from asr_emapl.pseudo_labels.strategies.given import GivenLabels
from asr_emapl.runs.phases import Phases
from asr_emapl.runs.reader import CHECKPOINTS
from asr_emapl.self_supervised.build import build_objective, self_supervised_model
from asr_emapl.self_supervised.networks import SelfSupervisedModel
from asr_emapl.text.tokenizer import Tokenizer, load_tokenizer
from asr_emapl.training.step import TrainStep


def read_tokenizer(config: RunConfig) -> Tokenizer:
    """Read the tokenizer of the config.

    Raises:
        UserError: it is not set, or cannot be read.
    """
    if config.tokenizer is None:
        raise UserError("tokenizer is not set; specify the file written by `asr-emapl tokenizer`")
    return load_tokenizer(config.tokenizer)


def require_views(config: RunConfig) -> None:
    """Check that two views of an utterance differ.

    Raises:
        UserError: loss.consistency is set without masks.
    """
    if config.loss.consistency > 0.0 and config.augment is None:
        raise UserError(
            "loss.consistency requires two views of each utterance, which augment makes; set augment, or "
            "loss.consistency to 0"
        )


def build_extractor(config: RunConfig, device: torch.device, built: Built | None = None) -> FeatureExtractor:
    """Build the feature extractor of a run.

    Args:
        built: the checkpoint that the run resumes or starts from.

    Raises:
        UserError: see `build_features`.
    """
    build = build_features if built is None else built.features
    return build(config.features, config.model, USERS_OWN).to(device)


def build_models(
    config: RunConfig,
    world: ProcessGroup,
    vocabulary_size: int,
    features: FeatureExtractor,
    built: Built | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Build student and teacher modules with equal weights, on the device of this process.

    Args:
        vocabulary_size: not used by a self-supervised model.
        built: the checkpoint that the run resumes or starts from, whose weights will be loaded.

    Raises:
        UserError: the model cannot be built, or does not support the configured change of dropout.
    """
    bf16 = config.device.precision == "bf16"

    def build() -> nn.Module:
        make = build_model if built is None else built.model
        model = make(config.model, vocabulary_size=vocabulary_size, input_size=features.size, trust=USERS_OWN)
        return self_supervised_model(config, model) if config.self_supervised.is_on else model

    torch.manual_seed(config.seed)
    student = build()
    _load_initial_weights(config, student)
    require_dropout_switch(student, config.pseudo_labels, config.model.target)
    twin = build_twin(student, build, config.seed).requires_grad_(False)
    models = world.to_device(student, bf16=bf16), world.to_device(twin, bf16=bf16)
    if config.device.recompute == "blocks":
        recompute_blocks(models[0])
    if config.device.compile == "blocks":
        for model in models:
            compile_blocks(model)
    return models


def _load_initial_weights(config: RunConfig, student: nn.Module) -> None:
    """Load `init.weights`, unless the run will be resumed from a checkpoint of its own.

    Raises:
        UserError: init.checkpoint is set as well; see `load_matching`.
    """
    init = config.init
    if init.weights is None:
        return
    if init.checkpoint is not None:
        raise UserError("init.weights and init.checkpoint: set one of them")
    if checkpoint_paths(Path(config.run_dir) / CHECKPOINTS):
        return
    path = Path(init.weights)
    if path.is_dir():
        path = checkpoints_of(path)[-1] if checkpoints_of(path) else path
    model = student.encoder if isinstance(student, SelfSupervisedModel) else student
    load_matching(model, path, init.rename, init.part)


def build_self_supervised_step(
    config: RunConfig,
    world: ProcessGroup,
    features: FeatureExtractor,
    student: nn.Module,
    teacher: EmaTeacher,
    optimizer: torch.optim.Optimizer,
    rho: float,
) -> TrainStep:
    """The train step with the objective of `self_supervised`; see `build_objective`."""
    phases = Phases(world.device)
    models = (student, teacher)
    objective = build_objective(config, world, features, *models, rho, phases.mark)
    return TrainStep(world, *models, optimizer, None, objective, phases)


def build_step(
    world: ProcessGroup,
    features: FeatureExtractor,
    student: nn.Module,
    teacher: EmaTeacher,
    optimizer: torch.optim.Optimizer,
    strategy: Strategy | None,
    filters: LabelFilters,
    ahead: LabelsAhead | None = None,
    *,
    loss: LossConfig | None = None,
    clip_norm: float | None = None,
    bf16: bool = False,
) -> TrainStep:
    """The train step with CTC on transcripts and, with a strategy, CTC on pseudo-labels.

    Args:
        student: the result of `ProcessGroup.data_parallel`.
        filters, ahead: of pseudo-labels; see `CtcObjective`.
        loss: weights of its parts; None: the defaults.
    """
    phases, per = Phases(world.device), (loss or LossConfig()).per
    labelled = CtcObjective(world, features, student, GivenLabels(), None, phases, weights=loss, bf16=bf16)
    unlabelled = None
    if strategy is not None:
        of_labels = (strategy, filters, phases)
        unlabelled = CtcObjective(world, features, student, *of_labels, weights=loss, ahead=ahead, bf16=bf16)
    return TrainStep(
        world, student, teacher, optimizer, labelled, unlabelled, phases, clip_norm=clip_norm, per=per
    )

"""Build the model and the objective of a self-supervised run."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from asr_emapl.audio.features import FeatureExtractor
from asr_emapl.config import RunConfig
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.ema import EmaTeacher
from asr_emapl.errors import UserError
from asr_emapl.self_supervised.byol import ByolObjective
from asr_emapl.self_supervised.masked import MaskedObjective
from asr_emapl.self_supervised.networks import ByolModel, MaskedModel, SelfSupervisedModel
from asr_emapl.self_supervised.spread import SpreadGuard
from asr_emapl.self_supervised.views import Views

# Momentum of a step below which the teacher is likely to follow the student too fast.
_LOW_RHO = 0.9


def require_self_supervised(config: RunConfig) -> None:
    """Check the settings that do not go with self-supervision.

    Raises:
        UserError: labels or an augmentation are configured that would not be used.
    """
    settings = config.self_supervised
    if not settings.is_on:
        return
    name = f"self_supervised.objective={settings.objective}"
    if config.pseudo_labels.uses_unlabelled:
        raise UserError(f"{name} does not use pseudo-labels; set pseudo_labels.strategy=none")
    if config.data.labelled:
        raise UserError(
            f"{name} trains on data.unlabelled; list the manifests of data.labelled there, and set "
            "data.labelled to []"
        )
    if settings.objective == "masked":
        if config.perturb.speed is not None:
            raise UserError(f"{name} requires equal frames of teacher and student: set perturb.speed=null")
        return
    byol, most = settings.byol, config.device.max_seconds
    if config.perturb.speed or config.perturb.noise or config.perturb.reverberation:
        raise UserError(f"{name} does not use perturb; see self_supervised.byol for its augmentation")
    seconds = byol.statistics_crops * (byol.crop_seconds + byol.shift_seconds)
    if seconds > most:
        raise UserError(
            f"self_supervised.byol: {byol.statistics_crops} windows of a forward pass have {seconds:g} s, "
            f"device.max_seconds is {most:g}; raise it, or lower statistics_crops"
        )
    first = most if config.batch.seconds == "auto" else float(config.batch.seconds)
    smallest = min(first, *(later for _, later in config.batch.progressive), math.inf)
    if seconds > smallest:
        raise UserError(
            f"self_supervised.byol: {byol.statistics_crops} windows of a forward pass have {seconds:g} s, "
            f"and a batch has {smallest:g} s, so that batch norm would use fewer crops; lower "
            "statistics_crops, or raise batch.seconds"
        )


def self_supervised_model(config: RunConfig, encoder: nn.Module) -> SelfSupervisedModel:
    """The model of the objective of a config.

    Raises:
        UserError: see `SelfSupervisedModel`.
    """
    if config.self_supervised.objective == "byol":
        return ByolModel(encoder, config.model.target, config.self_supervised.byol)
    return MaskedModel(encoder, config.model.target)


def build_objective(
    config: RunConfig,
    world: ProcessGroup,
    features: FeatureExtractor,
    student: nn.Module,
    teacher: EmaTeacher,
    rho: float,
    mark: Callable[[str], None],
) -> ByolObjective | MaskedObjective:
    """The objective of a config.

    Args:
        student: the result of `ProcessGroup.data_parallel`.
        rho: the teacher's momentum in the first step, for messages.
        mark: see `ByolObjective`.
    """
    settings, bf16 = config.self_supervised, config.device.precision == "bf16"
    what = "the embeddings" if settings.objective == "byol" else "the targets"
    guard = SpreadGuard(settings.on_collapse, what, _cause(config, rho), is_first=world.is_first)
    if settings.objective == "byol":
        views = Views(settings.byol, features, world.device, config.seed)
        return ByolObjective(world, views, student, teacher, guard, mark, bf16=bf16)
    models = (student, teacher, settings.masked)
    return MaskedObjective(world, features, *models, guard, mark, seed=config.seed, bf16=bf16)


def _cause(config: RunConfig, rho: float) -> str:
    """The likely cause of a collapse, and what to do."""
    settings = config.self_supervised
    if settings.objective == "byol" and not settings.byol.batch_norm:
        return "the likely cause is the missing batch norm: set self_supervised.byol.batch_norm=true"
    if rho < _LOW_RHO:
        return f"the likely cause is a fast teacher (rho {rho:.2g}): lengthen teacher.half_life_hours"
    return (
        "likely causes are a high learning rate and a short warm-up: lower optimizer.lr, or lengthen "
        "schedule.warmup_hours"
    )

"""Build what labels the audio of a run: strategy, labeller, searches."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal

from torch import nn

from asr_emapl.audio.features import FeatureExtractor
from asr_emapl.config import RunConfig
from asr_emapl.decoding.beam import BeamSearch
from asr_emapl.decoding.spans import frame_seconds
from asr_emapl.decoding.tuning import read_config
from asr_emapl.ema import EmaTeacher
from asr_emapl.errors import UserError
from asr_emapl.models.failure import blaming
from asr_emapl.models.target import USERS_OWN, resolve
from asr_emapl.pseudo_labels.best_average import BestAverage
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.labeller import Labeller, Model
from asr_emapl.pseudo_labels.labels import Strategy
from asr_emapl.pseudo_labels.search_pool import SearchPool
from asr_emapl.pseudo_labels.strategies.cache import CachedLabels
from asr_emapl.pseudo_labels.strategies.ema import FreshLabels
from asr_emapl.pseudo_labels.strategies.from_the_start import StableLabels
from asr_emapl.pseudo_labels.strategies.given import GivenLabels
from asr_emapl.pseudo_labels.strategies.own import OWN_STRATEGY, StrategyParts
from asr_emapl.pseudo_labels.strategies.rounds import RoundLabels
from asr_emapl.text.tokenizer import Tokenizer


def build_best_average(config: RunConfig, teacher: EmaTeacher, student: nn.Module) -> BestAverage | None:
    """The labeller of TopIPL, if the config asks for it.

    Raises:
        UserError: other settings do not go with it.
    """
    labels = config.pseudo_labels
    if labels.labeller != "best_average":
        return None
    needed = {
        "pseudo_labels.strategy=rounds": labels.strategy == "rounds",
        "a set in data.validation": bool(config.data.validation),
        "device.sharding=none": config.device.sharding == "none",
    }
    missing = [setting for setting, is_there in needed.items() if not is_there]
    if missing:
        raise UserError(f"pseudo_labels.labeller=best_average requires {' and '.join(missing)}")
    return BestAverage(student, copy.deepcopy(teacher.module), labels.best_count)


def build_searches(config: RunConfig, tokenizer: Tokenizer | None) -> SearchPool | None:
    """The beam searches of the config, with their processes; None: no search.

    Raises:
        UserError: the search cannot be built, or other settings do not go with it.
    """
    labels = config.pseudo_labels
    if labels.label_ahead:
        _require_ahead(labels)
    if not labels.learns_from_itself or labels.lm_config is None:
        return None
    if labels.temperature > 0.0:
        raise UserError("pseudo_labels.temperature and pseudo_labels.lm_config: set one of them")
    assert tokenizer is not None  # only a self-supervised run has none
    return SearchPool(BeamSearch(tokenizer, read_config(Path(labels.lm_config))), labels.search_workers)


def _require_ahead(labels: PseudoLabelConfig) -> None:
    """Check that labelling the next batch ahead is possible and saves time.

    Raises:
        UserError: otherwise.
    """
    if labels.strategy not in ("ema", "cache"):
        raise UserError(
            f"pseudo_labels.label_ahead requires strategy ema or cache, not {labels.strategy} (rounds labels "
            "between two steps, while the student does not train); set it to false"
        )
    if labels.lm_config is None:
        raise UserError(
            "pseudo_labels.label_ahead requires pseudo_labels.lm_config, because labels without a search are "
            "made on the device; set label_ahead to false"
        )


def build_strategy(
    config: RunConfig,
    tokenizer: Tokenizer | None,
    teacher: EmaTeacher,
    student: nn.Module,
    best: BestAverage | None,
    searches: SearchPool | None,
    features: FeatureExtractor,
    unlabelled: int,
) -> Strategy | None:
    """The strategy of the config; None for a supervised run.

    Args:
        student: without the wrapper of data-parallel training.
        best: the result of `build_best_average`.
        searches: the result of `build_searches`.
        features: of the models' input.
        unlabelled: number of unlabelled utterances.

    Raises:
        UserError: a user-defined strategy cannot be built.
    """
    labels = config.pseudo_labels
    if not labels.uses_unlabelled:
        return None
    if labels.strategy in ("oracle", "external"):
        return GivenLabels()
    labeller = _build_labeller(config, teacher, student, best, searches, frame_seconds(student, features))
    if labels.strategy == "cache":
        return CachedLabels(labeller, unlabelled)
    if labels.strategy == "rounds":
        return RoundLabels(labeller, unlabelled)
    if labels.strategy == "from_the_start":
        return StableLabels(labeller, unlabelled)
    if labels.strategy == "soft" and config.perturb.speed is not None:
        raise UserError(
            "pseudo_labels.strategy=soft requires equal frames of teacher and student: set perturb.speed=null"
        )
    if labels.strategy in ("ema", "soft"):
        return FreshLabels(labeller)
    assert tokenizer is not None  # only a self-supervised run has none
    parts = StrategyParts(teacher, student, labeller, tokenizer, unlabelled)
    own = resolve(labels.strategy, USERS_OWN, OWN_STRATEGY)
    with blaming(f"pseudo_labels.strategy {labels.strategy!r} cannot be built", own.__module__):
        return own(parts, **labels.options)


def _build_labeller(
    config: RunConfig,
    teacher: EmaTeacher,
    student: nn.Module,
    best: BestAverage | None,
    searches: SearchPool | None,
    seconds_per_frame: float,
) -> Labeller:
    labels = config.pseudo_labels
    second: Model | Literal["greedy"] | None = None
    if labels.agreement != "none":
        second = student if labels.agreement == "student" else "greedy"
    model: Model = teacher if labels.labeller == "teacher" else student
    return Labeller(
        model if best is None else best.module,
        searches=searches,
        temperature=labels.temperature,
        second=second,
        confidence=labels.confidence,
        soft=labels.strategy == "soft",
        seed=config.seed,
        bf16=config.device.precision == "bf16",
        frame_seconds=seconds_per_frame,
    )

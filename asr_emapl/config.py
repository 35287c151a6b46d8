"""A run's config: YAML checked against the config dataclasses that stand beside each component."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr_emapl.audio.augment import AugmentConfig
from asr_emapl.audio.features import FeatureConfig
from asr_emapl.audio.perturb import PerturbConfig
from asr_emapl.checkpoints.manager import CheckpointConfig
from asr_emapl.data.batch_plan import BatchConfig
from asr_emapl.data.loader import DataConfig
from asr_emapl.distributed.process_group import DeviceConfig
from asr_emapl.ema import TeacherConfig
from asr_emapl.errors import UserError
from asr_emapl.limits import out_of_range
from asr_emapl.models.contract import ModelConfig
from asr_emapl.pseudo_labels import PseudoLabelConfig
from asr_emapl.scaling import ScalingPlan, ScheduleConfig
from asr_emapl.scaling.progressive import BatchSchedule
from asr_emapl.storage import write
from asr_emapl.storage.yaml_text import parse_yaml, read_yaml, require_bounded
from asr_emapl.training.optimizer import OptimizerConfig


@dataclass
class InitConfig:
    """Where the run starts from: nothing (random weights), or a checkpoint."""

    checkpoint: str | None = None
    # run: go on with the checkpoint's clock, optimizer and place in the data; weights: only its weights.
    keep: str = "run"


@dataclass
class IntervalConfig:
    """What happens every so many hours of audio; 0: only at the end."""

    every_hours: float = field(default=1.0, metadata={"least": 0.0, "most": 1e9})


@dataclass
class RunConfig:
    """Everything a run depends on. Times in hours of audio consumed, over all ranks."""

    run_dir: str = "runs/run"
    seed: int = field(default=0, metadata={"least": -(2**63), "most": 2**63 - 1})
    hours: float = field(default=10.0, metadata={"least": 0.0, "most": 1e9})
    tokenizer: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    # null: no SpecAugment.
    augment: AugmentConfig | None = field(default_factory=AugmentConfig)
    perturb: PerturbConfig = field(default_factory=PerturbConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    pseudo_labels: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)
    validation: IntervalConfig = field(default_factory=IntervalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    init: InitConfig = field(default_factory=InitConfig)

    def batches(self, world_size: int) -> BatchSchedule:
        """Padded seconds of a global batch, over hours of audio.

        Raises:
            UserError: batch.seconds is neither a positive number nor "auto", or batch.progressive is no list
                of [from_hours, seconds] with rising hours.
        """
        seconds = self.batch.seconds
        try:
            # YAML 1.1 takes 1e2 for a text.
            first = world_size * self.device.max_seconds if seconds == "auto" else float(seconds)
        except ValueError:
            first = math.nan
        if not 0.0 < first < math.inf:
            raise UserError(f"batch.seconds {seconds!r} is neither a positive number nor auto")
        if any(len(pair) != 2 for pair in self.batch.progressive):
            raise UserError("batch.progressive: write [from_hours, seconds] pairs, for example [[20, 120]]")
        try:
            return BatchSchedule(first, tuple((hours, later) for hours, later in self.batch.progressive))
        except ValueError as error:
            raise UserError(f"batch.progressive: {error}") from error

    def nominal_scaling(self, world_size: int) -> ScalingPlan:
        """kappa by padded seconds, for as long as the corpora are not read; a run has `Corpora.scaling`.

        Raises:
            UserError: as `batches`, or batch.reference_seconds is not positive or gives no kappa.
        """
        reference, batches = float(self.batch.reference_seconds), self.batches(world_size)
        if not 0.0 < reference < math.inf:
            raise UserError(f"batch.reference_seconds must be positive, not {self.batch.reference_seconds}")
        try:
            return ScalingPlan.nominal(batches, reference)
        except ValueError as error:
            raise UserError(f"batch.reference_seconds {reference:g}: {error}") from error


_MAX_INTERPOLATIONS = 16


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply overrides such as "optimizer.lr=0.001".

    Raises:
        UserError: absent file, broken YAML, unknown key, wrong type; names the file and the key.
    """
    written = read_yaml(path)
    if written is not None and not isinstance(written, dict):
        raise UserError(f"config {path}: a mapping of keys to values is expected")
    config = _merge(OmegaConf.structured(RunConfig), written or {}, f"config {path}")
    for override in overrides:
        if "=" not in override:
            raise UserError(f"override {override!r}: write key=value, for example optimizer.lr=0.001")
        try:
            # OmegaConf reads the value by itself, without limits.
            parse_yaml(override.partition("=")[2])
            change = OmegaConf.to_container(OmegaConf.from_dotlist([override]))
        # IndexError: OmegaConf on a key such as "[".
        except (OmegaConfBaseException, yaml.YAMLError, ValueError, IndexError, RecursionError) as error:
            raise UserError(f"override {override!r}: {' '.join(str(error).split())}") from error
        assert isinstance(change, dict)
        config = _merge(config, change, f"override {override!r}")
    return _to_object(config, f"config {path}")


def config_from_dict(values: dict[str, Any], place: str) -> RunConfig:
    """A config as a checkpoint keeps it.

    Raises:
        UserError: an unknown key, a wrong type or value; names `place` and the key.
    """
    if not isinstance(values, dict):
        raise UserError(f"{place}: a mapping of keys to values is expected")
    return _to_object(_merge(OmegaConf.structured(RunConfig), values, place), place)


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """Primitives alone; the inverse of `config_from_dict`."""
    return OmegaConf.to_container(OmegaConf.structured(config))  # type: ignore[return-value]


def write_config(path: Path, config: RunConfig) -> None:
    """Write the config as YAML, in one piece.

    Raises:
        UserError: it cannot be written; what was there before still is.
    """
    write(path, OmegaConf.to_yaml(OmegaConf.structured(config)))


def _merge(base: DictConfig, change: dict[Any, Any], place: str) -> DictConfig:
    for key, value in change.items():
        # One key at a time: not every error of OmegaConf knows where it happened.
        try:
            require_bounded(value)
            base = OmegaConf.merge(base, {key: value})  # type: ignore[assignment]
        except (OmegaConfBaseException, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise _refusal(place, error, str(key)) from error
    return base


def _to_object(config: DictConfig, place: str) -> RunConfig:
    try:
        _require_few_interpolations(config)
        made: RunConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    except (OmegaConfBaseException, RecursionError, ValueError) as error:
        raise _refusal(place, error, "") from error
    for fault in out_of_range(made):
        raise UserError(f"{place}: {fault}")
    return made


def _require_few_interpolations(config: DictConfig) -> None:
    """ValueError for so many ${...} that texts which repeat texts which repeat texts fill the memory."""
    written = OmegaConf.to_yaml(config, resolve=False)
    # The environment's variables are no texts of the config: they repeat nothing.
    count = written.count("${") - written.count("${oc.env:")
    if count > _MAX_INTERPOLATIONS:
        raise ValueError(f"{count} interpolations, ${{...}}; at most {_MAX_INTERPOLATIONS} are resolved")


def _refusal(place: str, error: Exception, key: str) -> UserError:
    key = getattr(error, "full_key", None) or key
    # OmegaConf's own lines on where it happened come after the message.
    said = str(error).partition("\n    full_key:")[0] or type(error).__name__
    return UserError(f"{place}: " + " ".join(f"{key}: {said}".removeprefix(": ").split()))

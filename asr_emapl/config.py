"""A run's config: YAML checked against the config dataclasses that stand beside each component."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr_emapl.audio.augment import AugmentConfig
from asr_emapl.audio.features import FeatureConfig
from asr_emapl.data.batch_plan import BatchConfig
from asr_emapl.data.loader import DataConfig
from asr_emapl.ema import TeacherConfig
from asr_emapl.errors import UserError
from asr_emapl.models.contract import ModelConfig
from asr_emapl.pseudo_labels import PseudoLabelConfig
from asr_emapl.scaling import ScheduleConfig
from asr_emapl.training.optimizer import OptimizerConfig
from asr_emapl.training.world import DeviceConfig


@dataclass
class InitConfig:
    """Where the run starts from: nothing (random weights), or a checkpoint."""

    checkpoint: str | None = None
    # run: go on with the checkpoint's clock, optimizer and place in the data; weights: only its weights.
    keep: str = "run"


@dataclass
class IntervalConfig:
    """What happens every so many hours of audio; 0: only at the end."""

    every_hours: float = 1.0
    # Checkpoints only: how many of the newest stay.
    keep: int = 2


@dataclass
class RunConfig:
    """Everything a run depends on. Times in hours of audio consumed, over all ranks."""

    run_dir: str = "runs/run"
    seed: int = 0
    hours: float = 10.0
    tokenizer: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    # null: no SpecAugment.
    augment: AugmentConfig | None = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    pseudo_labels: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)
    validation: IntervalConfig = field(default_factory=IntervalConfig)
    checkpoint: IntervalConfig = field(default_factory=IntervalConfig)
    init: InitConfig = field(default_factory=InitConfig)

    def batch_seconds(self, world_size: int) -> float:
        """Padded seconds of a global batch.

        Raises:
            UserError: batch.seconds is neither a positive number nor "auto".
        """
        seconds = self.batch.seconds
        if seconds == "auto":
            return world_size * self.device.max_seconds
        if isinstance(seconds, str) or seconds <= 0:
            raise UserError(f"batch.seconds {seconds!r} is neither a positive number nor auto")
        return float(seconds)

    def kappa(self, world_size: int) -> float:
        """Batch over reference batch."""
        if self.batch.reference_seconds <= 0:
            raise UserError(f"batch.reference_seconds must be positive, not {self.batch.reference_seconds}")
        return self.batch_seconds(world_size) / self.batch.reference_seconds


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply overrides such as "optimizer.lr=0.001".

    Raises:
        UserError: absent file, broken YAML, unknown key, wrong type; names the file and the key.
    """
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config {path}: not YAML: {' '.join(str(error).split())}") from error
    if written is not None and not isinstance(written, dict):
        raise UserError(f"config {path}: a mapping of keys to values is expected")
    config = _merge(OmegaConf.structured(RunConfig), written or {}, f"config {path}")
    for override in overrides:
        if "=" not in override:
            raise UserError(f"override {override!r}: write key=value, for example optimizer.lr=0.001")
        try:
            change = OmegaConf.from_dotlist([override])
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise UserError(f"override {override!r}: {' '.join(str(error).split())}") from error
        config = _merge(config, change, f"override {override!r}")
    return _to_object(config, str(path))


def config_from_dict(values: dict[str, Any], place: str) -> RunConfig:
    """A config as a checkpoint keeps it."""
    return _to_object(_merge(OmegaConf.structured(RunConfig), values, place), place)


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """Primitives alone; the inverse of `config_from_dict`."""
    return OmegaConf.to_container(OmegaConf.structured(config))  # type: ignore[return-value]


def _merge(base: Any, change: Any, place: str) -> DictConfig:
    try:
        return OmegaConf.merge(base, change)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        key = getattr(error, "full_key", None)
        raise UserError(f"{place}: {key or ''}{': ' if key else ''}{first}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{place}: {' '.join(str(error).split())}") from error


def _to_object(config: DictConfig, place: str) -> RunConfig:
    try:
        return OmegaConf.to_object(config)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise UserError(f"{place}: {str(error).splitlines()[0]}") from error

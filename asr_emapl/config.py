"""Load and validate a run's config: YAML with overrides, checked against the components' dataclasses."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from annotated_types import Ge, Le
from pydantic import TypeAdapter, ValidationError

from asr_emapl.audio.augment import AugmentConfig
from asr_emapl.audio.features import FeatureConfig
from asr_emapl.audio.perturb import PerturbConfig
from asr_emapl.checkpoints.manager import CheckpointConfig
from asr_emapl.data.batch_plan import BatchConfig
from asr_emapl.data.loader import DataConfig
from asr_emapl.distributed.process_group import DeviceConfig
from asr_emapl.errors import UserError
from asr_emapl.hyperparameters import OptimizerConfig, ScheduleConfig, TeacherConfig
from asr_emapl.models.contract import ModelConfig
from asr_emapl.objectives.loss import LossConfig
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.runs.reader import CHECKPOINTS, CONFIG
from asr_emapl.self_supervised.config import SelfSupervisedConfig
from asr_emapl.settings import (
    Hours,
    Place,
    PositiveHours,
    Text,
    allowed,
    allowed_item,
    describe,
    group_of,
    part_of,
    with_places,
)
from asr_emapl.storage import is_url, write
from asr_emapl.storage.yaml_text import parse_yaml, read_yaml, require_bounded


@dataclass
class InitConfig:
    """Initial weights and state of a run."""

    checkpoint: Place | None = None
    """Checkpoint to start from; null: random weights."""
    keep: Literal["run", "weights"] = "run"
    """run: also restore the clock, optimizer and position in the data; weights: load only the weights."""
    weights: Place | None = None
    """File of tensors (.safetensors, a state_dict or a checkpoint), or a run directory, for example of a
    self-supervised run. Tensors that match the model by name and shape are loaded; the rest of the model
    keeps its random values, and is listed. Not with checkpoint."""
    part: Text | None = None
    """Entry of that file with the tensors, with dots, such as model; null: the file itself, or the teacher of
    a checkpoint."""
    rename: dict[str, str] = field(default_factory=dict)
    """Regular expression -> replacement, applied to the names in the file, in order."""


@dataclass
class IntervalConfig:
    """How often the validation splits are decoded."""

    every_hours: PositiveHours | None = 1.0
    """Hours of audio between validations; null: only at the end."""


@dataclass
class RunConfig:
    """All settings of a run. Times are in hours of audio consumed over all ranks."""

    root: Text | None = None
    """Folder that relative paths in this file are resolved against. A relative root is resolved against the
    folder of the file; null: the current working directory. Relative paths in key=value on the command line
    are always resolved against the current working directory."""
    run_dir: Place = "runs/run"
    """Run directory; rerun with the same one to resume."""
    seed: Annotated[int, Ge(-(2**63)), Le(2**63 - 1)] = 0
    """Random seed for weights, data order and augmentation."""
    hours: Hours = 10.0
    """Hours of audio to train for."""
    tokenizer: Place | None = None
    """Tokenizer file written by `asr-emapl tokenizer`; required unless training is self-supervised."""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    augment: AugmentConfig | None = field(default_factory=AugmentConfig)
    """SpecAugment; null: disabled."""
    perturb: PerturbConfig = field(default_factory=PerturbConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    pseudo_labels: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)
    self_supervised: SelfSupervisedConfig = field(default_factory=SelfSupervisedConfig)
    validation: IntervalConfig = field(default_factory=IntervalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    init: InitConfig = field(default_factory=InitConfig)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply overrides such as "optimizer.lr=0.001".

    Relative paths in overrides are resolved against the current working directory, those in the file against
    `root`. The run directory of a config.yaml that a run wrote is the folder of the file, even if the folder
    was moved.

    Raises:
        UserError: the file is missing, its YAML is invalid, a key is unknown or a value is invalid; names the
            file and the key.
    """
    values = read_yaml(path)
    values = _require_mapping({} if values is None else values, f"config {path}")
    written = _validated(values, f"config {path}")
    if _has_moved(path, written):
        values = values | {"run_dir": str(path.parent.absolute())}
    changes = [(f"override {text!r}", _parsed(text)) for text in overrides]
    config = _with_changes(values, changes) or _validated(values, f"config {path}")
    if config.root is None:
        return config
    changes = [(place, _resolved(change, Path.cwd())) for place, change in changes]
    config = _with_changes(values, changes) or config
    is_typed = any("root" in change for _, change in changes)
    root = (Path.cwd() if is_typed else path.parent.absolute()) / str(config.root)
    # Paths that are already absolute do not change; the others are those of the file and defaults.
    return config_from_dict(_resolved(config_to_dict(config), root) | {"root": None}, f"config {path}")


def _parsed(override: str) -> dict[str, Any]:
    """The nested mapping of an override, for example {"optimizer": {"lr": 0.001}}."""
    place = f"override {override!r}"
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"{place}: write key=value, for example optimizer.lr=0.001")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{place}: {' '.join(key.split())}: {error}") from error
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _with_changes(values: dict[str, Any], changes: Sequence[tuple[str, dict[str, Any]]]) -> RunConfig | None:
    """The config after changes, each validated by itself for an error that names it; None without changes."""
    config = None
    for place, change in changes:
        values = _merged(values, change)
        config = _validated(values, place)
    return config


def _has_moved(path: Path, config: RunConfig) -> bool:
    """Whether a file is the config.yaml of a run (or an earlier one beside it) whose folder was moved."""
    is_of_run = path.name == CONFIG or fnmatch(path.name, "config.step-*.yaml")
    if not is_of_run or not (path.parent / CHECKPOINTS).is_dir():
        return False
    root = Path.cwd() if config.root is None else path.parent / config.root
    return os.path.realpath(root / config.run_dir) != os.path.realpath(path.parent)


def config_from_dict(values: dict[str, Any], place: str) -> RunConfig:
    """Build a config from the dictionary in a checkpoint.

    Raises:
        UserError: a key is unknown or a value is invalid; names `place` and the key.
    """
    return _validated(_require_mapping(values, place), place)


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """Convert a config to a dictionary of primitives; the inverse of `config_from_dict`."""
    return asdict(config)


def write_config(path: Path, config: RunConfig) -> None:
    """Write the config as YAML, atomically.

    Raises:
        UserError: the file cannot be written; an existing file is unchanged.
    """
    write(path, yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True))


def _resolved(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Values of a config whose paths are resolved against an absolute folder."""
    return with_places(
        values, RunConfig, lambda path: path if is_url(path) else os.path.normpath(folder / path)
    )


@cache
def _adapter() -> TypeAdapter[RunConfig]:
    return TypeAdapter(RunConfig)


def _require_mapping(values: Any, place: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UserError(f"{place}: expected a mapping of keys to values")
    return values


def _merged(base: Any, change: Any) -> Any:
    """Merge mappings key by key; replace any other value."""
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return change
    return base | {key: _merged(base.get(key), value) for key, value in change.items()}


def _validated(values: dict[str, Any], place: str) -> RunConfig:
    try:
        require_bounded(values)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error
    problem = next(_misuses(values, RunConfig), None)
    if problem is not None:
        raise UserError(f"{place}: {problem}")
    try:
        return _adapter().validate_python(values)
    except ValidationError as error:
        raise UserError(f"{place}: {_explain(error)}") from error


def _misuses(values: Any, cls: type, prefix: str = "") -> Iterator[str]:
    """Yield errors that pydantic does not report: unknown keys, NaN, and booleans in place of numbers."""
    hints = get_type_hints(cls, include_extras=True)
    for key, value in values.items():
        name = prefix + " ".join(str(key).split())
        if key not in hints:
            near = get_close_matches(str(key), hints, n=1, cutoff=0.5)
            yield f"{name}: not a setting" + (f"; did you mean '{prefix}{near[0]}'?" if near else "")
            continue
        group, part = group_of(hints[key]), part_of(hints[key])
        if group is not None and isinstance(value, dict):
            yield from _misuses(value, group, f"{name}.")
        elif part is not None and isinstance(value, dict):
            for of, settings in value.items():
                if isinstance(settings, dict):
                    yield from _misuses(settings, part, f"{name}.{of}.")
        elif isinstance(value, bool) and "true or false" not in allowed(hints[key]):
            yield f"{name}: {str(value).lower()} is not {allowed(hints[key])}"
        elif any(number != number for number in _numbers(value)):
            yield f"{name}: nan is not {allowed(hints[key])}"


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, float):
        yield value


def _explain(error: ValidationError) -> str:
    """Describe the first invalid value: its key, the value, and the allowed values."""
    first = error.errors(include_url=False, include_context=False)[0]
    known = {setting.key: setting.allowed for setting in describe(RunConfig)}
    key = ""
    for part in first["loc"]:
        if isinstance(part, int):
            key += f"[{part}]"
        elif not key or key in _groups():
            key = f"{key}.{part}".removeprefix(".")
        elif known.get(key) == "a mapping":
            key = f"{key}.{part}"
    base = key.partition("[")[0]
    expected = known.get(base) or ("a group of settings" if base in _groups() else "text")
    for _ in range(key.count("[")):
        expected = allowed_item(expected)
    value = first["input"]
    shown = "null" if value is None else repr(" ".join(value.split()) if isinstance(value, str) else value)
    return f"{key}: {shown[:80]} is not {expected}"


@cache
def _groups() -> frozenset[str]:
    """Keys of groups of settings."""
    keys = [setting.key for setting in describe(RunConfig)]
    return frozenset(key[:i] for key in keys for i, letter in enumerate(key) if letter == ".")

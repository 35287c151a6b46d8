"""Every number in a config has its range, beside it; what lies outside is refused by its key."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from asr_emapl.config import RunConfig, load_config
from asr_emapl.errors import UserError
from asr_emapl.limits import out_of_range


def parts(annotation: object) -> Iterator[object]:
    """The types in a union, a list or a mapping, at any depth."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) in (typing.Union, list, dict):
        for part in typing.get_args(annotation):
            yield from parts(part)
    else:
        yield annotation


def numeric_fields(cls: type, key: str = "") -> Iterator[tuple[str, dataclasses.Field, int]]:
    """Key, field, and depth of lists, of each number in a dataclass and those within it."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = f"{key}.{field.name}" if key else field.name
        found = set(parts(hints[field.name]))
        for part in found:
            if dataclasses.is_dataclass(part):
                yield from numeric_fields(part, name)
        if found & {int, float}:
            yield name, field, str(field.type).count("list[")


NUMBERS = list(numeric_fields(RunConfig))
# They are null, so that a key in them cannot be named alone.
ABSENT = {
    "perturb.speed.factors": "perturb.speed={{factors: {}}}",
    "perturb.noise.share": "perturb.noise={{share: {}}}",
    "perturb.noise.snr_db": "perturb.noise={{snr_db: {}}}",
    "perturb.reverberation.share": "perturb.reverberation={{share: {}}}",
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("limits") / "run.yaml"
    path.write_text("hours: 2\n")
    return path


def override(key: str, depth: int, value: str) -> str:
    value = "[" * depth + value + "]" * depth
    return ABSENT[key].format(value) if key in ABSENT else f"{key}={value}"


def test_the_walk_finds_them_all():
    names = {name for name, _, _ in NUMBERS}
    assert len(names) == len(NUMBERS) > 50
    assert {"seed", "batch.seconds", "batch.progressive", "optimizer.betas", "augment.time_masks"} <= names
    assert ABSENT.keys() <= names
    assert "checkpoint.running_mean" not in names  # a switch


@pytest.mark.parametrize(("name", "field", "depth"), NUMBERS, ids=[name for name, _, _ in NUMBERS])
def test_every_number_has_a_lower_and_an_upper_bound_which_its_default_keeps(name, field, depth):
    limits = field.metadata
    assert len({"least", "above"} & limits.keys()) == 1, f"{name}: state least or above in its metadata"
    assert len({"most", "below"} & limits.keys()) == 1, f"{name}: state most or below in its metadata"
    assert all(abs(bound) < float("inf") for bound in limits.values())


def test_defaults_lie_in_their_ranges():
    assert list(out_of_range(RunConfig())) == []


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "1e99", "-1e99"])
@pytest.mark.parametrize(("name", "depth"), [(n, d) for n, _, d in NUMBERS], ids=[n for n, _, _ in NUMBERS])
def test_what_is_no_number_that_means_something_is_refused_by_its_key(plain, name, depth, value):
    with pytest.raises(UserError) as caught:
        load_config(plain, [override(name, depth, value)])
    assert name.rpartition(".")[2] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("optimizer.clip_norm=.nan", "optimizer.clip_norm: nan is out of range (at least 0, at most 1e+09)"),
        ("optimizer.betas=[0.9,1]", "optimizer.betas[1]: 1.0 is out of range (at least 0, below 1)"),
        ("schedule.decay_from_hours=-1", "schedule.decay_from_hours: -1.0 is out of range"),
        ("schedule.decay_from_hours=-1", "at most 1e+09 or null)"),
        ("augment.time_masks=-1", "augment.time_masks: -1 is out of range"),
        ("augment.frequency_masks=1000000000", "augment.frequency_masks: 1000000000 is out of range"),
        ("checkpoint.keep=-1", "checkpoint.keep: -1 is out of range (at least 1"),
        ("checkpoint.keep=0", "checkpoint.keep: 0 is out of range"),
        ("pseudo_labels.min_confidence=1.5", "pseudo_labels.min_confidence: 1.5 is out of range"),
        ("pseudo_labels.unlabelled_per_labelled=-1", "pseudo_labels.unlabelled_per_labelled: -1.0 is out of"),
        ("batch.seconds=0", "batch.seconds: 0 is out of range (above 0, at most 1e+09)"),
        ("batch.progressive=[[1,60],[2,-5]]", "batch.progressive[1][1]: -5.0 is out of range"),
        ("perturb.noise={snr_db: [5, 500]}", "perturb.noise.snr_db[1]: 500.0 is out of range"),
    ],
)
def test_the_place_the_key_the_value_and_what_is_allowed_are_told(plain, change, said):
    with pytest.raises(UserError) as caught:
        load_config(plain, [change])
    assert str(caught.value).startswith(f"config {plain}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "change", ["schedule.decay_from_hours=null", "batch.seconds=auto", "batch.seconds=1e2", "hours=0", "lr=0"]
)
def test_what_is_not_set_or_lies_on_a_bound_is_taken(plain, change):
    load_config(plain, [change.replace("lr", "optimizer.lr")])

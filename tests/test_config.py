"""Configs: whatever is wrong with one is a line that names the file and the key; overrides; round trips."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asr_emapl.config import RunConfig, config_from_dict, config_to_dict, load_config
from asr_emapl.errors import UserError
from asr_emapl.planning import build_batches, nominal_step_audio


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "run.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path, *overrides: str) -> str:
    """What is said of a config that is refused: one line."""
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file that is all right."""
    return written(tmp_path_factory.mktemp("config"), "hours: 2\n")


# What is read.


def test_an_empty_file_is_the_defaults(tmp_path):
    for content in ("", "# nothing\n", "---\n", "{}\n"):
        assert load_config(written(tmp_path, content)) == RunConfig()


def test_values_reach_their_places_with_their_types(tmp_path):
    path = written(
        tmp_path,
        """
        run_dir: runs/a
        hours: 3
        seed: 7
        data: {labelled: [a.jsonl, b.jsonl], validation: {dev: d.jsonl}, workers: 0}
        augment: {time_masks: 4}
        optimizer: {lr: 1e-3, betas: [0.9, 0.99]}
        batch: {seconds: 240, reference_seconds: 60.0}
        teacher: {rho: 0.999}
        model: {target: "pkg.module:Model", options: {dim: 16, sizes: [1, 2], deep: {a: true}}}
        """,
    )
    config = load_config(path)
    assert config.run_dir == "runs/a"
    assert config.hours == 3.0
    assert isinstance(config.hours, float)
    assert config.seed == 7
    assert config.data.labelled == ["a.jsonl", "b.jsonl"]
    assert config.data.validation == {"dev": "d.jsonl"}
    assert config.augment is not None
    assert config.augment.time_masks == 4
    assert config.augment.frequency_masks == 2  # beside it, the default
    assert config.optimizer.lr == 0.001  # YAML 1.1 takes 1e-3 for a text
    assert config.teacher.rho == 0.999
    assert config.teacher.half_life_hours is None
    assert config.model.options == {"dim": 16, "sizes": [1, 2], "deep": {"a": True}}
    assert type(config.model.options["deep"]) is dict  # plain containers, for the model's constructor
    assert type(config.data.labelled) is list


def test_augmentation_can_be_switched_off(tmp_path, plain):
    assert load_config(written(tmp_path, "augment: null\n")).augment is None
    assert load_config(plain, ["augment=null"]).augment is None


# What is refused.


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("hors: 2", "hors"),
        ("optimizer: {lr: 1.0e-3, learning_rate: 1.0}", "optimizer.learning_rate"),
        ("augment: {time_mask: 3}", "augment.time_mask"),
        ("1: 2", "1"),
        ("hours: abc", "hours"),
        ("hours: [1]", "hours"),
        ("hours: null", "hours"),
        ("hours: {x: 1}", "hours"),
        ("seed: 1.5", "seed"),
        ("run_dir: 2020-01-01", "run_dir"),
        ("batch: 3", "batch"),
        ("batch: null", "batch"),
        ("data: [x]", "data"),
        ("data: {labelled: a.jsonl}", "data.labelled"),
        ("data: {labelled: [null]}", "data.labelled[0]"),
        ("data: {validation: [a]}", "data.validation"),
        ("optimizer: {betas: [0.9, x]}", "optimizer.betas[1]"),
        ("optimizer: {betas: {a: 1}}", "optimizer.betas"),
        ("model: {options: [1]}", "model.options"),
        ("batch: {seconds: true}", "batch.seconds"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_file(tmp_path, content, key):
    path = written(tmp_path, content)
    place, _, rest = refusal(path).partition(f"{path}: ")
    assert place == "config "
    assert rest.startswith(f"{key}: ")


def test_a_misspelt_key_comes_with_the_right_one(tmp_path):
    assert "'hours'" in refusal(written(tmp_path, "hors: 2"))


@pytest.mark.parametrize(
    "content",
    [
        "hours: [",
        "{a: b",
        "a: b: c",
        "\thours: 2",
        "hours: *absent",
        "? [a]\n: b",
        "hours: !!python/object:os.system x",
        "hours: 2020-13-45",  # no such month
        "hours: 0b_",
        "[" * 1500,
        b"\x80\x81\xff\xfe",
        b"\x00\x01\x02\x03",
        b"PK\x03\x04\x14\x00",
        b"fLaC\x00\x00\x00\x22",
    ],
)
def test_what_is_not_yaml(tmp_path, content):
    path = written(tmp_path, content)
    assert refusal(path).startswith(f"{path}:")
    assert " not " in refusal(path)


@pytest.mark.parametrize("content", ["- hours: 2\n", "[1, 2]", "hours", "5", "- a\n- b\n"])
def test_a_list_or_a_word_is_no_config(tmp_path, content):
    path = written(tmp_path, content)
    assert refusal(path) == f"config {path}: expected a mapping of keys to values"


def repeated(count, line):
    """Options of which each holds the one before four times."""
    return "model:\n  options:\n    a0: &a0 {x: y}\n" + "".join(
        f"    a{i}: " + line.format(i=i, j=i - 1) + "\n" for i in range(1, count)
    )


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("&a{i} [*a{j}, *a{j}, *a{j}, *a{j}]", "aliases"),
        ("&a{i} {{<<: [*a{j}, *a{j}, *a{j}, *a{j}]}}", "aliases"),
    ],
)
def test_a_few_hundred_bytes_that_would_fill_the_memory(tmp_path, line, what):
    assert what in refusal(written(tmp_path, repeated(20, line)))
    load_config(written(tmp_path, repeated(3, line)))


def test_overrides_and_checkpoints_have_the_same_limits(tmp_path):
    path = written(tmp_path, "hours: 1")
    bomb = "&a [x, x], " + ", ".join(f"&{b} [*{a}, *{a}, *{a}, *{a}]" for a, b in pairwise("abcdefghijklm"))
    assert "aliases" in refusal(path, f"model.options.x=[{bomb}]")
    options: dict[str, Any] = {}
    for _ in range(40):
        options = {"x": options, "y": options}
    with pytest.raises(UserError, match="aliases"):
        config_from_dict({"model": {"options": options}}, "checkpoint")
    with pytest.raises(UserError, match="checkpoint: expected a mapping"):
        config_from_dict([None], "checkpoint")


def test_a_config_that_contains_itself(tmp_path):
    refusal(written(tmp_path, "model: {options: &a {x: *a}}"))


def test_absent_files_and_folders(tmp_path):
    assert refusal(tmp_path / "nowhere.yaml").startswith(f"{tmp_path}/nowhere.yaml: cannot be read (No such")
    assert refusal(tmp_path).startswith(f"{tmp_path}: cannot be read (Is a directory)")


@given(st.binary(max_size=40))
@example(b"2020-13-45")
@example(b"0b_")
def test_no_bytes_break_the_reader(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(content)
    try:
        load_config(path)
    except UserError:
        refusal(path)


# Ranges: what no run could mean, and would otherwise come out as a traceback or as silence.


@pytest.mark.parametrize(
    "override",
    [
        "hours=.nan",
        "hours=.inf",
        "seed=99999999999999999999",
        "data.workers=-1",
        "batch.pool=0",
        "batch.shuffle_padding=-0.1",
        "batch.shuffle_padding=1.5",
        "batch.group_seconds=0",
        "device.max_seconds=.nan",
        "device.threads=-1",
        "features.mel_bands=0",
        "features.hop_ms=0",
        "features.window_ms=-25",
        "augment.time_share=1.5",
        "validation.every_hours=.nan",
        "checkpoint.every_hours=.nan",
        "pseudo_labels.start_hours=.nan",
        "pseudo_labels.start_hours=.inf",
    ],
)
def test_numbers_out_of_range_are_named(plain, override):
    assert override.partition("=")[0] in refusal(plain, override)


# Overrides.


def test_overrides_go_over_the_file_in_their_order(plain):
    config = load_config(
        plain,
        [
            "optimizer.lr=0.5",
            "hours=3",
            "hours=4",
            "data.labelled=[a.jsonl,b.jsonl]",
            "data.validation.dev=d.jsonl",
            "model.options.dim=16",
            "run_dir=runs/a=b",
            "augment.time_masks=0",
        ],
    )
    assert config.optimizer.lr == 0.5
    assert config.hours == 4.0
    assert config.data.labelled == ["a.jsonl", "b.jsonl"]
    assert config.data.validation == {"dev": "d.jsonl"}
    assert config.model.options == {"dim": 16}
    assert config.run_dir == "runs/a=b"
    assert config.augment is not None
    assert config.augment.time_masks == 0


def test_an_override_keeps_what_stands_beside_it(tmp_path):
    path = written(tmp_path, "model: {options: {dim: 16, heads: 2}}\ndata: {validation: {a: a.jsonl}}\n")
    config = load_config(path, ["model.options.dim=32", "data.validation.b=b.jsonl"])
    assert config.model.options == {"dim": 32, "heads": 2}
    assert config.data.validation == {"a": "a.jsonl", "b": "b.jsonl"}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("hours", "write key=value"),
        ("--hours", "write key=value"),
        ("", "write key=value"),
        ("hors=2", "hors"),
        ("batch.secs=2", "batch.secs"),
        ("hours=abc", "hours"),
        ("hours=", "hours"),
        ("optimizer=null", "optimizer"),
        ("optimizer=3", "optimizer"),
        ("data.labelled=a.jsonl", "data.labelled"),
        ("data.labelled[0]=x", "data"),
        ("data.labelled=[", "data.labelled"),
        ('hours="', "hours"),
        ("=5", "=5"),
        ("[=3", "[=3"),
        ("seed=0b_", "seed"),
        ("run_dir=\0", "run_dir"),
    ],
)
def test_a_wrong_override_is_named(plain, override, said):
    message = refusal(plain, override)
    assert message.startswith(f"override {override!r}: ")
    assert said in message


@settings(max_examples=20)  # a config takes milliseconds to check
@given(st.text(st.characters(codec="utf-8"), max_size=12), st.text(st.characters(codec="utf-8"), max_size=12))
@example("[", "3")
@example("seed", "0b_")
def test_no_override_breaks_the_reader(plain, key, value):
    for override in (
        f"{key}={value}",
        f"hours={value}",
        f"model.options.x={value}",
        f"optimizer.{key}={value}",
    ):
        try:
            load_config(plain, [override])
        except UserError:
            refusal(plain, override)


# To and from a checkpoint.


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["augment=null", "batch.seconds=auto", "init.checkpoint=a.pt"],
        ["batch.seconds=90", "pseudo_labels.dropout=0.5", "model.options={a: [1, {b: null}], c: x}"],
        ["batch.seconds=90.5", "teacher.rho=0.99", "data.validation={dev: a, test: b}", "hours=1e8"],
    ],
)
def test_to_a_dict_and_back(plain, overrides):
    config = load_config(plain, overrides)
    values = config_to_dict(config)
    assert config_from_dict(values, "checkpoint a.pt") == config
    assert json.loads(json.dumps(values)) == values  # primitives alone


def test_a_checkpoints_config_of_another_version_is_refused_by_name(plain):
    values = config_to_dict(load_config(plain)) | {"gradient_noise": 1.0}
    with pytest.raises(UserError, match=r"checkpoint a\.pt: gradient_noise: "):
        config_from_dict(values, "checkpoint a.pt")


def test_a_checkpoints_config_from_before_a_key_existed_gets_the_default(plain):
    values = config_to_dict(load_config(plain))
    del values["init"]
    assert config_from_dict(values, "checkpoint a.pt") == load_config(plain)


# Batch and kappa.


def test_kappa_is_batch_over_reference(plain):
    config = load_config(plain, ["batch.seconds=240", "batch.reference_seconds=60"])
    for world_size in (1, 8):
        assert build_batches(config, world_size).first == 240.0
        assert nominal_step_audio(config, world_size).kappa() == 4.0


def test_an_auto_batch_grows_with_the_hardware(plain):
    config = load_config(
        plain, ["batch.seconds=auto", "device.max_seconds=30", "batch.reference_seconds=120"]
    )
    assert [build_batches(config, n).first for n in (1, 2, 8)] == [30.0, 60.0, 240.0]
    assert [nominal_step_audio(config, n).kappa() for n in (1, 4, 8)] == [0.25, 1.0, 2.0]


def test_a_batch_written_with_an_exponent_is_a_number(tmp_path):
    """YAML 1.1 takes 1e2 for a text."""
    assert build_batches(load_config(written(tmp_path, "batch: {seconds: 1e2}")), 1).first == 100.0


@pytest.mark.parametrize("key", ["batch.seconds", "batch.reference_seconds"])
@pytest.mark.parametrize("seconds", ["0", "-1.0", "lots", "''", "Auto", ".nan", ".inf", "-5", "true", "null"])
def test_a_batch_that_is_not_positive(plain, key, seconds):
    assert f"{key}: " in refusal(plain, f"{key}={seconds}")

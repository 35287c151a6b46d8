"""The first config: sizes and hours that follow the data, and a file that loads."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cli_project import Project, make_project
from support.commands import fail, succeed

from asr_emapl.checks.starter import SIZES, Hardware, Starter, StarterData
from asr_emapl.config import load_config
from asr_emapl.errors import UserError


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("project"))


LAPTOP, SERVER = Hardware(0, 8), Hardware(8, 64)


def starter(labelled: float, unlabelled: float, hardware: Hardware = LAPTOP, **options) -> Starter:
    manifests = ["u.jsonl"] if unlabelled else []
    data = StarterData(["l.jsonl"], manifests, {"dev": "d.jsonl"}, labelled, unlabelled, 16.0)
    return Starter(data, "t.json", hardware, **options)


def loaded(starter: Starter, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(starter.write_text(tmp_path))
    return load_config(path)


def test_it_meets_the_recipes_that_it_comes_from():
    quickstart, mini = starter(4 / 60, 1.0), starter(5.3, 4.0)
    assert (quickstart.size_name, mini.size_name) == ("tiny", "mini")
    assert quickstart.seed_hours == pytest.approx(4.0, rel=0.1)
    assert quickstart.total_hours == pytest.approx(11.0, rel=0.1)
    assert mini.seed_hours == pytest.approx(80.0, rel=0.1)
    assert mini.total_hours == pytest.approx(220.0, rel=0.1)


@given(
    st.floats(0.01, 5000.0),
    st.floats(0.0, 50_000.0),
    st.integers(0, 64),
    st.sampled_from([None, *SIZES]),
)
def test_every_amount_gives_a_config_that_loads(tmp_path_factory, labelled, unlabelled, gpus, size):
    made = starter(labelled, unlabelled, Hardware(gpus, 4), size=size)
    config = loaded(made, tmp_path_factory.mktemp("config"))
    assert config.hours == made.total_hours
    assert (config.pseudo_labels.strategy == "ema") == (unlabelled > 0.0)
    assert config.batch.seconds >= 16.0, "the longest utterance fits"
    assert config.device.max_seconds >= 16.0
    assert config.schedule.warmup_hours > 0.0
    assert config.pseudo_labels.start_hours < config.hours
    assert math.isfinite(config.optimizer.lr)


@pytest.mark.parametrize(
    ("size", "recipe"), [("tiny", "quickstart/conf/quickstart"), ("mini", "librispeech/conf/mini")]
)
def test_the_two_smallest_sizes_are_those_of_the_recipes(tmp_path, size, recipe):
    tuned = load_config(Path(__file__).parents[1] / "recipes" / f"{recipe}.yaml")
    made = loaded(starter(4.0, 10.0, size=size), tmp_path)
    assert made.model == tuned.model
    assert made.augment == tuned.augment
    assert SIZES[size].lr == tuned.optimizer.lr
    assert SIZES[size].batch_seconds == tuned.batch.reference_seconds


def test_the_student_on_an_encoder_is_that_of_the_recipe(tmp_path):
    tuned = load_config(Path(__file__).parents[1] / "recipes/librispeech/conf/frozen_whisper_tiny.yaml")
    made = loaded(starter(1.5, 7.3, encoder=tmp_path / "tiny.bin"), tmp_path)
    assert made.model == tuned.model
    assert made.augment == tuned.augment
    assert made.features.extractor == tuned.features.extractor
    assert made.optimizer.lr == tuned.optimizer.lr
    assert made.batch.reference_seconds == tuned.batch.reference_seconds
    assert made.pseudo_labels.start_hours == pytest.approx(tuned.pseudo_labels.start_hours, rel=0.1)
    with pytest.raises(UserError, match="--encoder"):
        starter(1.5, 7.3, encoder=tmp_path / "tiny.bin", init=tmp_path)
    with pytest.raises(UserError, match="--size"):
        starter(1.5, 7.3, encoder=tmp_path / "tiny.bin", size="tiny")


def test_gpus_give_a_larger_model_and_batch(tmp_path):
    config = loaded(starter(300.0, 1000.0, SERVER), tmp_path)
    assert config.model.options["dim"] == 512
    assert config.batch.seconds == 4 * config.batch.reference_seconds
    assert config.device.precision == "bf16"
    assert loaded(starter(300.0, 1000.0), tmp_path).device.precision == "fp32"


def test_the_command_writes_a_config_and_an_estimate(project, tmp_path):
    options = ["--labelled", project.root / "labelled.jsonl", "--dev", project.dev, "--tokenizer"]
    options += [project.root / "letters.json", "--out", tmp_path / "run.yaml", "--size", "tiny"]
    said = succeed("init-config", *options)
    assert "x real time labelled" in said
    assert "GiB" in said
    assert "run.yaml" in fail("init-config", *options)
    assert "'huge'" in fail("init-config", *options[:-1], "huge", "--overwrite")
    said = succeed("init-config", *options, "--overwrite", "--no-measure", "--init", project.run)
    assert "real time" not in said
    config = load_config(tmp_path / "run.yaml")
    assert config.init.keep == "weights"
    assert succeed("settings", "init.keep", "--config", tmp_path / "run.yaml") == "weights\n"
    assert "optimizer.lr" in succeed("settings", "optimizer", "--config", tmp_path / "run.yaml")
    assert succeed("settings", "hours", "hours=7", "--config", tmp_path / "run.yaml") == "7.0\n"


def test_a_labelled_manifest_without_transcripts_is_refused(project, tmp_path):
    lines = [json.loads(line) for line in (project.root / "labelled.jsonl").read_text().splitlines()]
    (tmp_path / "unlabelled.jsonl").write_text(
        "".join(json.dumps({k: v for k, v in line.items() if k != "text"}) + "\n" for line in lines)
    )
    said = fail(
        *("init-config", "--labelled", tmp_path / "unlabelled.jsonl", "--out", tmp_path / "run.yaml"),
        *("--tokenizer", project.root / "letters.json"),
    )
    assert "unlabelled.jsonl" in said
    assert "have no transcript" in said

"""Wrong input to commands: one line, exit status 2, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.cli_project import Project, make_project, texts
from support.commands import call, fail, succeed


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("project"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("hors=3", "hors"),
        ("optimizer.rate=3", "optimizer.rate"),
        ("hours=many", "hours"),
        ("data.labelled=a.jsonl", "data.labelled"),
        ("hours", "write key=value"),
        ("data.labelled=[nowhere.jsonl]", "nowhere.jsonl"),
        ("data.validation.dev=nowhere.jsonl", "nowhere.jsonl"),
        ("tokenizer=nowhere.json", "nowhere.json"),
        ("init.checkpoint=nowhere.pt", "nowhere.pt"),
        ("data.workers=-1", "data.workers"),
    ],
)
def test_train_with_a_wrong_setting(project, tmp_path, override, said):
    run = tmp_path / "run"
    assert said in fail("train", "--config", project.config, f"run_dir={run}", override)
    assert not run.exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("hors: 3", "hors"),
        ("seed: one", "seed"),
        ("augment: {time_mask: 1}", "augment.time_mask"),
        ("seed: [", "YAML"),
    ],
)
def test_train_with_a_wrong_config_names_it(project, tmp_path, line, said):
    config = tmp_path / "wrong.yaml"
    kept = [old for old in project.config.read_text().splitlines() if not old.startswith("augment:")]
    config.write_text("\n".join([*kept, line, f"run_dir: {tmp_path / 'run'}"]))
    message = fail("train", "--config", config)
    assert said in message
    assert str(config) in message
    assert not (tmp_path / "run").exists()


def test_train_without_its_config(tmp_path):
    assert "nowhere.yaml" in fail("train", "--config", tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("content", ["", "\n\n", "this is no json\n", "[1, 2]\n", '{"id": "a"}\n'])
def test_train_with_a_manifest_that_is_none(project, tmp_path, content):
    manifest = tmp_path / "bad.jsonl"
    manifest.write_text(content)
    run = tmp_path / "run"
    outcome = call("train", "--config", project.config, f"run_dir={run}", f"data.labelled=[{manifest}]")
    assert outcome.status == 2
    assert outcome.err.startswith(f"error: {manifest}")
    assert "Traceback" not in outcome.err
    assert not run.exists()


@pytest.mark.parametrize("where", ["run directory", "below a file"])
def test_train_where_nothing_can_be_written(project, tmp_path, where):
    (tmp_path / "file").write_text("in the way")
    run = tmp_path / "file" if where == "run directory" else tmp_path / "file" / "run"
    assert str(run) in fail("train", "--config", project.config, f"run_dir={run}")
    assert (tmp_path / "file").read_text() == "in the way"


def _decode(project: Project, out: Path, **changed: object) -> str:
    options = {"checkpoint": project.run, "manifest": project.dev, "out": out, "device": "cpu"} | changed
    return fail("decode", *(part for key, value in options.items() for part in (f"--{key}", value)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("", "no utterances"),
        ("this is no json\n", "bad.jsonl:1: not JSON"),
        ('{"id": "a", "audio": "absent.flac", "duration": 1.0}\n', "absent.flac"),
        ('{"id": "a", "audio": "broken.flac", "duration": 1.0}\n', "broken.flac"),
        ('{"id": "a", "audio": "short.wav", "duration": 100.0}\n', "short.wav"),
    ],
    ids=["absent", "empty", "no json", "absent audio", "broken audio", "audio too short"],
)
def test_decode_with_a_wrong_manifest(project, tmp_path, content, said):
    manifest, out = tmp_path / "bad.jsonl", tmp_path / "out" / "hyp.jsonl"
    (tmp_path / "broken.flac").write_bytes(b"fLaC but not really")
    shutil.copy(json.loads(project.dev.read_text().splitlines()[0])["audio"], tmp_path / "short.wav")
    if content is not None:
        manifest.write_text(content)
    assert said in _decode(project, out, manifest=manifest)
    assert not out.parent.exists()


@pytest.mark.parametrize(
    "content",
    [None, b"", b"hello world", b"\x80\x02.", b"PK\x03\x04 and no more"],
    ids=["absent", "empty", "text", "pickle", "torn"],
)
def test_decode_with_a_wrong_checkpoint(project, tmp_path, content):
    checkpoint, out = tmp_path / "bad.pt", tmp_path / "hyp.jsonl"
    if content is not None:
        checkpoint.write_bytes(content)
    assert "bad.pt" in _decode(project, out, checkpoint=checkpoint)
    assert not out.exists()


def test_decode_says_which_checkpoints_it_passed_over(project, tmp_path):
    """Another model than the newest would otherwise be scored without anybody's knowing."""
    run = shutil.copytree(project.run, tmp_path / "run")
    torn = run / "checkpoints" / project.checkpoints[-1].name
    torn.write_bytes(torn.read_bytes()[:1000])
    out = tmp_path / "hyp.jsonl"
    outcome = call("decode", "--checkpoint", run, "--manifest", project.dev, "--out", out)
    assert outcome.status == 0
    assert str(torn) in outcome.err
    succeed(
        "decode", "--checkpoint", project.checkpoints[-2], "--manifest", project.dev,
        "--out", tmp_path / "older.jsonl",
    )  # fmt: skip
    assert texts(out) == texts(tmp_path / "older.jsonl")


def test_decode_with_a_run_directory_that_has_not_trained(project, tmp_path):
    assert "has no checkpoint" in _decode(project, tmp_path / "hyp.jsonl", checkpoint=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("option", "value"), [("model", "nobody"), ("device", "tpu")])
def test_decode_with_a_wrong_option(project, tmp_path, option, value):
    assert value in _decode(project, tmp_path / "hyp.jsonl", **{option: value})
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written(project, tmp_path):
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "out.json"
    assert str(out) in fail("tokenizer", "--out", out)
    assert str(out) in _decode(project, out)
    assert str(tmp_path) in fail("tokenizer", "--out", tmp_path)
    assert str(tmp_path) in _decode(project, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--kind", "words"), "words"),
        (("--kind", "bpe"), "--manifest"),
        (("--kind", "bpe", "--manifest", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--kind", "bpe", "--size", "3", "--manifest", "DEV"), "too small"),
    ],
)
def test_tokenizer_with_wrong_input(project, tmp_path, arguments, said):
    out = tmp_path / "tokenizer.json"
    arguments = [str(project.dev) if a == "DEV" else a for a in arguments]
    assert said in fail("tokenizer", *arguments, "--out", out)
    assert not out.exists()

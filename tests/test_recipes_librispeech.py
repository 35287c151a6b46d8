"""The LibriSpeech recipe, driven as a user drives it: usage errors, all stages on a little real speech."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from asr_emapl.config import load_config
from asr_emapl.data.manifest import read_manifest
from asr_emapl.text.tokenizer import load_tokenizer

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "librispeech"
CORPUS = os.environ.get("ASR_EMAPL_LIBRISPEECH")
PARTS = ("train-clean-5", "train-clean-100", "dev-clean", "dev-other")
# Of each part of the tiny corpus.
SPEAKERS, UTTERANCES = 2, 6
MODELS = ("teacher", "student")
TINY = (
    "hours=0.1",
    "batch.seconds=16",
    "batch.reference_seconds=16",
    "device.max_seconds=16",
    "device.name=cpu",
    "data.workers=0",
    "model.options.dim=32",
    "model.options.layers=1",
    "schedule.warmup_hours=0.01",
    "schedule.decay_from_hours=0.05",
    "teacher.half_life_hours=0.01",
    "pseudo_labels.start_hours=0.05",
    "validation.every_hours=0.05",
    "checkpoint.every_hours=0.05",
)


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The recipe from `cwd`, in the environment of this python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(RECIPE / "run.sh"), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--frobnicate"], "unknown option '--frobnicate'"),
        (["hours=3"], "unknown option 'hours=3'"),
        (["--data"], "--data needs a value"),
        ([], "--data is missing"),
        (["--data", "nowhere"], "no folder LibriSpeech/"),
        (["--data", ".", "--stage", "6"], "--stage '6'"),
        (["--stage", "4", "--stop-stage", "2"], "--stage '4' --stop-stage '2'"),
        (["--stage", "3", "--nproc", "0"], "--nproc '0'"),
        (["--stage", "3", "--stop-stage", "3", "--nnodes", "2"], "--rdzv"),
        (["--stage", "3", "--config", "conf/absent.yaml"], "conf/absent.yaml: no such file"),
    ],
)
def test_usage_errors_are_one_line(tmp_path: Path, arguments: list[str], reason: str) -> None:
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert reason in line
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_option_and_stage(tmp_path: Path) -> None:
    result = run("--help", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    for option in ("--data", "--config", "--stage", "--stop-stage", "--exp", "--nproc", "--nnodes", "--rdzv"):
        assert f"  {option} " in result.stdout
    for stage in range(6):
        assert f"\n  {stage} " in result.stdout


def test_wrong_overrides_and_absent_parts_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "LibriSpeech" / "train-clean-5").mkdir(parents=True)
    exp = ("--data", ".", "--exp", "exp", "--stop-stage", "0")
    wrong = run(*exp, "--", "optimizer.lrr=1", cwd=tmp_path)
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)
    assert "optimizer.lrr" in wrong.stderr
    absent = run(*exp, cwd=tmp_path)
    assert (absent.returncode, len(absent.stderr.splitlines())) == (2, 1)
    assert "train-clean-100 is missing" in absent.stderr


def tiny_corpus(root: Path) -> dict[str, list[str]]:
    """A few real utterances under each part's name, no speaker in two parts; part -> ids."""
    sources = sorted((Path(str(CORPUS)) / "LibriSpeech" / "dev-clean").glob("*/"))
    ids: dict[str, list[str]] = {}
    for number, part in enumerate(PARTS):
        ids[part] = []
        for speaker in sources[number * SPEAKERS : (number + 1) * SPEAKERS]:
            source = sorted(speaker.glob("*/"))[0]
            transcripts = source / f"{speaker.name}-{source.name}.trans.txt"
            lines = transcripts.read_text(encoding="utf-8").splitlines()[:UTTERANCES]
            chapter = root / "LibriSpeech" / part / speaker.name / source.name
            chapter.mkdir(parents=True)
            (chapter / transcripts.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
            for id_ in (line.split()[0] for line in lines):
                (chapter / f"{id_}.flac").symlink_to((source / f"{id_}.flac").resolve())
                ids[part].append(id_)
    return ids


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.skipif(
    CORPUS is None or not (Path(CORPUS) / "LibriSpeech" / "dev-clean").is_dir(),
    reason="ASR_EMAPL_LIBRISPEECH names no folder with LibriSpeech/dev-clean",
)
def test_all_stages_on_real_speech(tmp_path: Path) -> None:
    ids = tiny_corpus(tmp_path / "a corpus")
    exp = tmp_path / "an experiment"
    common = ("--config", "conf/mini.yaml", "--exp", exp)
    result = run("--data", tmp_path / "a corpus", *common, "--", *TINY, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    for stage in range(6):
        assert f"== stage {stage}: " in result.stdout

    for part in PARTS:
        manifest = read_manifest(exp / "data" / f"{part}.jsonl", require_text=True)
        assert [utterance.id for utterance in manifest] == sorted(ids[part])
    assert load_tokenizer(exp / "data" / "characters.json").decode([]) == ""
    run_dir = exp / "runs" / "mini"
    check_training(run_dir)
    for part in ("dev-clean", "dev-other"):
        references = read_manifest(exp / "data" / f"{part}.jsonl")
        words = sum(len((utterance.text or "").split()) for utterance in references)
        for model in MODELS:
            hypotheses = read_jsonl(run_dir / "decode" / f"{part}.{model}.jsonl")
            assert [hypothesis["id"] for hypothesis in hypotheses] == [u.id for u in references]
            score = json.loads((run_dir / "scores" / f"{part}.{model}.json").read_text(encoding="utf-8"))
            assert score["sentences"] == len(references)
            assert score["words"]["reference_length"] == words
            assert score["words"]["rate"] == pytest.approx(score["words"]["errors"] / words)
            assert f"{part}, {model}" in result.stdout
    assert (run_dir / "curves.png").read_bytes().startswith(b"\x89PNG")

    # The config of the run names its data wherever a command is started.
    config = load_config(run_dir / "config.yaml")
    paths = [config.tokenizer, *config.data.labelled, *config.data.validation.values()]
    assert all(path is not None and Path(path).is_absolute() and Path(path).exists() for path in paths)

    # A finished training is left as it is, with no data folder at hand.
    before = (run_dir / "log.jsonl").read_bytes()
    again = run(*common, "--stage", "2", "--stop-stage", "3", "--", *TINY, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "nothing to do" in again.stdout
    assert "already exists" in again.stdout
    assert (run_dir / "log.jsonl").read_bytes() == before

    # Two processes under torchrun see the same batches.
    only_three = ("--stage", "3", "--stop-stage", "3", "--nproc", "2")
    two = run(*common, *only_three, "--", *TINY, "run_dir=runs/two", "hours=0.02", cwd=tmp_path)
    assert two.returncode == 0, two.stdout + two.stderr
    steps = [event for event in read_jsonl(exp / "runs" / "two" / "log.jsonl") if event["event"] == "step"]
    assert [step["hours"] for step in steps] == [
        event["hours"] for event in read_jsonl(run_dir / "log.jsonl")[: len(steps)]
    ]


def check_training(run_dir: Path) -> None:
    """Steps of both kinds, a falling loss, validation of every model and part, a whole checkpoint."""
    log = read_jsonl(run_dir / "log.jsonl")
    steps = [event for event in log if event["event"] == "step"]
    labelled = [step for step in steps if step["kind"] == "labelled"]
    assert 0 < len(labelled) < len(steps)
    assert all(step["hours"] > 0.05 for step in steps if step["kind"] == "unlabelled")
    per_token = [step["loss"] * step["utterances"] / step["tokens"] for step in labelled]
    assert per_token[-1] < 0.7 * per_token[0]
    rates = [event["wer"] for event in log if event["event"] == "validation"][-1]
    assert set(rates) == {f"{model}/{part}" for model in MODELS for part in ("dev-clean", "dev-other")}
    assert all(0.0 <= rate < 1000.0 for rate in rates.values())
    newest = sorted((run_dir / "checkpoints").glob("step-*.pt"))[-1]
    state = torch.load(newest, map_location="cpu", weights_only=True)
    assert state["step"] == steps[-1]["step"]
    assert {"student", "teacher", "optimizer", "tokenizer", "config"} <= state.keys()

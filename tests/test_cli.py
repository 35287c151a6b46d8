"""The command line: corpus to score, what it says to wrong input, and that help comes at once."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from typing import Any

import pytest
import typer
from support.cli_project import OVERRIDES, Project, make_project, texts
from support.commands import call, fail, succeed
from typer.testing import CliRunner

from asr_emapl import __version__
from asr_emapl.cli import app


def leaves(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The commands below a group, by their words."""
    if not hasattr(command, "commands"):
        return [path]
    return [leaf for name, sub in command.commands.items() for leaf in leaves(sub, (*path, name))]


COMMANDS = leaves(typer.main.get_command(app))


# Help.


def test_the_commands_are_known():
    names = {" ".join(path) for path in COMMANDS}
    assert names >= {
        "prepare librispeech", "prepare libri-light", "prepare common-voice", "prepare folder",
        "prepare rendered", "tokenizer", "train", "decode", "score", "scale",
        "check-model", "plot", "report", "compare",
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(path):
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 0
    assert "Example" in result.output
    assert (
        f"asr-emapl {' '.join(path)} " in result.output or f"-m asr_emapl {' '.join(path)} " in result.output
    )


def test_help_names_every_command():
    output = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert all(path[0] in output for path in COMMANDS)


def process(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, timeout=60, check=False
    )


def test_help_comes_at_once():
    """By the processor's time: the clock's depends on what else runs."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        shown = process("-m", "asr_emapl", "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert shown.returncode == 0
        assert "semi-supervised" in shown.stdout.lower()
    assert min(times) < 0.5


def test_help_and_scores_do_not_wait_for_torch(tmp_path):
    (tmp_path / "a.trn").write_text("A B (u)\n")
    script = """
import sys
from asr_emapl.cli import main
for arguments in (["--help"], ["train", "--help"], ["--version"], ["score", sys.argv[1], sys.argv[1]]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as exit_:
        assert not exit_.code, exit_.code
heavy = {"torch", "torchaudio", "numpy", "matplotlib", "tensorboard"} & sys.modules.keys()
print("loaded:", sorted(heavy))
"""
    shown = process("-c", script, str(tmp_path / "a.trn"))
    assert shown.returncode == 0, shown.stderr
    # Scores are counted and resampled with it; help is not (test_help_comes_at_once).
    assert shown.stdout.endswith("loaded: ['numpy']\n")


def test_version():
    assert succeed("--version") == f"{__version__}\n"


def test_as_a_process_of_its_own_it_exits_with_2(tmp_path):
    shown = process("-m", "asr_emapl", "score", str(tmp_path / "nowhere.trn"), str(tmp_path / "nowhere.trn"))
    assert shown.returncode == 2
    assert shown.stdout == ""
    assert shown.stderr.startswith("error: ")
    assert shown.stderr.count("\n") == 1


# From a corpus on disk to its score.


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("project"))


@pytest.mark.parametrize("model", ["teacher", "student"])
def test_decoding_and_scoring_gives_what_the_run_saw_itself(project, tmp_path, model):
    out = tmp_path / "hyp.jsonl"
    told = succeed(
        "decode", "--checkpoint", project.run, "--manifest", project.dev, "--out", out, "--model", model
    )
    assert told == f"{out}: 4 utterances\n"
    assert list(texts(out)) == list(texts(project.dev))
    result = json.loads(succeed("score", project.dev, out, "--json"))
    events = map(json.loads, (project.run / "log.jsonl").read_text().splitlines())
    (wer,) = [event["wer"] for event in events if event["event"] == "validation"]
    assert 100 * result["words"]["rate"] == pytest.approx(wer[f"{model}/dev"])
    assert any(texts(out).values())


def test_decode_takes_a_checkpoint_file_too(project, tmp_path):
    """The newest gives what the run directory gives, an older one something else."""
    found = []
    for checkpoint in (project.run, project.checkpoints[-1], project.checkpoints[0]):
        out = tmp_path / "deep" / "hyp.jsonl"
        succeed("decode", "--checkpoint", checkpoint, "--manifest", project.dev, "--out", out, "--overwrite")
        found.append(texts(out))
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_the_batch_does_not_change_what_is_decoded(project, tmp_path):
    found = []
    for seconds in (0, 120):
        out = tmp_path / f"{seconds}.jsonl"
        succeed(
            "decode", "--checkpoint", project.run, "--manifest", project.dev, "--out", out,
            "--max-seconds", seconds, "--device", "cpu",
        )  # fmt: skip
        found.append(texts(out))
    assert found[0] == found[1]


def test_shards_are_decoded_as_their_files_are(project, tmp_path):
    shards = tmp_path / "shards"
    told = succeed("shard", project.dev, "--out", shards, "--codec", "flac", "--shard-mib", 0.01).splitlines()
    count = len(list(shards.glob("dev-*.tar")))
    assert len(told) - 1 == count > 1
    assert told[-1] == f"{shards}/dev.jsonl: 4 utterances in {count} shards"
    found = []
    for manifest in (project.dev, shards / "dev.jsonl"):
        out = tmp_path / "hyp.jsonl"
        succeed("decode", "--checkpoint", project.run, "--manifest", manifest, "--out", out, "--overwrite")
        found.append(texts(out))
    assert found[0] == found[1]
    assert "already exists" in fail("shard", project.dev, "--out", shards)
    assert "codec 'mp3'" in fail("shard", project.dev, "--out", tmp_path / "out", "--codec", "mp3")
    assert not (tmp_path / "out").exists()


def test_decode_needs_no_tokenizer_file_config_or_texts(project, tmp_path):
    """The checkpoint carries what it needs; audio alone is enough."""
    checkpoint = shutil.copy(project.checkpoints[-1], tmp_path / "model.pt")
    lines = [json.loads(line) for line in project.dev.read_text().splitlines()]
    bare = [{"audio_filepath": line["audio"], "duration": line["duration"]} for line in lines]
    (tmp_path / "bare.jsonl").write_text("".join(json.dumps(line) + "\n" for line in bare))
    for manifest, out in ((project.dev, "a.jsonl"), (tmp_path / "bare.jsonl", "b.jsonl")):
        succeed("decode", "--checkpoint", checkpoint, "--manifest", manifest, "--out", tmp_path / out)
    assert texts(tmp_path / "a.jsonl") == texts(tmp_path / "b.jsonl")


def test_train_again_has_nothing_to_do(project):
    told = succeed("train", "--config", project.config, *OVERRIDES)
    assert "nothing to do" in told
    assert told.splitlines()[-1] == f"last checkpoint: {project.checkpoints[-1]}"


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_sentencepiece_tokenizer_trains_a_model(project, tmp_path, kind):
    out = tmp_path / f"{kind}.json"
    told = succeed(
        "tokenizer", "--kind", kind, "--size", 13, "--manifest", project.root / "labelled.jsonl",
        "--manifest", project.dev, "--out", out,
    )  # fmt: skip
    assert f"{out}: SentencePiece tokenizer with 13 tokens (fingerprint " in told
    succeed(
        "train", "--config", project.config, f"tokenizer={out}", f"run_dir={tmp_path / 'run'}", "hours=0.003"
    )
    succeed(
        "decode", "--checkpoint", tmp_path / "run", "--manifest", project.dev, "--out", tmp_path / "h.jsonl"
    )
    assert texts(tmp_path / "h.jsonl").keys() == texts(project.dev).keys()


# The other commands.


def test_scale_says_that_kappa_is_nominal_and_why(project, tmp_path, monkeypatch):
    config = tmp_path / "relative.yaml"
    config.write_text(project.config.read_text().replace(f"{project.root}/", ""))
    command = ("scale", "--config", config, "--batch-seconds", 24)
    monkeypatch.chdir(project.root)
    assert "nominal" not in succeed(*command)
    monkeypatch.chdir(tmp_path)
    told = succeed(*command)
    assert "warning: kappa is nominal" in told
    assert "labelled.jsonl" in told
    assert any("nominal" in line for line in json.loads(succeed(*command, "--json"))["warnings"])


def test_scale_shows_what_changes(project):
    rows = json.loads(succeed("scale", "--config", project.config, "--batch-seconds", 24, "--json"))["rows"]
    table = succeed("scale", "--config", project.config, "--batch-seconds", 24)
    assert all(row["name"] in table for row in rows)
    (rate,) = [row for row in rows if row["name"] == "optimizer.lr" or row["name"].endswith("lr")]
    assert float(rate["scaled"]) == pytest.approx(2 * float(rate["reference"]))
    other = succeed("scale", "--config", project.config, "--batch-seconds", 24, "optimizer.lr=0.25")
    assert "0.5" in other
    assert other != table


def test_check_model_says_what_is_wrong_by_its_status(tmp_path, monkeypatch):
    told = succeed(
        "check-model",
        "asr_emapl.models.transformer:TransformerCtc",
        "dim=16",
        "heads=2",
        "layers=1",
        "norm=pre",
    )
    *lines, verdict, size, speed = told.splitlines()
    assert verdict == "all checks passed"
    assert all(line.startswith("ok  ") for line in lines)
    assert "M parameters" in size
    assert "of activations" in speed
    (tmp_path / "lying_model.py").write_text(
        "from asr_emapl.models.transformer import TransformerCtc\n"
        "class Model(TransformerCtc):\n"
        "    def output_lengths(self, lengths):\n"
        "        return super().output_lengths(lengths) + 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    outcome = call("check-model", "lying_model:Model", "dim=16", "heads=2", "layers=1")
    assert outcome.status == 1
    assert "FAIL " in outcome.out
    assert "failed" in outcome.out.splitlines()[-1]
    assert "write key=value" in fail("check-model", "lying_model:Model", "dim")
    assert "nowhere" in fail("check-model", "nowhere:Model")


def test_train_warns_of_a_model_that_fails_the_checks(project, tmp_path, monkeypatch):
    (tmp_path / "leaky_model.py").write_text(
        "from asr_emapl.models.transformer import TransformerCtc\n"
        "class Model(TransformerCtc):\n"
        "    def forward(self, features, lengths):\n"
        "        return super().forward(features + features.mean(1, keepdim=True), lengths)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    command = ("train", "--config", project.config, f"run_dir={tmp_path / 'run'}", "hours=0.003")
    command += ("validation.every_hours=null", "model.target=leaky_model:Model")
    outcome = call(*command)
    assert outcome.status == 0, outcome
    assert "warning: leaky_model:Model fails padding" in outcome.err
    assert "warning" not in call(*command, "hours=0.004").err, "said once"


def test_plot_draws_runs(project, tmp_path):
    out = tmp_path / "curves.png"
    assert succeed("plot", f"a={project.run}", project.run, "--out", out) == f"{out}\n"
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "nowhere" in fail("plot", tmp_path / "nowhere", "--out", tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()


def test_report_tells_what_the_time_went_to(project, tmp_path):
    told = succeed("report", f"mine={project.run}")
    head, row = told.split("\n")[:2]
    assert head.split() == ["WER", "%", "dev", "student", "dev", "teacher"]
    assert row.startswith("mine ")
    assert "time: student" in told
    assert "\nmine: " in told
    assert told.rstrip().split("\n")[-1].startswith("warning: the run recognises almost nothing")
    (record,) = json.loads(succeed("report", project.run, "--json")).values()
    assert sum(record["shares"].values()) == pytest.approx(1.0)
    assert record["utterances"] > 0
    assert "nowhere" in fail("report", tmp_path / "nowhere")

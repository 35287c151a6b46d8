"""The command line: corpus to score, what it says to wrong input, and that help comes at once."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from support.commands import call, fail, succeed
from support.tiny import CONFIG, make_corpus
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

OVERRIDES = (
    *("hours=0.08", "optimizer.lr=0.01", "validation.every_hours=null"),
    *("checkpoint.every_hours=0.02", "checkpoint.keep=9"),
)


@dataclass
class Project:
    """What the commands of a whole project left."""

    root: Path
    config: Path
    checkpoints: list[Path]

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def dev(self) -> Path:
        return self.root / "dev.jsonl"


def librispeech(root: Path, target: Path) -> None:
    """The tiny corpus as LibriSpeech/<part>/1/<chapter>/1-<chapter>-<utterance>.flac."""
    for chapter, part in enumerate(("labelled", "unlabelled", "dev"), start=1):
        folder = target / "LibriSpeech" / part / "1" / str(chapter)
        folder.mkdir(parents=True)
        texts = []
        for i, line in enumerate((root / f"{part}.jsonl").read_text().splitlines()):
            utterance = json.loads(line)
            name = f"1-{chapter}-{i:04d}"
            shutil.copy(utterance["audio"], folder / f"{name}.flac")
            texts.append(f"{name} {utterance['text']}\n")
        (folder / f"1-{chapter}.trans.txt").write_text("".join(texts))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Prepared, with a tokenizer, and trained, by the commands alone."""
    source, root = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("project")
    make_corpus(source)
    librispeech(source, root / "corpora")
    assert succeed("prepare", "librispeech", "--data", root / "corpora", "--out", root) == "".join(
        f"{part}: {root}/{part}.jsonl\n" for part in ("dev", "labelled", "unlabelled")
    )
    assert "vocabulary_size=29" in succeed("tokenizer", "--out", root / "letters.json")
    config = root / "tiny.yaml"
    config.write_text(CONFIG.format(root=root), encoding="utf-8")
    told = succeed("train", "--config", config, *OVERRIDES)
    checkpoints = sorted((root / "run" / "checkpoints").glob("step-*.pt"))
    assert told.splitlines()[-1] == f"last checkpoint: {checkpoints[-1]}"
    return Project(root, config, checkpoints)


def texts(path: Path) -> dict[str, str]:
    return {line["id"]: line["text"] for line in map(json.loads, path.read_text().splitlines())}


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
    assert "exists already" in fail("shard", project.dev, "--out", shards)
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
    assert "vocabulary_size=13" in told
    succeed(
        "train", "--config", project.config, f"tokenizer={out}", f"run_dir={tmp_path / 'run'}", "hours=0.003"
    )
    succeed(
        "decode", "--checkpoint", tmp_path / "run", "--manifest", project.dev, "--out", tmp_path / "h.jsonl"
    )
    assert texts(tmp_path / "h.jsonl").keys() == texts(project.dev).keys()


# The other commands.


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
    assert all(line.startswith("ok  ") for line in told.splitlines())
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
    assert "write key=value" in fail("check-model", "lying_model:Model", "dim")
    assert "nowhere" in fail("check-model", "nowhere:Model")


def test_plot_draws_runs(project, tmp_path):
    out = tmp_path / "curves.png"
    assert succeed("plot", f"a={project.run}", project.run, "--out", out) == f"{out}\n"
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "nowhere" in fail("plot", tmp_path / "nowhere", "--out", tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()


def test_report_tells_what_the_time_went_to(project, tmp_path):
    told = succeed("report", f"mine={project.run}")
    assert "mine" in told.split("\n")[0]
    assert "time: student" in told
    assert told.rstrip().split("\n")[-1].startswith("mine: ")
    (record,) = json.loads(succeed("report", project.run, "--json")).values()
    assert sum(record["shares"].values()) == pytest.approx(1.0)
    assert record["utterances"] > 0
    assert "nowhere" in fail("report", tmp_path / "nowhere")


# Wrong input: one line, and nothing left behind.


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

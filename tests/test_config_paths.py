"""Where relative paths of a config, of overrides and of a moved run directory start."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr_emapl.config import load_config
from asr_emapl.errors import UserError


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


def test_paths_start_from_the_root_that_the_config_states(tmp_path, monkeypatch):
    (tmp_path / "conf").mkdir()
    path = tmp_path / "conf" / "run.yaml"
    path.write_text(
        "root: ..\nrun_dir: runs/a\ntokenizer: t.json\ninit: {checkpoint: /elsewhere/x.pt}\n"
        "data: {labelled: [data/l.jsonl, 's3://b/l.jsonl'], validation: {dev: data/d.jsonl}}\n"
        "perturb: {noise: {manifests: [data/n.jsonl]}}\n"
    )
    monkeypatch.chdir("/")
    config = load_config(path)
    assert config.run_dir == str(tmp_path / "runs" / "a")
    assert config.tokenizer == str(tmp_path / "t.json")
    assert config.init.checkpoint == "/elsewhere/x.pt"
    assert config.data.labelled == [str(tmp_path / "data" / "l.jsonl"), "s3://b/l.jsonl"]
    assert config.data.validation == {"dev": str(tmp_path / "data" / "d.jsonl")}
    assert config.perturb.noise.manifests == [str(tmp_path / "data" / "n.jsonl")]
    assert config.root is None, "a run's own config has absolute paths"
    assert load_config(path, ["root=null"]).run_dir == "runs/a"


def test_paths_typed_on_the_command_line_start_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "conf").mkdir()
    path = tmp_path / "conf" / "run.yaml"
    path.write_text("root: ..\nrun_dir: runs/a\ndata: {labelled: [l.jsonl], validation: {dev: d.jsonl}}\n")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    typed = ("tokenizer=t.json", "data.labelled=[m.jsonl, 's3://b/m.jsonl']", "data.validation.own=e.jsonl")
    config = load_config(path, [*typed, "perturb.noise.manifests=[n.jsonl]", "init.checkpoint=../x/seed"])
    assert config.run_dir == str(tmp_path / "runs" / "a")
    assert config.tokenizer == str(here / "t.json")
    assert config.data.labelled == [str(here / "m.jsonl"), "s3://b/m.jsonl"]
    assert config.data.validation == {"dev": str(tmp_path / "d.jsonl"), "own": str(here / "e.jsonl")}
    assert config.perturb.noise.manifests == [str(here / "n.jsonl")]
    assert config.init.checkpoint == str(tmp_path / "x" / "seed")
    assert load_config(path, ["run_dir=runs/b", "seed=1"]).run_dir == str(here / "runs" / "b")
    # A root that is typed is itself such a path; the file's paths start from it.
    config = load_config(path, ["root=sub", "tokenizer=t.json"])
    assert config.run_dir == str(here / "sub" / "runs" / "a")
    assert config.tokenizer == str(here / "t.json")
    assert "override 'run_dir=': run_dir" in refusal(path, "tokenizer=t.json", "run_dir=")


def test_the_config_of_a_run_names_the_folder_that_it_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "a"
    (run / "checkpoints").mkdir(parents=True)
    for name, run_dir in (("config.yaml", "runs/a"), ("config.step-000000007.yaml", str(run))):
        (run / name).write_text(f"run_dir: {run_dir}\n")
        assert load_config(Path("runs/a", name)).run_dir == run_dir
    (run / "mine.yaml").write_text("run_dir: runs/other\n")
    moved = tmp_path / "moved"
    run.rename(moved)
    for name in ("config.yaml", "config.step-000000007.yaml"):
        assert load_config(Path("moved", name)).run_dir == str(moved)
        assert load_config(moved / name, ["run_dir=runs/c"]).run_dir == "runs/c"
    assert load_config(moved / "mine.yaml").run_dir == "runs/other"
    (moved / "checkpoints").rmdir()  # a config that was copied, and no run
    assert load_config(moved / "config.yaml").run_dir == "runs/a"

"""The quickstart with a model of the user's own."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from asr_emapl.config import load_config
from asr_emapl.models.contract import ModelConfig

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "own_model"


def run(exp: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(RECIPE / "run.sh"), "--exp", str(exp), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_model_is_that_of_the_tutorial():
    page = (ROOT / "docs/tutorials/own-model.md").read_text()
    code = re.search(r'```python title="my_model.py"\n(.*?)```', page, re.DOTALL)
    assert code is not None
    assert code[1] == (RECIPE / "my_model.py").read_text()


def test_only_the_model_differs_from_the_quickstart(tmp_path):
    assert len((RECIPE / "model.yaml").read_text().splitlines()) == 1
    done = run(tmp_path, "--", "no.such.key=1")
    assert done.returncode == 2
    assert "no.such" in done.stderr
    quickstart = load_config(ROOT / "recipes/quickstart/conf/quickstart.yaml")
    found = load_config(tmp_path / "quickstart.yaml")
    assert found.model == ModelConfig(**yaml.safe_load((RECIPE / "model.yaml").read_text())["model"])
    assert replace(found, model=quickstart.model) == quickstart


def test_a_model_file_that_does_not_exist_is_an_error(tmp_path):
    done = run(tmp_path, "--model", str(tmp_path / "absent.yaml"))
    assert done.returncode == 2
    assert "--model" in done.stderr


@pytest.mark.slow
def test_it_is_trained_and_decoded(tmp_path):
    few = ("hours=0.02", "pseudo_labels.start_hours=0.01", "validation.every_hours=null")
    done = run(tmp_path, "--", *few)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "EMA pseudo-labels" in done.stdout
    assert (tmp_path / "runs/seed-0/ema/dev-other.teacher.json").is_file()
    assert "--trust my_model" in done.stdout.partition("To continue")[2]

"""No command runs code because a checkpoint or a run's config names it, unless the user trusts it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from support.commands import call, fail, succeed
from support.tiny import make_corpus, tiny_config

from asr_emapl.config import write_config
from asr_emapl.data.manifest import read_manifest
from asr_emapl.training.trainer import train

MODEL = """
from pathlib import Path
import warnings
import torch
from torch import nn
Path(__file__).with_name("ran").touch()
class Model(nn.Module):
    def __init__(self, vocabulary_size, input_size, width=8):
        super().__init__()
        self.conv = nn.Conv1d(input_size, width, 3, padding=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nn.utils.weight_norm(self.conv, dim=2)
        self.output = nn.Linear(width, vocabulary_size)
    def forward(self, features, lengths):
        valid = torch.arange(features.shape[1]) < lengths[:, None]
        hidden = self.conv((features * valid[..., None]).transpose(1, 2)).transpose(1, 2).relu()
        return self.output(hidden).float().log_softmax(-1), lengths
    def output_lengths(self, lengths):
        return lengths
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The tiny corpus, and a run of a model of the user's own, whose module leaves a file when it runs."""
    root = tmp_path_factory.mktemp("trust")
    make_corpus(root)
    (root / "their_models").mkdir()
    (root / "their_models" / "__init__.py").write_text("")
    (root / "their_models" / "small.py").write_text(MODEL)
    # The config is the user's own: training asks for no other consent.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        config = tiny_config(root, "hours=0.003", "validation.every_hours=null", "pseudo_labels.strategy=ema")
        config.model.target, config.model.options = "their_models.small:Model", {"width": 6}
        train(config)
    write_config(root / "mine.yaml", config)
    forget()
    return root


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "their_models"]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def _importable(root, monkeypatch):
    """Their package can be imported, and has not been."""
    monkeypatch.syspath_prepend(root)
    (root / "their_models" / "ran").unlink(missing_ok=True)
    yield
    forget()


def commands(root: Path, run: Path, out: Path) -> dict[str, tuple[object, ...]]:
    """Every command that builds the model which a file names."""
    dev = root / "dev.jsonl"
    lm = root / "lm.arpa"
    lm.touch()  # it is read after the model
    return {
        "decode": ("decode", "--checkpoint", run, "--manifest", dev, "--out", out / "h.jsonl"),
        "label": ("label", dev, "--checkpoint", run, "--out", out / "labels"),
        "transcribe": ("transcribe", read_manifest(dev)[0].audio, "--checkpoint", run, "--out", out / "t"),
        "tune-lm": (
            *("tune-lm", "--checkpoint", run, "--manifest", dev, "--lm", lm),
            *("--lexicon", lm, "--out", out / "lm.json"),
        ),
        "report": ("report", run, "--out", out / "page.html", "--manifest", dev, "--decode"),
        "inspect": ("inspect", dev, "--config", run / "config.yaml"),
    }


COMMANDS = ("decode", "label", "transcribe", "tune-lm", "report", "inspect")


def forged(root: Path, folder: Path, target: str, options: dict[str, object]) -> Path:
    """The run with another model in its checkpoints and its config.yaml."""
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("log.jsonl", "speed.jsonl"):
        (run / name).write_bytes((root / "run" / name).read_bytes())
    for path in (root / "run" / "checkpoints").glob("step-*.pt"):
        state = torch.load(path, weights_only=True)
        state["config"]["model"] = {"target": target, "options": options}
        torch.save(state, run / "checkpoints" / path.name)
    config = yaml.safe_load((root / "run" / "config.yaml").read_text())
    config["model"] = {"target": target, "options": options}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_foreign_code_runs_only_with_consent(root, tmp_path, command):
    arguments = commands(root, root / "run", tmp_path)[command]
    told = fail(*arguments)
    place = root / "run" / ("config.yaml" if command == "inspect" else "checkpoints/step-")
    assert str(place) in told
    assert "their_models.small:Model" in told
    assert told.endswith("add --trust their_models\n")
    assert "--trust other" not in fail(*arguments, "--trust", "other")
    assert not (root / "their_models" / "ran").exists()
    assert list(tmp_path.iterdir()) == []
    outcome = call(*arguments, "--trust", "other", "--trust", "their_models.small")
    assert (root / "their_models" / "ran").exists()
    # The language model does not exist, which is told once the recognizer is there.
    assert outcome.status == (2 if command == "tune-lm" else 0), outcome


@pytest.mark.parametrize("command", COMMANDS)
def test_consent_is_remembered_nowhere(root, tmp_path, command):
    call(*commands(root, root / "run", tmp_path)["decode"], "--trust", "their_models")
    forget()
    (root / "their_models" / "ran").unlink()
    assert "--trust their_models" in fail(*commands(root, root / "run", tmp_path / "b")[command])
    assert not (root / "their_models" / "ran").exists()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("consent", [False, True])
def test_a_callable_that_is_no_model_is_never_called(root, tmp_path, command, consent):
    """Two that worked: hub's load runs a folder's hubconf.py; basicConfig empties the file it logs to."""
    hub, precious = tmp_path / "hub", tmp_path / "precious.txt"
    hub.mkdir()
    (hub / "hubconf.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\ndef f(**_): pass\n")
    precious.write_text("all I have")
    (tmp_path / "out").mkdir()
    for number, (target, options) in enumerate(
        [
            ("torch.hub:load", {"repo_or_dir": str(hub), "model": "f", "source": "local"}),
            ("logging:basicConfig", {"filename": str(precious), "filemode": "w", "force": True}),
        ]
    ):
        run = forged(root, tmp_path / str(number), target, options)
        trust = ("--trust", target.partition(".")[0].partition(":")[0]) if consent else ()
        told = fail(*commands(root, run, tmp_path / "out")[command], *trust)
        assert target in told
        assert ("not a torch module" if consent else "--trust") in told
    assert precious.read_text() == "all I have"
    assert not (tmp_path / "sprung").exists()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_that_does_not_fit_its_checkpoint_is_one_line(root, tmp_path):
    run = forged(root, tmp_path, "their_models.small:Model", {"width": 7})
    for command in ("decode", "transcribe", "tune-lm", "report"):
        told = fail(*commands(root, run, tmp_path)[command], "--trust", "their_models")
        assert "does not fit model their_models.small:Model" in told
        assert "conv.weight_v" in told


def test_a_constructor_that_fails_shows_the_users_own_line(root, tmp_path):
    run = forged(root, tmp_path, "their_models.small:Model", {"width": "wide"})
    told = fail(*commands(root, run, tmp_path)["decode"], "--trust", "their_models")
    assert "small.py:10, in __init__: self.conv = nn.Conv1d(" in told


def test_old_style_weight_norm_trains_and_passes_the_checks(root):
    """copy.deepcopy fails for it: torch.nn.utils.weight_norm, as in wav2vec 2.0."""
    lines = [json.loads(line) for line in (root / "run" / "log.jsonl").read_text().splitlines()]
    assert sum(line["event"] == "step" for line in lines) >= 2
    assert "FAIL" not in succeed("check-model", "their_models.small:Model", "width=6")

"""A run that starts from weights which fit only a part of its model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny import make_corpus, tiny_config

from asr_emapl.errors import UserError
from asr_emapl.text.tokenizer import CharacterTokenizer, save_tokenizer
from asr_emapl.training.trainer import train


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """The corpus, a run on it, and a tokenizer with other characters."""
    root = tmp_path_factory.mktemp("weights")
    make_corpus(root)
    train(tiny_config(root, "hours=0.004"))
    save_tokenizer(root / "few.json", CharacterTokenizer("ABCDILNO "))
    return root


def student(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(sorted((run / "checkpoints").glob("*.pt"))[-1], weights_only=True)["student"]


def test_an_old_encoder_with_a_new_tokenizer(corpus: Path, tmp_path: Path, caplog) -> None:
    """Everything but the output layer is that of the old run's teacher, in student and teacher."""
    old = torch.load(sorted((corpus / "run/checkpoints").glob("*.pt"))[-1], weights_only=True)
    weights = f"init.weights={sorted((corpus / 'run/checkpoints').glob('*.pt'))[-1]}"
    settings = (weights, f"tokenizer={corpus}/few.json", "optimizer.lr=0.0", "hours=0.001")
    with caplog.at_level("INFO"):
        train(tiny_config(corpus, *settings, f"run_dir={tmp_path}/new"))
    assert "2 misshaped (output.weight, output.bias)" in caplog.text
    new = torch.load(sorted((tmp_path / "new/checkpoints").glob("*.pt"))[-1], weights_only=True)
    for state in (new["student"], new["teacher"]["module"]):
        for name, tensor in old["teacher"]["module"].items():
            assert state[name].equal(tensor) == (not name.startswith("output")), name


def test_a_resumed_run_does_not_need_the_file(corpus: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save({"model": student(corpus / "run")}, weights)
    settings = (f"init.weights={weights}", "init.part=model", f"run_dir={tmp_path}/run")
    train(tiny_config(corpus, *settings, "hours=0.003"))
    before = student(tmp_path / "run")
    weights.unlink()
    train(tiny_config(corpus, *settings, "hours=0.006"))
    assert not student(tmp_path / "run")["output.weight"].equal(before["output.weight"])


def test_names_are_changed(corpus: Path, tmp_path: Path, caplog) -> None:
    renamed = {f"module.{name}": tensor for name, tensor in student(corpus / "run").items()}
    torch.save(renamed, tmp_path / "weights.pt")
    settings = (f"init.weights={tmp_path}/weights.pt", f"run_dir={tmp_path}/run", "hours=0.001")
    with pytest.raises(UserError, match="no tensor matches"):
        train(tiny_config(corpus, *settings))
    with caplog.at_level("INFO"):
        train(tiny_config(corpus, *settings, r"init.rename={'^module\.': ''}"))
    assert f"{len(renamed)} tensors loaded" in caplog.text


def test_a_checkpoint_and_weights_are_an_error(corpus: Path, tmp_path: Path) -> None:
    settings = (f"init.weights={tmp_path}/a.pt", f"init.checkpoint={corpus}/run", f"run_dir={tmp_path}/run")
    with pytest.raises(UserError, match=r"init\.weights and init\.checkpoint"):
        train(tiny_config(corpus, *settings))

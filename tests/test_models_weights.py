"""Weights are loaded where names and shapes match, and the rest is reported."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from support.tiny import make_corpus, tiny_config
from torch import nn

from asr_emapl.errors import UserError
from asr_emapl.models.weights import load_matching, read_tensors
from asr_emapl.training.trainer import train


def model() -> nn.Module:
    return nn.ModuleDict({"encoder": nn.Linear(3, 4), "output": nn.Linear(4, 5)})


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_matches_is_loaded_and_the_rest_is_listed(suffix: str, tmp_path: Path, caplog) -> None:
    tensors = {
        "body.weight": torch.full((4, 3), 7.0),
        "output.weight": torch.ones(9, 4),
        "decoder.bias": torch.ones(2),
    }
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(tensors, path)
    else:
        from safetensors.torch import save_file

        save_file(tensors, path)
    target = model()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with caplog.at_level(logging.INFO):
        found = load_matching(target, path, rename={"^body": "encoder"})
    assert found.matched == ["encoder.weight"]
    assert found.missing == ["encoder.bias", "output.bias"]
    assert found.unexpected == ["decoder.bias"]
    assert found.misshaped == ["output.weight"]
    assert "1 tensors loaded, 2 missing" in caplog.text
    after = target.state_dict()
    assert after["encoder.weight"].eq(7.0).all()
    assert all(after[name].equal(before[name]) for name in (*found.missing, *found.misshaped))


def test_parts_of_a_file(tmp_path: Path) -> None:
    torch.save({"a": {"b": {"encoder.bias": torch.ones(4)}}, "n": 3}, tmp_path / "nested.pt")
    assert list(read_tensors(tmp_path / "nested.pt", "a.b")) == ["encoder.bias"]
    for part in ("a.c", "n", "a"):
        with pytest.raises(UserError, match="has no"):
            read_tensors(tmp_path / "nested.pt", part)


def test_a_checkpoint_gives_its_teacher(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    checkpoint = train(tiny_config(tmp_path, "hours=0.002"))
    assert checkpoint is not None
    state = torch.load(checkpoint, weights_only=True)
    found = read_tensors(checkpoint)
    assert found.keys() == state["teacher"]["module"].keys()


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    for content in (None, b"", b"no weights"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=r"weights\.pt"):
            read_tensors(path)
    torch.save({"other": torch.ones(1)}, path)
    with pytest.raises(UserError, match="no tensor matches"):
        load_matching(model(), path)

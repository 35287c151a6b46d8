"""Runs that started from a file of weights are decoded and resumed without it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support.commands import fail, succeed
from support.tiny import make_corpus, tiny_config
from support.tiny_whisper import write_openai

from asr_emapl.checkpoints import files
from asr_emapl.config import RunConfig
from asr_emapl.errors import UserError
from asr_emapl.runs.reader import FEATURES
from asr_emapl.training.trainer import train

FROZEN = (
    "features.extractor=asr_emapl.models.whisper:WhisperEncoderFeatures",
    "features.weights={}/whisper.pt",
    "features.options.layers=1",
    "model.options.stride=2",
)
FINE_TUNED = (
    "model.target=asr_emapl.models.whisper:WhisperCtc",
    "model.weights={}/whisper.pt",
)
KINDS = {"frozen": FROZEN, "fine-tuned": FINE_TUNED}


def run_config(root: Path, kind: str, *overrides: str) -> RunConfig:
    config = tiny_config(root, *(setting.format(root) for setting in KINDS[kind]), *overrides)
    if kind == "fine-tuned":
        config.model.options = {"layers": 1}
    return config


def decoded(root: Path, checkpoint: Path, name: str) -> bytes:
    out = root / f"{name}.jsonl"
    succeed("decode", "--checkpoint", checkpoint, "--manifest", root / "dev.jsonl", "--out", out)
    return out.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_not_needed_after_the_start(tmp_path: Path, kind: str) -> None:
    make_corpus(tmp_path)
    write_openai(tmp_path / "whisper.pt")
    train(run_config(tmp_path, kind, "hours=0.002"))
    before = decoded(tmp_path, tmp_path / "run", "before")
    whole = run_config(tmp_path, kind, "hours=0.004", f"run_dir={tmp_path}/whole")
    train(run_config(tmp_path, kind, "hours=0.002", f"run_dir={tmp_path}/whole"))
    expected = train(whole)
    (tmp_path / "whisper.pt").unlink()
    assert decoded(tmp_path, tmp_path / "run", "after") == before
    last = train(run_config(tmp_path, kind, "hours=0.004"))
    assert last is not None
    assert expected is not None
    found, wanted = files.load(last)["student"], files.load(expected)["student"]
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    # Another run that starts from the checkpoint.
    train(
        run_config(
            tmp_path, kind, "hours=0.001", f"run_dir={tmp_path}/other",
            f"init.checkpoint={tmp_path}/run", "init.keep=weights",
        )
    )  # fmt: skip
    succeed("export", "--checkpoint", tmp_path / "run", "--out", tmp_path / "model")


def test_features_are_stored_once_and_named_if_they_are_missing(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    write_openai(tmp_path / "whisper.pt")
    last = train(run_config(tmp_path, "frozen", "hours=0.002"))
    assert last is not None
    alone = tmp_path / "alone" / last.name
    alone.parent.mkdir()
    shutil.copy(last, alone)
    expected = decoded(tmp_path, alone, "with-the-file")
    (tmp_path / "whisper.pt").unlink()
    said = fail(
        "decode", "--checkpoint", alone, "--manifest", tmp_path / "dev.jsonl", "--out", tmp_path / "a"
    )
    assert "whisper.pt" in said
    assert FEATURES in said
    shutil.copy(tmp_path / "run" / FEATURES, alone.parent)
    assert decoded(tmp_path, alone, "beside") == expected
    tensors = torch.load(alone.parent / FEATURES, weights_only=True)
    torch.save({name: tensor + 1.0 for name, tensor in tensors.items()}, alone.parent / FEATURES)
    said = fail(
        "decode", "--checkpoint", alone, "--manifest", tmp_path / "dev.jsonl", "--out", tmp_path / "a"
    )
    assert "other features" in said


def test_checkpoints_of_earlier_versions_need_the_file(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    write_openai(tmp_path / "whisper.pt")
    last = train(run_config(tmp_path, "fine-tuned", "hours=0.002"))
    assert last is not None
    state = files.load(last)
    del state["built"]
    files.save(last, state)
    before = decoded(tmp_path, last, "before")
    assert before
    (tmp_path / "whisper.pt").unlink()
    said = fail("decode", "--checkpoint", last, "--manifest", tmp_path / "dev.jsonl", "--out", tmp_path / "a")
    assert "whisper.pt" in said
    with pytest.raises(UserError, match=r"whisper\.pt"):
        train(run_config(tmp_path, "fine-tuned", "hours=0.004"))


OWN = """
import torch
from torch import nn
class Own(nn.Module):
    def __init__(self, vocabulary_size, input_size, weights=None):
        super().__init__()
        size = 3 if weights is None else len(torch.load(weights)["x"])
        self.inner, self.output = nn.Linear(input_size, size), nn.Linear(size, vocabulary_size)
    def output_lengths(self, lengths):
        return lengths
    def forward(self, features, lengths):
        return self.output(self.inner(features)).log_softmax(-1), lengths
"""


@pytest.mark.parametrize("size", [3, 4])
def test_a_model_whose_sizes_are_in_its_file_needs_it(tmp_path: Path, monkeypatch, size: int) -> None:
    make_corpus(tmp_path)
    name = f"own_sizes_{size}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    torch.save({"x": torch.zeros(size)}, tmp_path / "own.pt")
    config = tiny_config(
        tmp_path, "hours=0.001", f"model.target={name}:Own", f"model.weights={tmp_path}/own.pt"
    )
    config.model.options = {}
    train(config)
    decode = (
        "decode",
        "--checkpoint",
        tmp_path / "run",
        "--manifest",
        tmp_path / "dev.jsonl",
        "--trust",
        name,
    )
    succeed(*decode, "--out", tmp_path / "a.jsonl")
    (tmp_path / "own.pt").unlink()
    (succeed if size == 3 else fail)(*decode, "--out", tmp_path / "b.jsonl")

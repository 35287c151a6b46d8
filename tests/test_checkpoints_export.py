"""An exported model transcribes like its checkpoint, without the files that the run started from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.commands import fail, succeed
from support.tiny import make_corpus, tiny_config
from support.tiny_whisper import write_openai

from asr_emapl.checkpoints.export import load_export
from asr_emapl.checkpoints.onnx import write_onnx
from asr_emapl.checkpoints.recognizer import load_recognizer
from asr_emapl.checkpoints.torch_program import write_program
from asr_emapl.errors import UserError
from asr_emapl.training.trainer import train

STORED = (
    "features.extractor=asr_emapl.models.whisper:WhisperEncoderFeatures",
    "features.weights={}/whisper.pt",
)
KINDS = {
    "transformer": (),
    "frozen": (*STORED, "model.options.stride=2"),
    "fine-tuned": ("model.target=asr_emapl.models.whisper:WhisperCtc", "model.weights={}/whisper.pt"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("export")
    make_corpus(root)
    write_openai(root / "whisper.pt")
    for kind, settings in KINDS.items():
        run, of_kind = root / kind, [setting.format(root) for setting in settings]
        config = tiny_config(root, "hours=0.004", f"run_dir={run}", *of_kind)
        if kind == "fine-tuned":
            config.model.options = {}
        train(config)
        succeed("export", "--checkpoint", run, "--out", root / f"{kind}-model")
        decoded = root / f"{kind}.jsonl"
        succeed("decode", "--checkpoint", run, "--manifest", root / "dev.jsonl", "--out", decoded)
    (root / "whisper.pt").unlink()
    return root


@pytest.mark.parametrize("kind", KINDS)
def test_the_hypotheses_are_those_of_the_checkpoint(root: Path, kind: str, tmp_path: Path) -> None:
    folder = shutil.copytree(root / f"{kind}-model", tmp_path / "moved")
    succeed("decode", "--checkpoint", folder, "--manifest", root / "dev.jsonl", "--out", tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (root / f"{kind}.jsonl").read_bytes()


def test_other_commands_accept_it(root: Path, tmp_path: Path) -> None:
    folder = root / "frozen-model"
    succeed("label", root / "dev.jsonl", "--checkpoint", folder, "--out", tmp_path / "labels")
    assert any((tmp_path / "labels").iterdir())
    audio = json.loads((root / "dev.jsonl").read_text().splitlines()[0])["audio"]
    succeed("transcribe", root / audio, "--checkpoint", folder, "--out", tmp_path / "texts")
    assert any((tmp_path / "texts").iterdir())


def test_the_student_can_be_exported(root: Path, tmp_path: Path) -> None:
    succeed("export", "--checkpoint", root / "transformer", "--model", "student", "--out", tmp_path / "model")
    expected = load_recognizer(root / "transformer", "student", "cpu").model.state_dict()
    found = load_export(tmp_path / "model", "cpu").model.state_dict()
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())


def test_an_export_is_not_replaced_unless_requested(root: Path) -> None:
    arguments = ("export", "--checkpoint", root / "transformer", "--out", root / "transformer-model")
    assert "--overwrite" in fail(*arguments)
    succeed(*arguments, "--overwrite")
    assert "is not a checkpoint" in fail(
        "export", "--checkpoint", root / "transformer-model", "--out", root / "again"
    )


OWN = """
import torch
from torch import nn
class Own(nn.Module):
    def __init__(self, vocabulary_size, input_size, weights{default}):
        super().__init__()
        self.output = nn.Linear(input_size, vocabulary_size)
        if weights is not None:
            torch.load(weights)
    def output_lengths(self, lengths):
        return lengths
    def forward(self, features, lengths):
        return self.output(features).log_softmax(-1), lengths
"""


@pytest.mark.parametrize("default", ["=None", ""])
def test_own_models_do_not_need_their_weights_or_cannot_be_exported(
    root: Path, tmp_path: Path, monkeypatch, default: str
) -> None:
    name = f"own_model_{len(default)}"
    (tmp_path / f"{name}.py").write_text(OWN.format(default=default))
    monkeypatch.syspath_prepend(tmp_path)
    torch.save({}, tmp_path / "own.pt")
    run = tmp_path / "run"
    target = (f"model.target={name}:Own", f"model.weights={tmp_path}/own.pt")
    config = tiny_config(root, "hours=0.001", f"run_dir={run}", *target)
    config.model.options = {}
    train(config)
    export = ("export", "--checkpoint", run, "--trust", name, "--out", tmp_path / "model")
    if not default:
        assert "options_without_weights" in fail(*export)
        return
    succeed(*export)
    (tmp_path / "own.pt").unlink()
    load_export(tmp_path / "model", "cpu", [name])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{}"),
        ("config.json", b'{"format": 1}'),
        ("config.json", b"no JSON"),
        ("model.safetensors", b"no tensors"),
    ],
)
def test_damaged_exports_are_errors(root: Path, tmp_path: Path, name: str, content: bytes) -> None:
    folder = shutil.copytree(root / "transformer-model", tmp_path / "model")
    (folder / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_export(folder, "cpu")
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_foreign_code_is_run(root: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(root / "transformer-model", tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    values["model"]["target"] = "their_models.small:Model"
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="--trust their_models"):
        load_export(folder, "cpu")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", ["features", "waveforms"])
def test_onnx(root: Path, kind: str, given: str, tmp_path: Path) -> None:
    """write_onnx compares the outputs for other batch sizes and lengths."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    recognizer = load_export(root / f"{kind}-model", "cpu")
    path = tmp_path / "model.onnx"
    assert write_onnx(recognizer, path, waveforms=given == "waveforms") <= (
        1e-4 if given == "features" else 1e-3
    )
    session = onnxruntime.InferenceSession(path)
    assert [one.name for one in session.get_inputs()] == ["input", "lengths"]
    tokens = json.loads(session.get_modelmeta().custom_metadata_map["tokens"])
    assert (len(tokens), tokens[0]) == (29, "")
    assert set(tokens[1:]) == set(" 'ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@pytest.mark.parametrize("option", ["--onnx", "--torch"])
def test_the_kind_of_input_is_checked(root: Path, tmp_path: Path, option: str) -> None:
    out = ("--out", tmp_path / "model", option, "audio")
    assert "features, waveforms" in fail("export", "--checkpoint", root / "transformer", *out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", ["features", "waveforms"])
def test_a_program_of_torch(root: Path, kind: str, given: str, tmp_path: Path) -> None:
    """write_program compares the outputs for other batch sizes and lengths."""
    path = tmp_path / "model.pt2"
    assert (
        write_program(load_export(root / f"{kind}-model", "cpu"), path, waveforms=given == "waveforms")
        <= 1e-4
    )
    extra = {"tokens.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert len(json.loads(extra["tokens.json"])) == 29
    if given == "waveforms":
        log_probs, frames = program(torch.randn(1, 20_000), torch.tensor([20_000]))
        assert log_probs.shape == (1, int(frames), 29)


def test_a_model_that_reads_values_has_no_graph(root: Path, tmp_path: Path) -> None:
    recognizer = load_export(root / "transformer-model", "cpu")
    forward = recognizer.model.forward
    recognizer.model.forward = lambda x, n: forward(x[:, : n.tolist()[0]], n)
    with pytest.raises(UserError, match="TransformerCtc cannot be exported by torch"):
        write_program(recognizer, tmp_path / "model.pt2", waveforms=False)

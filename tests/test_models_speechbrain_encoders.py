"""SpeechBrain's encoders pass all checks and have the output of the original for an utterance alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from support.commands import succeed
from support.tiny import make_corpus, tiny_config
from torch import nn

from asr_emapl.checks.conformance import check
from asr_emapl.errors import UserError
from asr_emapl.models.contract import ModelConfig
from asr_emapl.models.speechbrain_encoders import SpeechBrainCtc
from asr_emapl.training.trainer import train

TARGET = "asr_emapl.models.speechbrain_encoders:SpeechBrainCtc"
SMALL = {"dim": 16, "heads": 2, "layers": 2}
MODELS: dict[str, dict[str, Any]] = {
    "conformer": {},
    "conformer absolute": {"attention": "regularMHA"},
    "conformer rotary": {"attention": "RoPEMHA"},
    "branchformer": {"kind": "branchformer"},
    "transformer": {"kind": "transformer"},
    "transformer post": {"kind": "transformer", "norm": "post"},
}

needs_speechbrain = pytest.mark.skipif(
    importlib.util.find_spec("speechbrain") is None, reason="needs the extra speechbrain"
)


@needs_speechbrain
@pytest.mark.parametrize("name", MODELS)
def test_all_checks_pass(name: str) -> None:
    config = ModelConfig(TARGET, options=SMALL | MODELS[name])
    assert [finding for finding in check(config) if not finding.passed] == []


def save_checkpoint(folder: Path, options: dict[str, Any]) -> Any:
    """Write model.ckpt as SpeechBrain's recipes do; returns the model in it, without its own front-end."""
    from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR

    torch.manual_seed(0)
    kind = options.get("kind", "conformer")
    original = TransformerASR(
        tgt_vocab=32, input_size=16, d_model=16, nhead=2, num_encoder_layers=2, num_decoder_layers=1,
        d_ffn=64, csgu_linear_units=64, activation=nn.GELU, encoder_module=kind, causal=False,
        attention_type=options.get("attention") or ("regularMHA" if kind == "transformer" else "RelPosMHAXL"),
        normalize_before=options.get("norm") != "post",
    )  # fmt: skip
    folder.mkdir()
    model = nn.ModuleList([nn.Conv1d(80, 16, 3), original, nn.Linear(16, 32)])
    torch.save(model.state_dict(), folder / "model.ckpt")
    original.custom_src_module = nn.Identity()
    if kind == "branchformer":  # it reflects the utterance, for which the adapter has zeros
        for layer in original.encoder.layers:
            layer.convolution_branch.csgu.conv.padding_mode = "constant"
    return original.eval()


@needs_speechbrain
@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_gives_the_output_of_the_original(name: str, tmp_path: Path) -> None:
    original = save_checkpoint(tmp_path / "CKPT", MODELS[name])
    features, lengths = torch.randn(1, 171, 80), torch.tensor([171])
    for weights in (tmp_path / "CKPT", tmp_path / "CKPT" / "model.ckpt"):
        model = SpeechBrainCtc(29, weights=weights, **(SMALL | MODELS[name])).eval()
        with torch.no_grad():
            expected = original.encode(model.frontend(features, lengths)[0])
            found, _ = model.layer_outputs(features, lengths)
        torch.testing.assert_close(found[-1], expected, atol=1e-5, rtol=1e-5)


@needs_speechbrain
@pytest.mark.parametrize("name", ["branchformer", "transformer"])
def test_each_trains(name: str, tmp_path: Path) -> None:
    make_corpus(tmp_path)
    config = tiny_config(
        tmp_path, "hours=0.004", "pseudo_labels.strategy=ema", "pseudo_labels.start_hours=0.002"
    )
    config.model.target, config.model.options = TARGET, SMALL | MODELS[name]
    assert train(config) is not None


@needs_speechbrain
def test_a_checkpoint_trains_and_decodes_without_it(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    save_checkpoint(tmp_path / "CKPT", {})
    config = tiny_config(
        tmp_path, "hours=0.02", "pseudo_labels.strategy=ema", "pseudo_labels.start_hours=0.01",
        f"model.weights={tmp_path}/CKPT",
    )  # fmt: skip
    config.model.target, config.model.options = TARGET, dict(SMALL)
    train(config)
    (tmp_path / "CKPT" / "model.ckpt").unlink()
    out = tmp_path / "hypotheses.jsonl"
    succeed("decode", "--checkpoint", tmp_path / "run", "--manifest", tmp_path / "dev.jsonl", "--out", out)
    assert len(out.read_text().splitlines()) == 4


@needs_speechbrain
def test_the_import_does_not_change_torch() -> None:
    """SpeechBrain allows TF32 when it is imported."""
    SpeechBrainCtc(29, **SMALL)
    assert not torch.backends.cuda.matmul.allow_tf32


@needs_speechbrain
def test_wrong_weights_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model\.ckpt or asr\.ckpt in this folder"):
        SpeechBrainCtc(29, weights=tmp_path, **SMALL)
    torch.save({"1.decoder.norm.norm.weight": torch.ones(16)}, tmp_path / "asr.ckpt")
    with pytest.raises(UserError, match="no tensor matches"):
        SpeechBrainCtc(29, weights=tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "lstm"}, "kind must be one of conformer, branchformer, transformer, not 'lstm'"),
        ({"kind": "branchformer", "attention": "RoPEMHA"}, "attention of a branchformer"),
        ({"norm": "post"}, "norm must be pre"),
        ({"convolution": 30}, "convolution must be odd, not 30"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpeechBrainCtc(29, **options)


def test_a_missing_package_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "speechbrain" else found(name, *rest)
    )
    with pytest.raises(UserError) as caught:
        SpeechBrainCtc(29)
    assert (
        str(caught.value) == "speechbrain is not installed; run pip install '.[speechbrain]' in the checkout"
    )

"""Encoders of transformers pass all checks and have the output of the original for an utterance alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.commands import succeed
from support.tiny import make_corpus, tiny_config

from asr_emapl.checks.conformance import check
from asr_emapl.errors import UserError
from asr_emapl.models.contract import ModelConfig
from asr_emapl.models.hugging_face import HuggingFaceCtc
from asr_emapl.training.trainer import train

transformers = pytest.importorskip("transformers")

TARGET = "asr_emapl.models.hugging_face:HuggingFaceCtc"
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 4, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
TYPES = ["wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech-sat", "sew"]


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("model_type", TYPES)
def test_all_checks_pass(model_type: str, norm: str) -> None:
    options = {"model_type": model_type, "feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer"}
    failed = [f for f in check(ModelConfig(TARGET, options=options | SMALL)) if not f.passed]
    assert failed == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model as it is downloaded, with an output layer for other tokens."""
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(vocab_size=32, feat_extract_norm="group", **SMALL)
    transformers.Wav2Vec2ForCTC(config).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    return tmp_path / "model"


def test_a_folder_gives_the_output_of_the_original(folder: Path) -> None:
    original = transformers.Wav2Vec2ForCTC.from_pretrained(folder).eval().wav2vec2
    model = HuggingFaceCtc(29, weights=folder, normalise=False).eval()
    waveform, lengths = torch.randn(1, 4321), torch.tensor([4321])
    with torch.no_grad():
        expected = model.output(original(waveform).last_hidden_state).log_softmax(-1)
        found, frames = model(waveform, lengths)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert frames.tolist() == [found.shape[1]]


def test_the_preprocessor_decides_on_normalisation(folder: Path) -> None:
    assert HuggingFaceCtc(29, weights=folder).normalise
    (folder / "preprocessor_config.json").unlink()
    model = HuggingFaceCtc(29, weights=folder).eval()
    assert not model.normalise
    loud = HuggingFaceCtc(29, weights=folder, normalise=True).eval()
    waveform, lengths = torch.randn(1, 4000), torch.tensor([4000])
    with torch.no_grad():
        # Group norm after the first convolution hides the volume, up to its epsilon.
        torch.testing.assert_close(
            loud(100.0 * waveform + 3.0, lengths)[0], loud(waveform, lengths)[0], atol=1e-3, rtol=1e-3
        )


def test_a_folder_trains_and_decodes(folder: Path, tmp_path: Path) -> None:
    make_corpus(tmp_path)
    config = tiny_config(
        tmp_path, "hours=0.004", "pseudo_labels.strategy=ema", "pseudo_labels.start_hours=0.002",
        f"model.weights={folder}",
    )  # fmt: skip
    config.model.target, config.model.options = TARGET, {}
    train(config)
    out = tmp_path / "hypotheses.jsonl"
    succeed("decode", "--checkpoint", tmp_path / "run", "--manifest", tmp_path / "dev.jsonl", "--out", out)
    assert len(out.read_text().splitlines()) == 4


def test_errors_name_the_folder(tmp_path: Path) -> None:
    for arguments, named in (
        ({}, "model_type"),
        ({"weights": tmp_path / "absent"}, "absent"),
        ({"weights": tmp_path}, str(tmp_path)),
        ({"model_type": "bert"}, "waveforms"),
    ):
        with pytest.raises(UserError) as caught:
            HuggingFaceCtc(29, **arguments)
        assert named in str(caught.value)
        assert "\n" not in str(caught.value)

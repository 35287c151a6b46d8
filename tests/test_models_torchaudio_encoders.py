"""torchaudio's encoders pass all checks; what is replaced in them does not change an utterance alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio.models
from support.tiny import make_corpus, tiny_config

from asr_emapl.checks.conformance import check
from asr_emapl.errors import UserError
from asr_emapl.models.contract import ModelConfig
from asr_emapl.models.torchaudio_encoders import Wav2Vec2Ctc
from asr_emapl.training.trainer import train

MODULE = "asr_emapl.models.torchaudio_encoders"
SMALL = {"dim": 16, "heads": 2, "layers": 2}


def wav2vec2(norm: str = "group_norm") -> dict[str, Any]:
    """Sizes of a tiny wav2vec 2.0 with a frame of 5 ms."""
    return {
        "factory": "wav2vec2_model",
        "extractor_mode": norm,
        "extractor_conv_layer_config": [(16, 10, 5), (16, 3, 4), (16, 3, 4)],
        "extractor_conv_bias": False,
        "encoder_embed_dim": 16,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": 16,
        "encoder_pos_conv_groups": 2,
        "encoder_num_layers": 2,
        "encoder_num_heads": 2,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": 32,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": norm == "layer_norm",
    }


MODELS = {
    "conformer": (f"{MODULE}:ConformerCtc", SMALL),
    "emformer": (f"{MODULE}:EmformerCtc", SMALL),
    "wav2vec2-base": (f"{MODULE}:Wav2Vec2Ctc", wav2vec2()),
    "wav2vec2-large": (f"{MODULE}:Wav2Vec2Ctc", wav2vec2("layer_norm") | {"normalise": True}),
}


@pytest.mark.parametrize("name", MODELS)
def test_all_checks_pass(name: str) -> None:
    target, options = MODELS[name]
    failed = [finding for finding in check(ModelConfig(target, options=options)) if not finding.passed]
    assert failed == []


@pytest.mark.parametrize("name", MODELS)
def test_each_trains(name: str, tmp_path: Path) -> None:
    make_corpus(tmp_path)
    config = tiny_config(
        tmp_path, "hours=0.004", "pseudo_labels.strategy=ema", "pseudo_labels.start_hours=0.002"
    )
    config.model.target, config.model.options = MODELS[name][0], dict(MODELS[name][1])
    assert train(config) is not None


def test_an_utterance_alone_has_the_output_of_the_original(tmp_path: Path) -> None:
    """Also with weights of a file: those of torchaudio's model, by its names."""
    torch.manual_seed(0)
    options = wav2vec2()
    original = torchaudio.models.wav2vec2_model(
        **{k: v for k, v in options.items() if k != "factory"}, encoder_layer_drop=0.0, aux_num_out=None
    ).eval()
    torch.save(original.state_dict(), tmp_path / "weights.pt")
    model = Wav2Vec2Ctc(5, weights=tmp_path / "weights.pt", **options).eval()
    waveform = torch.randn(1, 4321)
    model._lengths.value = torch.tensor([4321])
    with torch.no_grad():
        expected, _ = original(waveform)
        found, _ = model.encoder(waveform, torch.tensor([4321]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_wrong_names_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frobnicate"):
        Wav2Vec2Ctc(5, factory="frobnicate")
    torch.save({"other": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="no tensor matches"):
        Wav2Vec2Ctc(5, weights=tmp_path / "other.pt", **wav2vec2())

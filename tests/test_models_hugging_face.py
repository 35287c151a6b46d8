"""Encoders of transformers pass all checks and have the output of the original for an utterance alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.commands import succeed
from support.tiny import make_corpus, tiny_config
from torch.nn import functional as F

from asr_emapl.audio.features import FeatureConfig
from asr_emapl.checks.conformance import check
from asr_emapl.errors import UserError
from asr_emapl.models.contract import ModelConfig
from asr_emapl.models.hugging_face import HuggingFaceCtc, HuggingFaceFeatureCtc
from asr_emapl.models.hugging_face_features import ParakeetLogMel, StackedFbank
from asr_emapl.training.trainer import train

transformers = pytest.importorskip("transformers")

ON_FEATURES = "asr_emapl.models.hugging_face:HuggingFaceFeatureCtc"
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


CONFORMER = {"conv_depthwise_kernel_size": 5, "feat_extract_norm": "layer"}
FEATURES = {
    "parakeet_encoder": ("ParakeetLogMel", {"conv_kernel_size": 5, "subsampling_conv_channels": 8}),
    "wav2vec2-bert": ("StackedFbank", {"conv_depthwise_kernel_size": 5}),
}
SIZES = {
    k: SMALL[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
}


@pytest.mark.parametrize("positions", ["relative", "rotary", None])
def test_the_conformer_passes_all_checks(positions: str | None) -> None:
    options = {"model_type": "wav2vec2-conformer", "position_embeddings_type": positions}
    failed = [f for f in check(ModelConfig(TARGET, options=options | SMALL | CONFORMER)) if not f.passed]
    assert failed == []


@pytest.mark.parametrize("model_type", FEATURES)
def test_encoders_on_features_pass_all_checks(model_type: str) -> None:
    name, options = FEATURES[model_type]
    features = FeatureConfig(extractor=f"asr_emapl.models.hugging_face_features:{name}")
    config = ModelConfig(ON_FEATURES, options={"model_type": model_type} | SIZES | options)
    failed = [f for f in check(config, features) if not f.passed]
    assert failed == []


def test_features_are_those_of_transformers() -> None:
    numpy = pytest.importorskip("numpy")
    waveform = torch.randn(1, 16_123, generator=torch.Generator().manual_seed(0)) * 0.1
    lengths = torch.tensor([16_123])
    theirs = transformers.SeamlessM4TFeatureExtractor()(
        numpy.asarray(waveform[0]), sampling_rate=16_000, return_tensors="pt"
    )
    found, frames = StackedFbank()(waveform, lengths)
    whole = int(theirs["attention_mask"].sum())
    assert frames.tolist() == [whole]
    torch.testing.assert_close(found, theirs["input_features"][:, :whole].float(), atol=2e-3, rtol=1e-3)
    theirs = transformers.ParakeetFeatureExtractor()(waveform[0].numpy(), sampling_rate=16_000)
    found, frames = ParakeetLogMel()(waveform, lengths)
    whole = int(theirs["attention_mask"].sum())
    assert frames.tolist() == [whole]
    torch.testing.assert_close(found, theirs["input_features"][:, :whole], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("extractor", [StackedFbank(), ParakeetLogMel()])
def test_features_do_not_depend_on_padding(extractor: StackedFbank | ParakeetLogMel) -> None:
    for samples in (1, 399, 560, 16_123):
        alone = torch.randn(1, samples, generator=torch.Generator().manual_seed(samples))
        expected, length = extractor(alone, torch.tensor([samples]))
        pair = torch.cat([F.pad(alone, (0, 20_000 - samples)), torch.randn(1, 20_000)])
        found, lengths = extractor(pair, torch.tensor([samples, 20_000]))
        assert lengths[0] == length[0] == extractor.frames(torch.tensor([samples]))[0] == expected.shape[1]
        torch.testing.assert_close(found[0, : length[0]], expected[0], atol=1e-4, rtol=1e-4)
        assert found[0, length[0] :].eq(0.0).all()


def test_the_folder_of_a_parakeet_ctc_gives_the_output_of_its_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = SIZES | {"conv_kernel_size": 5, "subsampling_conv_channels": 8}
    original = transformers.ParakeetForCTC(
        transformers.ParakeetCTCConfig(vocab_size=32, pad_token_id=0, encoder_config=encoder)
    ).eval()
    original.save_pretrained(tmp_path / "model")
    model = HuggingFaceFeatureCtc(29, 80, weights=tmp_path / "model").eval()
    features, lengths = torch.randn(1, 100, 80), torch.tensor([100])
    with torch.no_grad():
        expected = model.output(original.encoder(features).last_hidden_state).log_softmax(-1)
        found, frames = model(features, lengths)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert frames.tolist() == [found.shape[1]]
    again = HuggingFaceFeatureCtc(29, 80, **model.options_without_weights())
    again.load_state_dict(model.state_dict())
    with pytest.raises(UserError, match=r"features\.extractor"):
        HuggingFaceFeatureCtc(29, 40, weights=tmp_path / "model")


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

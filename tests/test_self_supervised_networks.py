"""The heads of the objectives, and what they require of a model."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from support.broken_models import Sound
from torch import nn

from asr_emapl.errors import UserError
from asr_emapl.models.target import USERS_OWN, resolve
from asr_emapl.models.transformer import TransformerCtc
from asr_emapl.self_supervised.config import ByolConfig
from asr_emapl.self_supervised.networks import ByolModel, CropNorm, MaskedModel

TARGET = "package.module:Model"


def encoder(**options) -> TransformerCtc:
    torch.manual_seed(0)
    sizes = {"dim": 8, "heads": 2, "layers": 2, "dropout": 0.0, "frontend_dropout": 0.0}
    return TransformerCtc(1, 12, **sizes, max_shift_seconds=0.0, **options)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_layer_outputs_are_those_of_the_forward_pass(norm):
    model = encoder(norm=norm).eval()
    features, lengths = torch.randn(2, 30, 12), torch.tensor([30, 21])
    layers, frames = model.layer_outputs(features, lengths)
    log_probs, expected = model(features, lengths)
    assert len(layers) == 2
    assert frames.equal(expected)
    assert model.output(layers[-1]).log_softmax(-1).allclose(log_probs, atol=1e-6)


def test_every_parameter_gets_a_gradient():
    """Otherwise, distributed training would wait for it."""
    features, lengths = torch.randn(4, 30, 12), torch.tensor([30, 30, 21, 21])
    for model in (MaskedModel(encoder(), TARGET), ByolModel(encoder(), TARGET, ByolConfig(hidden=8, size=4))):
        _, prediction = model(features, lengths)
        prediction.square().sum().backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        assert missing == []


_WAVES = {"conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 4), "hidden_size": 8}
_LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
_CONVOLUTIONS = {
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
_HUGGING_FACE = {"model_type": "wav2vec2", **_WAVES, **_LAYERS, **_CONVOLUTIONS}
PACKAGED = {
    "torchaudio_encoders:ConformerCtc": (1, {"input_size": 12, "dim": 8, "heads": 2, "layers": 2}),
    "torchaudio_encoders:EmformerCtc": (1, {"input_size": 12, "dim": 8, "heads": 2, "layers": 2}),
    "speechbrain_encoders:SpeechBrainCtc": (2, {"input_size": 12, "dim": 8, "heads": 2, "layers": 2}),
    "whisper:WhisperCtc": (
        1,
        {"input_size": 12, "sizes": {"dim": 64, "mel_bands": 12, "frames": 100, "layers": 1}},
    ),
    "hugging_face:HuggingFaceCtc": (2, _HUGGING_FACE),
    "hugging_face:HuggingFaceCtc stable": (2, _HUGGING_FACE | {"do_stable_layer_norm": True}),
}


@pytest.mark.parametrize("name", PACKAGED)
def test_models_of_the_package_have_layer_outputs(name):
    """The last one is the input of the output layer, and every other parameter gets a gradient."""
    if "hugging_face" in name:
        pytest.importorskip("transformers")
    if "speechbrain" in name and importlib.util.find_spec("speechbrain") is None:  # its import changes torch
        pytest.skip("needs the extra speechbrain")
    torch.manual_seed(0)
    count, options = PACKAGED[name]
    model = resolve(f"asr_emapl.models.{name.split()[0]}", USERS_OWN)(5, **options).eval()
    x = torch.randn(2, 900) if "hugging_face" in name else torch.randn(2, 60, 12)
    lengths = torch.tensor([x.shape[1], x.shape[1] - 20])
    layers, frames = model.layer_outputs(x, lengths)
    log_probs, expected = model(x, lengths)
    assert len(layers) == count
    assert frames.equal(expected)
    assert model.output(layers[-1]).log_softmax(-1).allclose(log_probs, atol=1e-5)
    student = MaskedModel(model, name)
    student(x, lengths)[1].square().sum().backward()
    missing = [n for n, p in student.named_parameters() if p.grad is None and p.requires_grad]
    assert missing == []


def test_the_norm_is_that_of_torch_over_the_crops_of_each_view():
    ours, theirs = CropNorm(5), nn.BatchNorm1d(5)
    x = 3.0 * torch.randn(2, 7, 5) + 1.0
    assert ours(x).allclose(torch.stack([theirs(view) for view in x]), atol=1e-5)
    assert ours.eval()(x).equal(ours.train()(x))


def test_a_crop_is_embedded_the_same_with_padding():
    model = ByolModel(encoder(), TARGET, ByolConfig(hidden=8, size=4)).eval()
    features, lengths = torch.randn(6, 30, 12), torch.full((6,), 30)
    padded = nn.functional.pad(features, (0, 0, 0, 9))
    assert model(features, lengths)[1].allclose(model(padded, lengths)[1], atol=1e-5)


def test_a_model_without_layer_outputs_is_an_error():
    with pytest.raises(UserError, match=r"package\.module:Model: .* requires a method layer_outputs"):
        MaskedModel(Sound(5), TARGET)

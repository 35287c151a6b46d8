"""Weights of Whisper's encoder are the same from each layout; other files are errors that name them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_whisper import DIM, tensors, write_ctranslate2, write_hugging_face, write_openai

from asr_emapl.errors import UserError
from asr_emapl.models.whisper_weights import read_encoder


@pytest.mark.parametrize(
    ("write", "name", "tolerance"),
    [
        (write_openai, "tiny.pt", 0.0),
        (write_hugging_face, "model.safetensors", 0.0),
        (write_ctranslate2, "model.bin", 2e-3),  # float16
    ],
)
def test_each_layout_gives_the_same_tensors(write, name: str, tolerance: float, tmp_path: Path) -> None:
    found, source = read_encoder(write(tmp_path / name)), tensors()
    joined = torch.cat([source[f"encoder.blocks.1.attn.{part}.weight"] for part in ("query", "key", "value")])
    torch.testing.assert_close(found["blocks.1.attn.qkv.weight"], joined, atol=tolerance, rtol=0.0)
    assert found["blocks.0.attn.qkv.bias"][DIM : 2 * DIM].eq(0.0).all()  # Whisper's key has no bias
    for name in ("conv1.weight", "positional_embedding", "blocks.1.mlp.2.bias", "ln_post.weight"):
        torch.testing.assert_close(found[name], source[f"encoder.{name}"], atol=tolerance, rtol=0.0)
        assert found[name].dtype == torch.float32
    assert not any("decoder" in name for name in found)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_encoder(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.safetensors"])
def test_other_files_are_errors(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert "cannot be read" in refusal(path)
    for content in (b"", b"not a model", bytes(1000)):
        path.write_bytes(content)
        refusal(path)


def test_every_truncation_of_a_model_bin_is_an_error(tmp_path: Path) -> None:
    content = write_ctranslate2(tmp_path / "model.bin").read_bytes()
    for size in (3, 10, 100, len(content) // 2, len(content) - 1):
        path = tmp_path / "short.bin"
        path.write_bytes(content[:size])
        assert "truncated" in refusal(path)


def test_quantised_weights_are_an_error(tmp_path: Path) -> None:
    # The bytes are those of float16, so that the file is well-formed.
    assert "quantised" in refusal(write_ctranslate2(tmp_path / "model.bin", kind=1))
    assert "version 5" in refusal(write_ctranslate2(tmp_path / "old.bin", version=5))


def test_a_model_without_an_encoder_is_an_error(tmp_path: Path) -> None:
    torch.save({"model_state_dict": {"decoder.ln.weight": torch.ones(3)}}, tmp_path / "a.pt")
    assert "no tensor of an encoder" in refusal(tmp_path / "a.pt")

"""A Whisper encoder with random weights, written in each layout that is read."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DIM, BANDS, LAYERS, POSITIONS = 64, 80, 2, 1500


def tensors() -> dict[str, Tensor]:
    """OpenAI's names, with "encoder." and one tensor of a decoder."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    found = {
        "positional_embedding": draw(POSITIONS, DIM),
        "conv1.weight": draw(DIM, BANDS, 3),
        "conv1.bias": draw(DIM),
        "conv2.weight": draw(DIM, DIM, 3),
        "conv2.bias": draw(DIM),
        "ln_post.weight": 1.0 + draw(DIM),
        "ln_post.bias": draw(DIM),
    }
    for i in range(LAYERS):
        for part in ("query", "key", "value", "out"):
            found[f"blocks.{i}.attn.{part}.weight"] = draw(DIM, DIM)
            if part != "key":
                found[f"blocks.{i}.attn.{part}.bias"] = draw(DIM)
        for norm in ("attn_ln", "mlp_ln"):
            found |= {f"blocks.{i}.{norm}.weight": 1.0 + draw(DIM), f"blocks.{i}.{norm}.bias": draw(DIM)}
        found |= {f"blocks.{i}.mlp.0.weight": draw(4 * DIM, DIM), f"blocks.{i}.mlp.0.bias": draw(4 * DIM)}
        found |= {f"blocks.{i}.mlp.2.weight": draw(DIM, 4 * DIM), f"blocks.{i}.mlp.2.bias": draw(DIM)}
    return {f"encoder.{name}": tensor for name, tensor in found.items()} | {"decoder.ln.weight": draw(DIM)}


def write_openai(path: Path) -> Path:
    """OpenAI's .pt file."""
    torch.save({"dims": {"n_audio_state": DIM}, "model_state_dict": tensors()}, path)
    return path


def write_hugging_face(path: Path) -> Path:
    """Hugging Face's model.safetensors."""
    from safetensors.torch import save_file

    names = {
        "encoder.blocks.": "model.encoder.layers.",
        "encoder.positional_embedding": "model.encoder.embed_positions.weight",
        "encoder.ln_post": "model.encoder.layer_norm",
        "encoder.conv": "model.encoder.conv",
        "attn_ln": "self_attn_layer_norm",
        "mlp_ln": "final_layer_norm",
        "attn.query": "self_attn.q_proj",
        "attn.key": "self_attn.k_proj",
        "attn.value": "self_attn.v_proj",
        "attn.out": "self_attn.out_proj",
        "mlp.0": "fc1",
        "mlp.2": "fc2",
    }
    save_file(_renamed(tensors(), names), path)
    return path


def write_ctranslate2(path: Path, kind: int = 4, version: int = 6) -> Path:
    """CTranslate2's model.bin, in float16 (kind 4) or with another number of its data types."""
    source = tensors()
    for i in range(LAYERS):
        block = f"encoder.blocks.{i}.attn"
        weights = [source.pop(f"{block}.{part}.weight") for part in ("query", "key", "value")]
        query, value = source.pop(f"{block}.query.bias"), source.pop(f"{block}.value.bias")
        source[f"{block}.qkv.weight"] = torch.cat(weights)
        source[f"{block}.qkv.bias"] = torch.cat([query, torch.zeros(DIM), value])
    names = {
        "encoder.positional_embedding": "encoder.position_encodings.encodings",
        "encoder.blocks.": "encoder.layer_",
        "encoder.ln_post": "encoder.layer_norm",
        "attn_ln": "self_attention.layer_norm",
        "mlp_ln": "ffn.layer_norm",
        "attn.qkv": "self_attention.linear_0",
        "attn.out": "self_attention.linear_1",
        "mlp.0": "ffn.linear_0",
        "mlp.2": "ffn.linear_1",
        ".": "/",
    }
    found = _renamed(source, names)
    for name in [name for name in found if "layer_norm" in name]:
        other = name.replace("weight", "gamma").replace("bias", "beta")
        found[other] = found.pop(name)
    found["encoder/num_heads"] = torch.tensor(1, dtype=torch.int16)
    content = struct.pack("<I", version) + _text("WhisperSpec") + struct.pack("<I", 3)
    content += struct.pack("<I", len(found))
    for name, tensor in found.items():
        array = tensor.numpy() if name.endswith("num_heads") else tensor.numpy().astype(np.float16)
        number = 2 if name.endswith("num_heads") else kind
        content += _text(name) + struct.pack("<B", array.ndim)
        content += b"".join(struct.pack("<I", size) for size in array.shape)
        content += struct.pack("<BI", number, array.nbytes) + array.tobytes()
    content += struct.pack("<I", 1) + _text("decoder/alias") + _text("encoder/conv1/bias")
    path.write_bytes(content)
    return path


def _renamed(source: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in source.items():
        for old, new in names.items():
            name = name.replace(old, new)
        found[name] = tensor.contiguous()
    return found


def _text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

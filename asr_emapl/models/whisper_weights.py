"""Read the encoder's weights of a Whisper model in one of three layouts, under OpenAI's names.

- OpenAI's .pt file: {"dims": ..., "model_state_dict": ...};
- Hugging Face's model.safetensors (`WhisperForConditionalGeneration` or `WhisperModel`);
- CTranslate2's model.bin, as used by faster-whisper: a table of named tensors.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from asr_emapl.errors import UserError
from asr_emapl.models.weights import COPY_THERE, read_tensors

# CTranslate2's numbers of data types (include/ctranslate2/types.h).
_CTRANSLATE2_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}

_FROM_HUGGING_FACE = {
    r"^(model\.)?encoder\.": "",
    r"^layers\.": "blocks.",
    r"^embed_positions\.weight$": "positional_embedding",
    r"^layer_norm\.": "ln_post.",
    r"self_attn_layer_norm\.": "attn_ln.",
    r"final_layer_norm\.": "mlp_ln.",
    r"self_attn\.q_proj\.": "attn.query.",
    r"self_attn\.k_proj\.": "attn.key.",
    r"self_attn\.v_proj\.": "attn.value.",
    r"self_attn\.out_proj\.": "attn.out.",
    r"\.fc1\.": ".mlp.0.",
    r"\.fc2\.": ".mlp.2.",
}
_FROM_CTRANSLATE2 = {
    r"^encoder/": "",
    r"/": ".",
    r"^layer_(\d+)\.": r"blocks.\1.",
    r"^position_encodings\.encodings$": "positional_embedding",
    r"^layer_norm\.": "ln_post.",
    r"self_attention\.layer_norm\.": "attn_ln.",
    r"self_attention\.linear_0\.": "attn.qkv.",
    r"self_attention\.linear_1\.": "attn.out.",
    r"ffn\.layer_norm\.": "mlp_ln.",
    r"ffn\.linear_0\.": "mlp.0.",
    r"ffn\.linear_1\.": "mlp.2.",
    r"gamma$": "weight",
    r"beta$": "bias",
}


def read_encoder(path: str | Path) -> dict[str, Tensor]:
    """The float32 tensors of the encoder, by OpenAI's names without "encoder.": blocks.0.attn.out.weight.

    Query, key and value projections are joined as blocks.N.attn.qkv; the key has no bias, so that its part is
    zero.

    Raises:
        UserError: the file is missing or damaged, is none of the three layouts, or has quantised weights.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        tensors = _renamed(read_tensors(path), _FROM_HUGGING_FACE, r"^(model\.)?encoder\.")
    elif path.suffix == ".bin":
        tensors = _renamed(_read_ctranslate2(path), _FROM_CTRANSLATE2, r"^encoder/")
    else:
        part = "model_state_dict"
        tensors = _renamed(read_tensors(path, part), {r"^encoder\.": ""}, r"^encoder\.")
    if not tensors:
        raise UserError(f"weights {path}: no tensor of an encoder")
    return _with_joined_projections(tensors)


def _read_ctranslate2(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            return _read_table(file)
    except OSError as error:
        raise UserError(f"weights {path}: cannot be read ({error.strerror}); {COPY_THERE}") from error
    except (ValueError, KeyError) as error:
        raise UserError(f"weights {path}: not a model.bin of CTranslate2 ({error})") from error


def _read_table(file: BinaryIO) -> dict[str, Tensor]:
    """All tensors of a model.bin of version 6 or later; aliases are included."""

    def number(kind: str) -> int:
        return int(struct.unpack(f"<{kind}", _exactly(file, struct.calcsize(kind)))[0])

    def text() -> str:
        return _exactly(file, number("H")).rstrip(b"\0").decode("ascii")

    version = number("I")
    if not 6 <= version <= 100:
        raise ValueError(f"version {version} of CTranslate2's format")
    text(), number("I")  # name and revision of the specification
    tensors: dict[str, Tensor] = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind, size = _CTRANSLATE2_TYPES.get(number("B")), number("I")
        content = _exactly(file, size)
        if kind is None or (name.startswith("encoder/") and kind in (np.int8, np.int16) and shape):
            raise ValueError(f"{name} is quantised; convert the model to float16 or float32")
        tensors[name] = torch.from_numpy(np.frombuffer(content, kind).reshape(shape).copy())
    for _ in range(number("I")):
        alias, name = text(), text()
        tensors[alias] = tensors[name]
    return tensors


def _exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise ValueError("the file is truncated")
    return content


def _renamed(tensors: dict[str, Tensor], names: dict[str, str], encoder: str) -> dict[str, Tensor]:
    """The tensors of the encoder, float32, with renamed keys."""
    found = {}
    for old, tensor in tensors.items():
        if not re.search(encoder, old) or not tensor.is_floating_point():
            continue
        name = old
        for pattern, replacement in names.items():
            name = re.sub(pattern, replacement, name)
        found[name] = tensor.float()
    return found


def _with_joined_projections(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    joined = dict(tensors)
    for name in tensors:
        block, is_query, _ = name.partition(".attn.query.weight")
        if not is_query:
            continue
        weights = [joined.pop(f"{block}.attn.{part}.weight") for part in ("query", "key", "value")]
        query, value = (joined.pop(f"{block}.attn.{part}.bias") for part in ("query", "value"))
        joined[f"{block}.attn.qkv.weight"] = torch.cat(weights)
        joined[f"{block}.attn.qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    return joined

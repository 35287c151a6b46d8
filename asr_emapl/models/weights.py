"""Load weights of another model where names and shapes match, and report what did not."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from asr_emapl.errors import UserError, listing

logger = logging.getLogger(__name__)

_SHOWN_NAMES = 5
# Beginning of the names of the CTC model's tensors in the checkpoint of a self-supervised run.
_ENCODER = "encoder."
COPY_THERE = "correct the path, or copy the file there (an exported model does not need it)"


@dataclass(frozen=True)
class Matching:
    """Names of tensors, each in the order of the model or the file.

    Attributes:
        matched: loaded.
        missing: of the model, not in the file: they keep their values.
        unexpected: of the file, not in the model.
        misshaped: in both, with different shapes: not loaded.
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors loaded"]
        for what in ("missing", "unexpected", "misshaped"):
            names: list[str] = getattr(self, what)
            if names:
                parts.append(f"{len(names)} {what} ({listing(names, _SHOWN_NAMES)})")
        return ", ".join(parts)


def load_matching(
    model: nn.Module, path: str | Path, rename: Mapping[str, str] | None = None, part: str | None = None
) -> Matching:
    """Load a file of tensors into a model; logs what matched.

    Args:
        path: .safetensors, or a file of torch with a state_dict, or a checkpoint of this toolkit. No code in
            it is run.
        rename: regular expression -> replacement, applied to the names in the file, in order.
        part: entry of the file that has the state_dict, with dots: "model", "teacher.module"; None: the file
            itself, or of a checkpoint the teacher. Of a self-supervised run, only the encoder is loaded.

    Raises:
        UserError: the file cannot be read, has no such part, or no tensor matches.
    """
    tensors = _renamed(read_tensors(path, part), rename or {})
    own = model.state_dict()
    shared = [name for name in own if name in tensors]
    matched = [name for name in shared if tensors[name].shape == own[name].shape]
    found = Matching(
        matched,
        [name for name in own if name not in tensors],
        [name for name in tensors if name not in own],
        [name for name in shared if tensors[name].shape != own[name].shape],
    )
    if not matched:
        raise UserError(f"weights {path}: no tensor matches the model's; {found}; use rename")
    model.load_state_dict({name: tensors[name] for name in matched}, strict=False)
    logger.info("weights %s: %s", path, found)
    return found


def read_tensors(path: str | Path, part: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file by name; see `load_matching`.

    Raises:
        UserError: the file cannot be read, or has no such part.
    """
    try:
        if str(path).endswith(".safetensors"):
            content: object = _read_safetensors(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(
            f"weights {path}: cannot be read ({error.strerror or error}); {COPY_THERE}"
        ) from error
    except UserError:
        raise
    # torch's unpickler raises any exception for a file of another kind.
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"weights {path}: neither safetensors nor a state_dict of torch ({why})") from error
    if part is None and isinstance(content, Mapping) and isinstance(content.get("teacher"), Mapping):
        part = "teacher.module"
    found = content
    for name in part.split(".") if part else ():
        found = found.get(name) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        raise UserError(f"weights {path}: has no part {part!r}")
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if _is_self_supervised(content):
        tensors = {n.removeprefix(_ENCODER): t for n, t in tensors.items() if n.startswith(_ENCODER)}
    if not tensors:
        raise UserError(f"weights {path}: has no tensors{f' in part {part!r}' if part else ''}")
    return tensors


def _is_self_supervised(content: object) -> bool:
    """Whether the content of a file is the checkpoint of a self-supervised run."""
    for name in ("config", "self_supervised", "objective"):
        content = content.get(name) if isinstance(content, Mapping) else None
    return content not in (None, "none")


def _read_safetensors(path: str | Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(f"weights {path}: pip install safetensors to read them") from error
    return load_file(path)


def _renamed(tensors: Mapping[str, Tensor], rename: Mapping[str, str]) -> dict[str, Tensor]:
    found = {}
    for old, tensor in tensors.items():
        name = old
        for pattern, replacement in rename.items():
            name = re.sub(pattern, replacement, name)
        found[name] = tensor
    return found

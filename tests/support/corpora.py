"""Helpers for tests of corpora: audio of noise, tables, written manifests, reported errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from data_prep import folder
from data_prep.candidates import Prepared


def noise(path: Path, seconds: float = 0.2, rate: int = 16000, channels: int = 1) -> Path:
    """Write an audio file of noise in the format of its extension; folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(0).standard_normal((round(seconds * rate), channels))
    soundfile.write(path, samples, rate)
    return path


def cut(path: Path) -> Path:
    """Truncate a file to its first half, without changing its header."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def read(prepared: Prepared) -> list[Utterance]:
    """Read the only manifest that was written."""
    (path,) = prepared.manifests.values()
    return read_manifest(path)


def faults(source: Path, out: Path, **options: Any) -> list[str]:
    """The errors reported for an invalid folder of audio; nothing may be written."""
    with pytest.raises(UserError) as error:
        folder.prepare(source, out, **options)
    assert not out.exists(), "something was written"
    return str(error.value).split("\n")


def rows(path: Path, *lines: str) -> Path:
    """Write a text file with these lines."""
    path.write_text("".join(f"{line}\n" for line in lines))
    return path

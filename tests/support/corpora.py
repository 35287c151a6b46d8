"""What the tests of corpora share: audio of noise, tables, what was written, what was reported."""

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
    """An audio file, its format by its ending; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(0).standard_normal((round(seconds * rate), channels))
    soundfile.write(path, samples, rate)
    return path


def cut(path: Path) -> Path:
    """Leave the first half of a file, under the header of the whole."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def read(prepared: Prepared) -> list[Utterance]:
    """The utterances of the one manifest written."""
    (path,) = prepared.manifests.values()
    return read_manifest(path)


def faults(source: Path, out: Path, **options: Any) -> list[str]:
    """The report on a bad folder of audio, for which nothing may have been written."""
    with pytest.raises(UserError) as error:
        folder.prepare(source, out, **options)
    assert not out.exists(), "something was written"
    return str(error.value).split("\n")


def rows(path: Path, *lines: str) -> Path:
    """A text file of these lines."""
    path.write_text("".join(f"{line}\n" for line in lines))
    return path

"""LibriSpeech's own n-gram language models (openslr.org/11, Panayotov et al. 2015): words, ARPA, gzip.

Their vocabulary is the 200,000 most frequent words of the corpus's books, in capitals as its transcripts are.
"""

from __future__ import annotations

from pathlib import Path

from asr_emapl.errors import UserError
from data_prep.transfer import fetch

_URL = "https://www.openslr.org/resources/11"
# SHA-256. The 3-gram's and the 4-gram's as in rwth-i6/i6_experiments (common/datasets/librispeech), the
# pruned one's as in an experiment built on it.
CHECKSUMS = {
    "3-gram.pruned.1e-7": "71dd880667cb6ea3942bb1982988c91fb1208839a21911eeec7e31c857c4bdfb",
    "3-gram": "263649573475c2991d3e755eb4e690c9d2656f2b3283a1eb589e1e4e174bf874",
    "4-gram": "f2b2d1507637ddf459d3579159f7e8099ed7d77452ff1059aeeeaea33d274613",
}
"""Of each language model that can be downloaded."""


def download(destination: Path, name: str) -> Path:
    """Have the language model at destination/<name>.arpa.gz, verified; a broken transfer resumes.

    Raises:
        UserError: no language model of that name; a failed transfer; the file cannot be written.
    """
    if name not in CHECKSUMS:
        raise UserError(f"--name {name!r}: LibriSpeech's language models are {', '.join(CHECKSUMS)}")
    path = destination / f"{name}.arpa.gz"
    try:
        destination.mkdir(parents=True, exist_ok=True)
        fetch(f"{_URL}/{path.name}", path, CHECKSUMS[name])
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror or error} (check permissions and free space)"
        ) from error
    return path

"""Derive ids for utterances without one from their audio, independent of the order of the lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath


def derived_ids(stretches: Sequence[tuple[str, float]]) -> list[str]:
    """Derive an id for each utterance from the path (or URL) of its audio and its offset in seconds.

    The id is the file name without its extension. If two files have the same name, ids are paths relative to
    the common folder. If utterances share a file, or start inside it, the offset in milliseconds is appended:
    "talk-12500". Ids do not depend on the order of the utterances. They are equal only if file and offset in
    milliseconds are equal.
    """
    paths = sorted({path for path, _ in stretches})
    shared = Counter(path for path, _ in stretches)
    names = {path: _without_ending(path.rpartition("/")[2]) for path in paths}
    if len(set(names.values())) < len(paths):
        folders = [path.split("/")[:-1] for path in paths]
        common = len(_common_beginning(folders))
        names = {path: "/".join(path.split("/")[common:]) for path in paths}
        bare = {path: _without_ending(name) for path, name in names.items()}
        # a.wav and a.flac: the ids need the file extensions.
        names = bare if len(set(bare.values())) == len(paths) else names
    return [
        f"{names[path]}-{round(1000 * offset)}" if offset > 0.0 or shared[path] > 1 else names[path]
        for path, offset in stretches
    ]


def _without_ending(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).suffix else name


def _common_beginning(folders: Sequence[list[str]]) -> list[str]:
    # The common prefix of the smallest and the largest sequence is common to all.
    first, last = min(folders), max(folders)
    count = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return list(first[: min(len(first), len(last)) if count is None else count])

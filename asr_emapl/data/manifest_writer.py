"""Write manifests that `asr_emapl.data.manifest` reads back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from asr_emapl import storage
from asr_emapl.data.utterance import Utterance, faults
from asr_emapl.errors import UserError, list_findings
from asr_emapl.storage import check_outputs, writing
from asr_emapl.storage.atomic import sync

_Place = TypeVar("_Place", str, Path, str | Path)


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest for `read_manifest`, replacing an existing file atomically.

    Audio paths are written as absolute paths, except for shards in the manifest's folder, so that the folder
    can be moved. Missing folders are created.

    Raises:
        UserError: there are no utterances, or `read_manifest` would reject some; `path` is an audio file of
            the manifest; or it cannot be written. An existing manifest is then unchanged.
    """
    write_manifests({path: list(utterances)})


def write_manifests(manifests: Mapping[_Place, Sequence[Utterance]]) -> None:
    """Write several manifests, all or none: files appear only after all contents are on disk.

    A file that already has the same content is not modified.

    Raises:
        UserError: see `write_manifest`.
    """
    contents = {path: _serialise(path, utterances) for path, utterances in manifests.items()}
    check_outputs(list(contents), {u.audio for utterances in manifests.values() for u in utterances})
    with ExitStack() as stack:
        for path, content in contents.items():
            if _has_content(path, content):
                continue  # keep the modification time, so that files made from it stay current
            stack.enter_context(writing(path))
            file = stack.enter_context(storage.publish(str(path)))
            file.write(content)
            sync(file)


def _serialise(path: str | Path, utterances: Sequence[Utterance]) -> bytes:
    """The content of a manifest; UserError lists the invalid utterances."""
    if not utterances:
        raise UserError(f"{path}: there are no utterances to write (check the corpus and its filters)")
    folder = storage.split(path)[0]
    lines: list[str] = []
    findings: list[str] = []
    ids: set[str] = set()
    for utterance in utterances:
        record: dict[str, object] = asdict(utterance)
        found = list(faults(record))
        if utterance.id in ids:
            found.append("id is not unique (make ids unique)")
        ids.add(utterance.id)
        findings.extend(f"{path}: utterance {utterance.id!r}: {fault}" for fault in found)
        if not found:
            lines.append(json.dumps(as_record(utterance, folder), ensure_ascii=False, allow_nan=False))
    if findings:
        raise UserError(list_findings(findings))
    return ("\n".join(lines) + "\n").encode("utf-8")


def as_record(utterance: Utterance, folder: str = "") -> dict[str, object]:
    """The fields of an utterance's line, without those that have their defaults.

    Args:
        folder: the manifest's; a shard in it is written by its name, and all other audio by absolute paths.
    """
    record: dict[str, object] = asdict(utterance)
    record["audio"] = _audio_as_written(utterance, folder)
    return {
        name: value for name, value in record.items() if value is not None and (name, value) != ("offset", 0)
    }


def _audio_as_written(utterance: Utterance, folder: str) -> str:
    """The audio path to write, see `write_manifest`; `folder` is the manifest's."""
    of_audio, name = storage.split(utterance.audio)
    if utterance.byte_range is not None and of_audio == folder:
        return name
    return storage.join(of_audio, name)


def _has_content(path: str | Path, content: bytes) -> bool:
    local = Path(path)
    try:
        is_same_size = not storage.is_url(path) and local.is_file() and local.stat().st_size == len(content)
        return is_same_size and local.read_bytes() == content
    except (OSError, ValueError):
        return False

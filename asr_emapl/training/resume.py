"""What differs between a checkpoint and the run that resumes from it: listed, and partly refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from asr_emapl.checkpoints.files import State, read_tokenizer, require_resumable
from asr_emapl.config import RunConfig, config_from_dict, config_to_dict, write_config
from asr_emapl.data.manifest import Utterance
from asr_emapl.data.mixture import DataCursor, MixtureCursor
from asr_emapl.errors import UserError
from asr_emapl.text.tokenizer import Tokenizer

# Utterances that are hashed at a time.
_CHUNK = 65_536
# A change of these makes another run of it; of the first, even where only the weights are taken.
_REFUSED_WITH_WEIGHTS = ("features",)
_REFUSED = (*_REFUSED_WITH_WEIGHTS, "seed", "batch.reference_seconds")
_REMEDY = "restore what has changed, use another run_dir, or accept the changes with --allow-changes"

# Content hashes of a run's corpora, by kind: "labelled", "unlabelled".
Contents = dict[str, list[str]]


def require_settings(
    state: State, path: Path, config: RunConfig, tokenizer: Tokenizer, *, whole: bool, allowed: bool
) -> list[str]:
    """Compare a run's settings with those in a checkpoint.

    Args:
        whole: the run goes on where the checkpoint's stopped; else only its weights are taken.
        allowed: refuse nothing.

    Returns:
        A line for each setting that differs; none if only the weights are taken.

    Raises:
        UserError: features or tokenizer differ; or, where the run goes on, the seed, the reference batch, or
            the optimizer, whose state does not fit another one; or the checkpoint lacks what a resume needs.
    """
    if whole:
        require_resumable(path, state)
        _require_optimizer(state["config"]["optimizer"]["name"], config.optimizer.name, path)
    changes = dict(_changes(state["config"], config_to_dict(config)))
    parts = _REFUSED if whole else _REFUSED_WITH_WEIGHTS
    refused = [text for key, text in changes.items() if _is_within(key, parts)]
    theirs = read_tokenizer(path, state)
    if theirs.fingerprint != tokenizer.fingerprint:
        refused.append(f"another tokenizer: {theirs!r} -> {tokenizer!r} ({config.tokenizer})")
    if refused and not allowed:
        raise UserError(f"changed since checkpoint {path}: {'; '.join(refused)}: {_REMEDY}")
    shown = list(changes.values()) if whole else refused
    return [f"changed since checkpoint {path}: {text}" for text in shown]


def _require_optimizer(theirs: str, mine: str, path: Path) -> None:
    if theirs != mine:
        raise UserError(
            f"checkpoint {path} was trained with optimizer.name={theirs}, not {mine}: keep it, or start "
            "from the weights alone (init.keep=weights, in another run_dir)"
        )


def contents(manifests: Sequence[Sequence[Utterance]], *, apart: bool) -> list[str]:
    """A hash of ids and lengths, in their order, for each corpus: each manifest one if `apart`, else all one.

    Where the audio lies, and what else a manifest says, plays no part.
    """
    return [_content([m]) for m in manifests] if apart else [_content(manifests)]


def _content(manifests: Sequence[Sequence[Utterance]]) -> str:
    """Of one corpus; the same however it is divided into manifests."""
    ids, lengths = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    for utterances in manifests:
        for start in range(0, len(utterances), _CHUNK):
            chunk = utterances[start : start + _CHUNK]
            # No id has a NUL in it.
            ids.update("".join(f"{u.id}\0" for u in chunk).encode())
            lengths.update(np.array([u.samples for u in chunk], dtype="<i8").tobytes())
    return ids.hexdigest() + lengths.hexdigest()


def require_contents(
    before: Contents, now: Contents, position: DataCursor, *, allowed: bool
) -> tuple[DataCursor, Contents, list[str]]:
    """Compare a run's corpora with those that a position in the data belongs to.

    Corpora are compared by their place; those at the end of a list may come and go.

    Args:
        before: of the checkpoint; a kind that it does not know is not compared.
        allowed: refuse nothing.

    Returns:
        The position; a corpus that has changed starts a new pass. What the next checkpoint holds: a kind
        that is not used now keeps its place and its hashes. And a line for each kind that has changed.

    Raises:
        UserError: a corpus has changed.
    """
    notes = []
    for kind in sorted(before.keys() & now.keys()):
        pairs = zip(before[kind], now[kind], strict=False)
        changed = [number for number, (old, new) in enumerate(pairs) if old != new]
        if not changed:
            continue
        if not allowed:
            raise UserError(
                f"data.{kind}: the utterances are not those that the checkpoint's place in the data belongs "
                f"to (ids, durations or their order differ): {_REMEDY}"
            )
        blend = position.labelled if kind == "labelled" else position.unlabelled
        moved = _new_passes(blend, changed)
        is_labelled = kind == "labelled"
        position = replace(position, labelled=moved) if is_labelled else replace(position, unlabelled=moved)
        notes.append(f"data.{kind}: other utterances than in the checkpoint: a new pass starts")
    return position, before | now, notes


def write_configs(folder: Path, state: State, config: RunConfig) -> None:
    """Write config.yaml, and beside it the config that held until a checkpoint, if it differs.

    Args:
        state: "config" and "step" of the checkpoint, empty if there is none; the step is in the file's name.

    Raises:
        UserError: the config is not valid.
    """
    if state:
        step = state["step"]
        earlier = config_from_dict(state["config"], f"the config in the checkpoint of step {step}")
        if earlier != config:
            write_config(folder / f"config.step-{step:09d}.yaml", earlier)
    write_config(folder / "config.yaml", config)


def _changes(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Key and "key: old -> new" of each setting that differs; "absent" where there is none."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            inner = f"{key}.{name}" if key else str(name)
            yield from _changes(old.get(name, _ABSENT), new.get(name, _ABSENT), inner)
    elif old != new:
        yield key, f"{key}: {_text(old)} -> {_text(new)}"


_ABSENT = object()


def _text(value: Any) -> str:
    return "absent" if value is _ABSENT else json.dumps(value, default=repr)


def _is_within(key: str, parts: Sequence[str]) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def _new_passes(blend: MixtureCursor, corpora: Sequence[int]) -> MixtureCursor:
    """The first batch of the next pass over these corpora, the present place in the others."""
    return replace(
        blend,
        corpora=tuple(p.next_pass() if number in corpora else p for number, p in enumerate(blend.corpora)),
    )

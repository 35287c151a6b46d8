"""Compare a checkpoint with the run that resumes from it: report differences, and reject some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from asr_emapl.checkpoints.files import State, read_tokenizer, require_resumable
from asr_emapl.config import RunConfig, config_from_dict, config_to_dict, write_config
from asr_emapl.data.manifest import Manifest, column_digest
from asr_emapl.data.mixture import DataCursor
from asr_emapl.errors import UserError
from asr_emapl.runs.reader import CONFIG
from asr_emapl.settings import setting_changes, with_defaults
from asr_emapl.text.tokenizer import Tokenizer

# Rejected changes; the first also if only the weights are loaded.
_REFUSED_WITH_WEIGHTS = ("features",)
_REFUSED = (
    *_REFUSED_WITH_WEIGHTS,
    "seed",
    "batch.reference_seconds",
    # They define the windows, in which the position in the data is counted.
    "self_supervised.byol.crop_seconds",
    "self_supervised.byol.shift_seconds",
)
_REMEDY = "undo the changes, use another run_dir, or accept them with --allow-changes"

Contents = dict[str, list[str]]
"""Hashes of a run's corpora by kind: "labelled", "unlabelled"."""


def require_settings(
    state: State,
    path: Path,
    config: RunConfig,
    tokenizer: Tokenizer | None,
    *,
    whole: bool,
    same_run: bool,
    allowed: bool,
) -> list[str]:
    """Compare a run's settings with those in a checkpoint.

    Args:
        tokenizer: of the run; None if it is self-supervised.
        whole: the run continues from the state of the checkpoint; otherwise it loads only the weights.
        same_run: the checkpoint is one of the run itself.
        allowed: accept all changes of settings.

    Returns:
        One line per setting that differs; for a checkpoint of another run, per accepted change.

    Raises:
        UserError: features or tokenizer differ; or, in a run that resumes, the seed, the reference batch or
            the optimizer differ, or the checkpoint lacks an entry required for a resume.
    """
    if whole:
        require_resumable(path, state)
        theirs, mine = state["config"]["optimizer"]["name"], config.optimizer.name
        if theirs != mine:
            raise UserError(
                f"checkpoint {path} was trained with optimizer.name={theirs}, not {mine}; use {theirs}, or "
                "start another run from the weights (init.checkpoint, init.keep=weights)"
            )
    _require_objective(state, path, config)
    now = config_to_dict(config)
    changes = dict(setting_changes(state["config"], now))
    # A setting that is newer than the checkpoint is no change if it has its default value.
    defaults = with_defaults(state["config"], config_to_dict(RunConfig()))
    keys = _REFUSED if whole else _REFUSED_WITH_WEIGHTS
    refused = [
        text
        for key, text in setting_changes(defaults, now)
        if any(f"{key}.".startswith(f"{k}.") for k in keys)
    ]
    if tokenizer is not None:
        saved = read_tokenizer(path, state)
        if saved.fingerprint != tokenizer.fingerprint:
            refused.append(f"another tokenizer: {saved} -> {tokenizer} ({config.tokenizer})")
    if refused and not allowed:
        raise UserError(f"changed since checkpoint {path}: {'; '.join(refused)}; {_REMEDY}")
    return [
        f"changed since checkpoint {path}: {text}" for text in (changes.values() if same_run else refused)
    ]


def _require_objective(state: State, path: Path, config: RunConfig) -> None:
    """Check that a checkpoint is of a run with the same self-supervised objective, or also with none.

    Raises:
        UserError: it is not.
    """
    theirs = state["config"].get("self_supervised", {}).get("objective", "none")
    mine = config.self_supervised.objective
    if theirs != mine:
        raise UserError(
            f"checkpoint {path} was trained with self_supervised.objective={theirs}, not {mine}; to start "
            f"from its encoder, use another run_dir, init.weights={path} and init.checkpoint=null"
        )


def contents(manifests: Sequence[Manifest], *, apart: bool) -> list[str]:
    """Hashes of ids and lengths in their order: one per manifest if `apart`, otherwise one in total.

    Audio paths, texts and speakers are not hashed. The hash of several manifests does not depend on how the
    utterances are divided among them.
    """
    return [_content([m]) for m in manifests] if apart else [_content(manifests)]


def _content(manifests: Sequence[Manifest]) -> str:
    columns = ("id_hashes", "samples")
    return "".join(column_digest(getattr(m, name) for m in manifests) for name in columns)


def require_contents(
    before: Contents, now: Contents, position: DataCursor, *, allowed: bool
) -> tuple[DataCursor, Contents, list[str]]:
    """Compare a run's corpora with those of the checkpoint's data cursor.

    Corpora are compared by index; corpora can be added or removed at the end of a list.

    Args:
        before: contents in the checkpoint.
        allowed: accept all changes.

    Returns:
        The cursor, in which a changed corpus starts a new pass; the contents for the next checkpoint,
        including those of unused kinds; and one line per kind that has changed.

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
                f"data.{kind}: the utterances differ from those of the checkpoint (ids, durations or "
                f"order); {_REMEDY}"
            )
        mixture = getattr(position, kind)
        corpora = (c.next_pass() if i in changed else c for i, c in enumerate(mixture.corpora))
        position = replace(position, **{kind: replace(mixture, corpora=tuple(corpora))})
        if kind == "unlabelled":
            position = replace(position, labels=position.labels.without_labels())
        notes.append(f"data.{kind}: the utterances differ from those of the checkpoint; a new pass starts")
    return position, before | now, notes


def write_configs(folder: Path, state: State, config: RunConfig) -> None:
    """Write config.yaml and, if it differs, the config of the checkpoint beside it.

    Args:
        state: "config" and "step" of the checkpoint, or empty. The step is part of the file's name.

    Raises:
        UserError: the config is not valid.
    """
    if state:
        step = state["step"]
        earlier = config_from_dict(state["config"], f"the config in the checkpoint of step {step}")
        if earlier != config:
            write_config(folder / f"config.step-{step:09d}.yaml", earlier)
    write_config(folder / CONFIG, config)

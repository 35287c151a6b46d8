"""Select the training utterances of a run and the order of its steps, without reading text or audio."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.augment import draw_seed
from asr_emapl.checkpoints.resume import Contents, contents
from asr_emapl.config import RunConfig
from asr_emapl.data.corpus import Selection, Windows
from asr_emapl.data.label_plan import CachePlan, LabelPlan, RoundsPlan
from asr_emapl.data.loader import DataConfig
from asr_emapl.data.manifest import Manifest, open_manifest
from asr_emapl.data.mixture import DataPlan, Mixture
from asr_emapl.data.permutation import Indices
from asr_emapl.data.step_audio import mean_step_audio
from asr_emapl.errors import UserError
from asr_emapl.planning import build_batches
from asr_emapl.scaling import StepAudio
from asr_emapl.storage import is_url

KINDS = ("labelled", "unlabelled")


@dataclass(frozen=True)
class MixtureSpec:
    """The corpora of one kind: number of utterances and weight in audio of each."""

    sizes: list[int]
    weights: list[float]


@dataclass
class TrainingAudio:
    """The utterances within the limits, by kind ("labelled", "unlabelled").

    Attributes:
        hours: audio of all manifests, before the limits.
        contents: hashes of each corpus before the limits; see `checkpoints.resume`.
        notes: messages on excluded utterances.
    """

    utterances: dict[str, Selection] = field(default_factory=dict)
    mixtures: dict[str, MixtureSpec] = field(default_factory=dict)
    hours: float = 0.0
    contents: Contents = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @staticmethod
    def select(config: RunConfig, world_size: int, with_text: tuple[str, ...] = ()) -> TrainingAudio:
        """Open the manifests of the config, the unlabelled ones only if they are used.

        Args:
            with_text: kinds whose utterances all require a transcript.

        Raises:
            UserError: there is no manifest, a manifest is invalid, no utterance is within the limits, or
                weights are invalid.
        """
        found = TrainingAudio()
        window = config.self_supervised.window_seconds
        limit = min(config.data.max_seconds, _fitting(config), build_batches(config, world_size).smallest)
        limits = (config.data.min_seconds, limit)
        if window is not None:
            limits = (max(config.data.min_seconds, window), config.data.max_seconds)
        for kind, paths in used_manifests(config).items():
            if not paths:
                raise UserError(f"data.{kind} is empty; specify at least one manifest")
            manifests = [open_manifest(path, require_text=kind in with_text) for path in paths]
            found.hours += sum(float(manifest.seconds.sum()) for manifest in manifests) / 3600.0
            parts = []
            for path, manifest in zip(paths, manifests, strict=True):
                key = f"data.{kind}" + (f", {path}" if len(paths) > 1 else "")
                parts.append((manifest, _within(manifest, key, limits, found.notes)))
            found.utterances[kind] = Selection(parts)
            found.mixtures[kind] = _mixture(kind, parts, config.data)
            if window is not None:
                found._divide(kind, parts, window)
            found.contents[kind] = contents(manifests, apart=len(found.mixtures[kind].sizes) > 1)
        return found

    def _divide(self, kind: str, parts: list[tuple[Manifest, Indices | None]], seconds: float) -> None:
        """Replace the utterances of a kind by windows of `seconds`."""
        windows = Windows(parts, round(seconds * SAMPLE_RATE_HZ))
        before = float(self.utterances[kind].samples.sum()) / SAMPLE_RATE_HZ / 3600.0
        self.utterances[kind] = windows
        spec = self.mixtures[kind]
        sizes = windows.sizes if len(spec.sizes) > 1 else [len(windows)]
        self.mixtures[kind] = MixtureSpec(sizes, spec.weights)
        hours = len(windows) * seconds / 3600.0
        self.notes.append(
            f"data.{kind}: {len(windows):,} windows of {seconds:g} s have {hours:.2f} of {before:.2f} h"
        )

    @property
    def sizes(self) -> dict[str, int]:
        """Number of utterances in one pass over each kind."""
        return {kind: len(self.utterances.get(kind, ())) for kind in KINDS}

    def plan(
        self, config: RunConfig, batch_seconds: float, used: NDArray[np.bool_] | None = None
    ) -> DataPlan:
        """The order of global batches of `batch_seconds`.

        Args:
            used: bool [utterances], the unlabelled utterances that are trained on; None: all.
        """
        batch_samples = round(batch_seconds * SAMPLE_RATE_HZ)

        def mixture(kind: str, used: NDArray[np.bool_] | None = None) -> Mixture:
            spec = self.mixtures[kind]
            ends = np.cumsum(spec.sizes[:-1])
            parts = np.split(self.utterances[kind].samples, ends)
            of_parts = [None] * len(parts) if used is None else np.split(used, ends)
            seeds = [draw_seed(config.seed, kind, *([i] if i else [])) for i in range(len(parts))]
            plans = [
                config.batch.plan(samples, batch_samples, seed, of_part)
                for samples, seed, of_part in zip(parts, seeds, of_parts, strict=True)
            ]
            return Mixture(plans, spec.weights)

        return DataPlan(
            mixture("labelled") if "labelled" in self.mixtures else None,
            mixture("unlabelled", used) if "unlabelled" in self.mixtures else None,
            config.pseudo_labels.unlabelled_per_labelled,
            round(config.pseudo_labels.start_hours * 3600 * SAMPLE_RATE_HZ),
            self._label_plan(config, batch_samples),
        )

    def _label_plan(self, config: RunConfig, batch_samples: int) -> LabelPlan | None:
        """Plan of labelling, for strategies that keep labels."""
        labels, seed = config.pseudo_labels, config.seed
        if labels.strategy == "cache":
            samples = round(labels.cache.hours * 3600 * SAMPLE_RATE_HZ)
            return CachePlan(samples, labels.cache.replace, batch_samples, seed)
        if labels.strategy == "rounds":
            starts = [round(hours * 3600 * SAMPLE_RATE_HZ) for hours in labels.rounds.hours]
            if starts != sorted(starts):
                raise UserError("pseudo_labels.rounds.hours: give ascending hours")
            lengths = self.utterances["unlabelled"].samples
            return RoundsPlan(lengths, starts, labels.rounds.share, batch_samples, seed)
        return None

    def step_audio(
        self, config: RunConfig, world_size: int, used: NDArray[np.bool_] | None = None
    ) -> StepAudio:
        """Mean audio of a step at each batch, measured on these corpora. The same on every rank.

        Args:
            used: see `plan`.

        Raises:
            UserError: no utterance fits the reference batch.
        """
        batches, reference = build_batches(config, world_size), float(config.batch.reference_seconds)
        plan = self.plan(config, batches.smallest, used)
        try:
            audio = {s: mean_step_audio(plan, s) for s in {reference, *batches.all}}
        except ValueError as error:
            raise UserError(f"batch.reference_seconds: {error}; raise it, to define kappa") from error
        return StepAudio(batches, reference, audio)


def used_manifests(config: RunConfig) -> dict[str, list[str]]:
    """The manifests that the run trains on, by kind."""
    if config.self_supervised.is_on:
        return {"unlabelled": config.data.unlabelled}
    used = {"labelled": config.data.labelled}
    if config.pseudo_labels.uses_unlabelled:
        used["unlabelled"] = config.data.unlabelled
    return used


def missing_manifests(config: RunConfig) -> list[str]:
    """What the config lacks of the manifests that the run trains on; empty if it has all of them."""
    used = used_manifests(config)
    unnamed = [f"data.{kind} (empty)" for kind, paths in used.items() if not paths]
    paths = [path for kind in used.values() for path in kind]
    return unnamed + [path for path in paths if not is_url(path) and not Path(path).is_file()]


def _fitting(config: RunConfig) -> float:
    """Maximum duration of an utterance that fits the device even at the slowest speed perturbation."""
    speed = config.perturb.speed
    slowest = float(min(speed.factors)) if speed and speed.factors else 1.0
    if slowest >= 1.0:
        return config.device.max_seconds
    # Reserve two samples for rounding.
    return (config.device.max_seconds - 2 / SAMPLE_RATE_HZ) * slowest


def _within(manifest: Manifest, key: str, limits: tuple[float, float], notes: list[str]) -> Indices | None:
    """Rows of utterances within the limits in seconds; None: all rows."""
    seconds, (shortest, limit) = manifest.seconds, limits
    is_within = (seconds >= shortest) & (seconds <= limit)
    kept = int(is_within.sum())
    if kept == len(manifest):
        return None
    if not kept:
        raise UserError(f"{key}: no utterance is between {shortest:g} and {limit:g} s long")
    hours = float(seconds[~is_within].sum()) / 3600.0
    notes.append(
        f"{key}: {len(manifest) - kept} of {len(manifest)} utterances ({hours:.2f} h) excluded: shorter than "
        f"{shortest:g} s or longer than {limit:g} s"
    )
    return np.flatnonzero(is_within)


def _mixture(kind: str, parts: list[tuple[Manifest, Indices | None]], config: DataConfig) -> MixtureSpec:
    """One corpus of all manifests, or one corpus per manifest if weights or a temperature are set."""
    weights = config.labelled_weights if kind == "labelled" else config.unlabelled_weights
    sizes = [len(manifest) if rows is None else len(rows) for manifest, rows in parts]
    if weights and config.temperature is not None:
        raise UserError(f"data.temperature and data.{kind}_weights: set only one of them")
    if config.temperature is not None:
        lengths = [m.seconds if rows is None else m.seconds[rows] for m, rows in parts]
        return MixtureSpec(sizes, [float(s.sum() / 3600.0) ** (1.0 / config.temperature) for s in lengths])
    if not weights:
        return MixtureSpec([sum(sizes)], [1.0])
    if len(weights) != len(sizes):
        raise UserError(f"data.{kind}_weights: {len(sizes)} manifests need one weight each, not {weights}")
    return MixtureSpec(sizes, list(weights))

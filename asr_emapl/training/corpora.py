"""What a run learns from and is judged on: manifests read, limited, encoded, planned into global batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.augment import SpecAugment, draw_seed
from asr_emapl.audio.decode import probe
from asr_emapl.audio.features import FrameCount
from asr_emapl.audio.noise import Noise
from asr_emapl.audio.perturb import Perturbation, PerturbConfig
from asr_emapl.audio.reverberation import Reverberation
from asr_emapl.audio.speed import Speed
from asr_emapl.config import RunConfig
from asr_emapl.data.loader import Corpus, DataConfig, StepDataset, within_limits
from asr_emapl.data.manifest import Utterance, read_manifest, report
from asr_emapl.data.mixture import DataPlan, Mixture
from asr_emapl.data.step_audio import mean_step_audio
from asr_emapl.errors import UnreachableError, UserError
from asr_emapl.scaling import StepAudio
from asr_emapl.text.tokenizer import Tokenizer
from asr_emapl.training.build import build_batches
from asr_emapl.training.resume import Contents, contents

# Files of each corpus whose headers are looked at before a run.
_PROBED = 16


@dataclass(frozen=True)
class MixtureSpec:
    """The manifests of one kind that are corpora of their own: utterances of each, and weight in audio."""

    sizes: list[int]
    weights: list[float]


@dataclass
class Corpora:
    """The corpora of one run. `notes` tells what was left out, and what is resampled."""

    labelled: Corpus
    unlabelled: Corpus | None
    validation: dict[str, list[Utterance]]
    blended: dict[str, MixtureSpec]
    # Of the student's waveforms.
    perturb: Perturbation | None = None
    notes: list[str] = field(default_factory=list)
    # Of each corpus of a kind, before limits; see `training.resume`.
    contents: Contents = field(default_factory=dict)

    @staticmethod
    def read(config: RunConfig, tokenizer: Tokenizer | None, world_size: int) -> Corpora:
        """Read the manifests that the config names; the unlabelled ones only if they are used.

        Args:
            tokenizer: None: only the lengths of the training data are wanted. Texts and validation data are
                not read, no audio file is opened.

        Raises:
            UserError: a manifest is wrong, none is named, nothing is within the limits, a text has letters
                that the tokenizer does not know, or weights are wrong.
        """
        notes: list[str] = []
        blended: dict[str, MixtureSpec] = {}
        hashes: Contents = {}
        perturb = _perturbation(config.perturb) if tokenizer else None
        limit = min(config.data.max_seconds, _fitting(config), build_batches(config, world_size).smallest)

        def read(kind: str, paths: list[str], with_text: bool) -> Corpus:
            whole, manifests, with_text = [], [], with_text and tokenizer is not None
            for path in paths:
                key = f"data.{kind}" + (f", {path}" if len(paths) > 1 else "")
                whole.append(read_manifest(path, require_text=with_text))
                manifests.append(_within(whole[-1], key, config, limit, notes))
            if not manifests:
                raise UserError(f"data.{kind} names no manifest")
            blended[kind] = _blend(kind, manifests, config.data)
            hashes[kind] = contents(whole, apart=len(blended[kind].sizes) > 1)
            utterances = [u for manifest in manifests for u in manifest]
            if tokenizer is None:
                return Corpus(utterances, None)
            corpus = Corpus(utterances, _encode(utterances, tokenizer) if with_text else None)
            notes.extend(_rate_notes(f"data.{kind}", corpus))
            return corpus

        labelled, unlabelled = read("labelled", config.data.labelled, True), None
        if config.pseudo_labels.strategy != "none":
            # The true texts of the unlabelled part are for the oracle alone.
            oracle = config.pseudo_labels.strategy == "oracle"
            unlabelled = read("unlabelled", config.data.unlabelled, oracle)
        elif config.data.unlabelled:
            notes.append(
                "data.unlabelled is not used, since pseudo_labels.strategy is none (set it to ema to use it)"
            )
        validation = config.data.validation if tokenizer else {}
        splits = {name: read_manifest(path, require_text=True) for name, path in validation.items()}
        return Corpora(labelled, unlabelled, splits, blended, perturb, notes, hashes)

    @property
    def sizes(self) -> dict[str, int]:
        """Utterances of one pass over each kind, "labelled" and "unlabelled"."""
        unlabelled = len(self.unlabelled.utterances) if self.unlabelled else 0
        return {"labelled": len(self.labelled.utterances), "unlabelled": unlabelled}

    @staticmethod
    def measure(config: RunConfig, world_size: int) -> StepAudio | None:
        """Audio of steps, from the lengths of the corpora alone; None if a manifest does not exist yet.

        Raises:
            UserError: a manifest that is there cannot be read, or has nothing that fits the batch.
        """
        if not manifests_present(config):
            return None
        return Corpora.read(config, None, world_size).step_audio(config, world_size)

    def plan(self, config: RunConfig, batch_seconds: float) -> DataPlan:
        """The order of global batches of `batch_seconds`."""
        batch_samples = round(batch_seconds * SAMPLE_RATE_HZ)

        def blend(kind: str, corpus: Corpus) -> Mixture:
            of = self.blended[kind]
            parts = np.split(corpus.samples, np.cumsum(of.sizes[:-1]))
            seeds = [draw_seed(config.seed, kind, *([i] if i else [])) for i in range(len(parts))]
            plans = [
                config.batch.plan(samples, batch_samples, seed)
                for samples, seed in zip(parts, seeds, strict=True)
            ]
            return Mixture(plans, of.weights)

        return DataPlan(
            blend("labelled", self.labelled),
            blend("unlabelled", self.unlabelled) if self.unlabelled else None,
            config.pseudo_labels.unlabelled_per_labelled,
            round(config.pseudo_labels.start_hours * 3600 * SAMPLE_RATE_HZ),
        )

    def step_audio(self, config: RunConfig, world_size: int) -> StepAudio:
        """Mean audio of a step at each batch, measured on these corpora. The same on every rank.

        Raises:
            UserError: no utterance fits the reference batch.
        """
        batches, reference = build_batches(config, world_size), float(config.batch.reference_seconds)
        mix = self.plan(config, batches.smallest)
        try:
            audio = {s: mean_step_audio(mix, s) for s in {reference, *batches.all}}
        except ValueError as error:
            raise UserError(f"batch.reference_seconds: {error}; raise it to tell kappa") from error
        return StepAudio(batches, reference, audio)

    def dataset(self, config: RunConfig, rank: int, world_size: int) -> StepDataset:
        """What decodes one rank's share of each global batch."""
        return StepDataset(
            self.labelled,
            self.unlabelled,
            frames=FrameCount.of(config.features),
            augment=SpecAugment(config.augment, config.features.mel_bands) if config.augment else None,
            perturb=self.perturb,
            max_samples=round(config.device.max_seconds * SAMPLE_RATE_HZ),
            seed=config.seed,
            rank=rank,
            world_size=world_size,
        )


def manifests_present(config: RunConfig) -> list[str]:
    """The manifests that the run learns from; none if one of them is not there yet."""
    used = [*config.data.labelled]
    if config.pseudo_labels.strategy != "none":
        used += config.data.unlabelled
    return used if all(Path(path).is_file() for path in used) else []


def _blend(kind: str, manifests: list[list[Utterance]], config: DataConfig) -> MixtureSpec:
    """One corpus of all manifests; or each its own, where weights or a temperature are given."""
    weights = config.labelled_weights if kind == "labelled" else config.unlabelled_weights
    sizes = [len(manifest) for manifest in manifests]
    if weights and config.temperature is not None:
        raise UserError(f"data.temperature and data.{kind}_weights: give one of them")
    if config.temperature is not None:
        hours = [sum(u.duration for u in manifest) / 3600.0 for manifest in manifests]
        return MixtureSpec(sizes, [h ** (1.0 / config.temperature) for h in hours])
    if not weights:
        return MixtureSpec([sum(sizes)], [1.0])
    if len(weights) != len(sizes):
        raise UserError(f"data.{kind}_weights: {len(sizes)} manifests need as many weights, not {weights}")
    return MixtureSpec(sizes, list(weights))


def _fitting(config: RunConfig) -> float:
    """Seconds of the longest utterance that fits the device, slowed down as it may be."""
    speed = config.perturb.speed
    slowest = float(min(speed.factors)) if speed and speed.factors else 1.0
    # Two samples are for rounding.
    return (
        (config.device.max_seconds - 2 / SAMPLE_RATE_HZ) * slowest
        if slowest < 1.0
        else config.device.max_seconds
    )


def _perturbation(config: PerturbConfig) -> Perturbation | None:
    if config == PerturbConfig():
        return None
    speed, room, noise = config.speed, config.reverberation, config.noise
    rooms = _read(room.manifests, "perturb.reverberation.manifests") if room else []
    noises = _read(noise.manifests, "perturb.noise.manifests") if noise else []
    return Perturbation(
        Speed(speed) if speed else None,
        Reverberation(room, rooms) if room else None,
        Noise(noise, noises) if noise else None,
    )


def _read(paths: list[str], key: str) -> list[Utterance]:
    if not paths:
        raise UserError(f"{key} names no manifest")
    return [u for path in paths for u in read_manifest(path)]


def _within(
    read: list[Utterance], key: str, config: RunConfig, limit: float, notes: list[str]
) -> list[Utterance]:
    kept = [u for u in within_limits(read, config.data) if u.duration <= limit]
    bounds = f"{config.data.min_seconds:g} s or longer than {limit:g} s"
    if not kept:
        raise UserError(f"{key}: no utterance lies between {config.data.min_seconds:g} and {limit:g} s")
    if len(kept) < len(read):
        hours = (sum(u.duration for u in read) - sum(u.duration for u in kept)) / 3600
        notes.append(
            f"{key}: {len(read) - len(kept)} of {len(read)} utterances ({hours:.2f} h) left out: "
            f"shorter than {bounds}"
        )
    return kept


def _rate_notes(key: str, corpus: Corpus) -> list[str]:
    """Whether audio is resampled, or its channels averaged: said once, after a look at some of the files."""
    utterances = corpus.utterances
    found = set()
    for utterance in utterances[:: -(-len(utterances) // _PROBED)]:
        try:
            found.add(probe(utterance.source)[1:])
        except UnreachableError:
            raise
        except UserError:
            pass  # for the loader to report
    foreign = sorted(found - {(SAMPLE_RATE_HZ, 1)})
    if not foreign:
        return []
    kinds = ", ".join(f"{rate} Hz with {channels} channel(s)" for rate, channels in foreign)
    return [
        f"{key}: has audio of {kinds}, made {SAMPLE_RATE_HZ} Hz, mono at each reading "
        "(asr-emapl shard --codec flac does so once)"
    ]


def _encode(utterances: list[Utterance], tokenizer: Tokenizer) -> list[list[int]]:
    tokens: list[list[int]] = []
    findings: list[str] = []
    for utterance in utterances:
        assert utterance.text is not None
        try:
            tokens.append(tokenizer.encode(utterance.text))
        except UserError as error:
            findings.append(f"utterance {utterance.id}: {error}")
    if findings:
        raise UserError(report(findings))
    return tokens

"""What a run learns from and is judged on: manifests read, limited, encoded, planned into global batches."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.augment import SpecAugment, draw_seed
from asr_emapl.audio.decode import probe
from asr_emapl.audio.features import FrameCount
from asr_emapl.audio.noise import Noise
from asr_emapl.audio.perturb import Perturbation, PerturbConfig
from asr_emapl.audio.reverberation import Reverberation
from asr_emapl.audio.speed import Speed
from asr_emapl.config import RunConfig
from asr_emapl.data.batch_plan import BatchPlan, MixPlan
from asr_emapl.data.loader import Corpus, StepDataset, within_limits
from asr_emapl.data.manifest import Utterance, read_manifest, report
from asr_emapl.errors import UserError
from asr_emapl.text.tokenizer import Tokenizer

# Files of each corpus whose headers are looked at before a run.
_PROBED = 16


@dataclass
class Corpora:
    """The corpora of one run. `notes` tells what was left out, and what is resampled."""

    labelled: Corpus
    unlabelled: Corpus | None
    validation: dict[str, list[Utterance]]
    # Of the student's waveforms.
    perturb: Perturbation | None = None
    notes: list[str] = field(default_factory=list)

    @staticmethod
    def read(config: RunConfig, tokenizer: Tokenizer, world_size: int) -> Corpora:
        """Read the manifests that the config names; the unlabelled ones only if they are used.

        Raises:
            UserError: a manifest is wrong, none is named, nothing is within the limits, or a text has letters
                that the tokenizer does not know.
        """
        notes: list[str] = []
        perturb = _perturbation(config.perturb)
        fitting = config.device.max_seconds
        if perturb is not None and perturb.speed is not None and min(perturb.speed.factors) < 1:
            # Slowed down, they have to fit the device as well; two samples are for rounding.
            fitting = (fitting - 2 / SAMPLE_RATE_HZ) * float(min(perturb.speed.factors))
        limit = min(config.data.max_seconds, fitting, config.batches(world_size).smallest)
        labelled = _within(
            _read(config.data.labelled, "data.labelled", True), "data.labelled", config, limit, notes
        )
        corpora = Corpora(Corpus(labelled, _encode(labelled, tokenizer)), None, {}, perturb, notes)
        strategy = config.pseudo_labels.strategy
        if strategy != "none":
            # The true texts of the unlabelled part are for the oracle alone.
            oracle = strategy == "oracle"
            read = _read(config.data.unlabelled, "data.unlabelled", oracle)
            kept = _within(read, "data.unlabelled", config, limit, notes)
            corpora.unlabelled = Corpus(kept, _encode(kept, tokenizer) if oracle else None)
        notes += _rate_notes("data.labelled", corpora.labelled)
        if corpora.unlabelled:
            notes += _rate_notes("data.unlabelled", corpora.unlabelled)
        for name, path in config.data.validation.items():
            corpora.validation[name] = read_manifest(path, require_text=True)
        return corpora

    def plan(self, config: RunConfig, batch_seconds: float) -> MixPlan:
        """The order of global batches of `batch_seconds`."""
        batch_samples = round(batch_seconds * SAMPLE_RATE_HZ)

        def one(corpus: Corpus, name: str) -> BatchPlan:
            seed = draw_seed(config.seed, name)
            return BatchPlan(corpus.samples, batch_samples, seed, config.batch.jitter, config.batch.pool)

        return MixPlan(
            one(self.labelled, "labelled"),
            one(self.unlabelled, "unlabelled") if self.unlabelled else None,
            config.pseudo_labels.unlabelled_per_labelled,
            round(config.pseudo_labels.start_hours * 3600 * SAMPLE_RATE_HZ),
        )

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


def _perturbation(config: PerturbConfig) -> Perturbation | None:
    if config == PerturbConfig():
        return None
    speed, room, noise = config.speed, config.reverberation, config.noise
    rooms = _read(room.manifests, "perturb.reverberation.manifests", False) if room else []
    noises = _read(noise.manifests, "perturb.noise.manifests", False) if noise else []
    return Perturbation(
        Speed(speed) if speed else None,
        Reverberation(room, rooms) if room else None,
        Noise(noise, noises) if noise else None,
    )


def _read(paths: list[str], key: str, with_text: bool) -> list[Utterance]:
    if not paths:
        raise UserError(f"{key} names no manifest")
    return [u for path in paths for u in read_manifest(path, require_text=with_text)]


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
        # What cannot be read is for the loader to report.
        with contextlib.suppress(UserError):
            found.add(probe(utterance.source)[1:])
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

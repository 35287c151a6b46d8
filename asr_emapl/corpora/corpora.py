"""The training corpora of a run, with targets, and its validation splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.augment import SpecAugment
from asr_emapl.audio.decode import probe
from asr_emapl.audio.features import FeatureExtractor
from asr_emapl.audio.perturb import Noise, Perturbation, PerturbConfig, Reverberation, Speed
from asr_emapl.checkpoints.resume import Contents
from asr_emapl.config import RunConfig
from asr_emapl.corpora.selection import TrainingAudio
from asr_emapl.data.corpus import Corpus, TokenTable
from asr_emapl.data.loader import DataConfig, StepDataset
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.shared_audio import shared_audio
from asr_emapl.data.stored_features import require_extractor, stored_by
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UnreachableError, UserError, counted, list_findings
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.external import Spelling
from asr_emapl.pseudo_labels.known_labels import KnownLabels
from asr_emapl.pseudo_labels.labels import Label
from asr_emapl.pseudo_labels.token_rate import learned_rates
from asr_emapl.scoring.transcripts import read_transcripts
from asr_emapl.text.tokenizer import Tokenizer

# Number of files of each corpus whose headers are read before a run.
_PROBED = 16


@dataclass
class Corpora:
    """The corpora of one run.

    Attributes:
        audio: labelled and unlabelled utterances for the batch plan.
        labelled: None in a self-supervised run.
        perturb: perturbation of the student's waveforms.
        limits: of the filters of pseudo-labels, with those that are learned from the transcripts.
        given: the labels of the unlabelled utterances if a file gives them, as filtered; None: a model makes
            them.
        notes: messages on excluded utterances, and on labels.
        audio_notes: messages on resampled audio, by kind of audio.
    """

    audio: TrainingAudio
    labelled: Corpus | None
    unlabelled: Corpus | None
    validation: dict[str, list[Utterance]]
    perturb: Perturbation | None
    limits: PseudoLabelConfig
    given: KnownLabels | None
    notes: list[str]
    audio_notes: dict[str, list[str]]

    @staticmethod
    def read(config: RunConfig, tokenizer: Tokenizer | None, world_size: int) -> Corpora:
        """Open the manifests of the config; the unlabelled ones only if they are used.

        Args:
            tokenizer: None in a self-supervised run.

        Raises:
            UserError: see `TrainingAudio.select`; also if there is unlabelled audio without a strategy, a
                corpus has audio and stored features, a text has characters outside the tokenizer's alphabet,
                or validation audio is also trained on.
        """
        labels = config.pseudo_labels
        if tokenizer is None:
            return Corpora._unlabelled(config, world_size)
        if not labels.uses_unlabelled and config.data.unlabelled:
            raise UserError(
                "data.unlabelled is not used with pseudo_labels.strategy=none; set the strategy to ema, or "
                "data.unlabelled to []"
            )
        perturb = _perturbation(config.perturb)
        # Only the oracle uses the transcripts of unlabelled audio.
        with_text = ("labelled", "unlabelled") if labels.strategy == "oracle" else ("labelled",)
        audio = TrainingAudio.select(config, world_size, with_text)
        _require_audio(config, audio)
        _require_one_kind(audio)
        corpora, notes, audio_notes = {}, list(audio.notes), {}
        for kind, utterances in audio.utterances.items():
            corpora[kind] = Corpus(utterances, _encode(utterances, tokenizer) if kind in with_text else None)
            audio_notes[kind] = _rate_notes(f"data.{kind}", utterances)
        if labels.strategy == "external":
            unlabelled = audio.utterances["unlabelled"]
            targets, note = _external(unlabelled, labels.hypotheses, tokenizer)
            corpora["unlabelled"] = Corpus(unlabelled, targets)
            notes.append(note)
        splits = {
            name: read_manifest(path, require_text=True) for name, path in config.data.validation.items()
        }
        _require_unseen(config.data, audio, splits)
        limits, learned = _limits(labels, corpora["labelled"])
        given = None
        if labels.uses_unlabelled and not labels.learns_from_itself:
            given, dropped = _given(corpora["unlabelled"], limits)
            learned += dropped
        both = (corpora["labelled"], corpora.get("unlabelled"))
        return Corpora(audio, *both, splits, perturb, limits, given, notes + learned, audio_notes)

    @staticmethod
    def _unlabelled(config: RunConfig, world_size: int) -> Corpora:
        """The corpus of a self-supervised run; without validation, which requires texts."""
        audio = TrainingAudio.select(config, world_size)
        _require_audio(config, audio)
        _require_one_kind(audio)
        utterances, notes = audio.utterances["unlabelled"], list(audio.notes)
        audio_notes = {"unlabelled": _rate_notes("data.unlabelled", utterances)}
        if config.data.validation:
            notes.append("data.validation: not used, because a self-supervised run does not learn any text")
        corpus, perturb = Corpus(utterances, None), _perturbation(config.perturb)
        return Corpora(audio, None, corpus, {}, perturb, config.pseudo_labels, None, notes, audio_notes)

    def new_audio_notes(self, before: Contents) -> list[str]:
        """The notes on audio, without those on the corpora of the checkpoint that a run continues."""
        contents = self.audio.contents
        told = [kind for kind in self.audio_notes if before.get(kind) == contents.get(kind)]
        return [note for kind, notes in self.audio_notes.items() if kind not in told for note in notes]

    def require_extractor(self, features: FeatureExtractor) -> None:
        """Check the first utterance of each manifest, so that a run does not stop after hours.

        Raises:
            UserError: its features were stored by another extractor.
        """
        for kind, utterances in self.audio.utterances.items():
            for utterance in utterances.firsts:
                require_extractor(utterance, features, f"data.{kind}")
        for name, split in self.validation.items():
            require_extractor(split[0], features, f"data.validation.{name}")

    def dataset(
        self, config: RunConfig, features: FeatureExtractor, rank: int, world_size: int
    ) -> StepDataset:
        """The dataset that decodes one rank's share of each global batch."""
        augment, settings = None, config.self_supervised
        if config.augment and not settings.is_on:  # its objectives have their own masks
            augment = SpecAugment(config.augment, features.size, features.frame_seconds)
        return StepDataset(
            self.labelled,
            self.unlabelled,
            frames=features.frames,
            augment=augment,
            perturb=self.perturb,
            two_views=config.loss.consistency > 0.0,
            pass_size=settings.pass_size,
            max_samples=round(config.device.max_seconds * SAMPLE_RATE_HZ),
            seed=config.seed,
            rank=rank,
            world_size=world_size,
        )


def _require_one_kind(audio: TrainingAudio) -> None:
    """Check that all manifests of a corpus have audio, or all have stored features.

    Raises:
        UserError: names the part of the data.
    """
    for kind, utterances in audio.utterances.items():
        is_one_corpus = len(audio.mixtures[kind].sizes) == 1
        if is_one_corpus and len({stored_by(u) is None for u in utterances.firsts}) > 1:
            raise UserError(
                f"data.{kind}: manifests of audio and of stored features cannot be in one batch; use "
                f"manifests of one kind, or set data.{kind}_weights"
            )


def _require_audio(config: RunConfig, audio: TrainingAudio) -> None:
    """Refuse settings that need waveforms if the features are stored.

    Raises:
        UserError: names the setting and the part of the data.
    """
    needed = []
    if config.perturb != PerturbConfig():
        needed += [("perturb", "labelled"), ("perturb", "unlabelled")]
    if config.pseudo_labels.min_level_db is not None:
        needed.append(("pseudo_labels.min_level_db", "unlabelled"))
    if config.self_supervised.objective == "byol":
        needed.append(("self_supervised.objective=byol", "unlabelled"))
    for setting, kind in needed:
        utterances = audio.utterances.get(kind)
        if utterances is not None and any(stored_by(u) is not None for u in utterances.firsts):
            raise UserError(
                f"{setting} needs audio, but data.{kind} has stored features; set it to its default, or use "
                "the manifests of the audio"
            )


def _require_unseen(config: DataConfig, audio: TrainingAudio, splits: dict[str, list[Utterance]]) -> None:
    """Check that validation splits have no training audio.

    Raises:
        UserError: one has; names the split, the manifest and an utterance.
    """
    unknown = [name for name in config.seen_validation if name not in splits]
    if unknown:
        raise UserError(f"data.seen_validation: data.validation has no split {unknown[0]!r}")
    for split, utterances in splits.items():
        if split in config.seen_validation:
            continue
        for kind, selection in audio.utterances.items():
            for manifest in selection.manifests:
                found = shared_audio(manifest, utterances)
                if found:
                    first = found[0]
                    raise UserError(
                        f"data.validation.{split}: {counted(len(found), 'utterance')} of {len(utterances)} "
                        f"also in the training audio, data.{kind} {manifest.path}, for example "
                        f"{first.utterance.id} (same {first.reason} as {first.training.id}): the error rate "
                        "would be too low; remove them from one of the manifests, or if this is intended, "
                        f"set data.seen_validation=[{split}]"
                    )


def _limits(limits: PseudoLabelConfig, labelled: Corpus) -> tuple[PseudoLabelConfig, list[str]]:
    """The limits for pseudo-labels, including those learned from the transcripts, and a note on these."""
    if limits.tokens_per_second != "learned" or not limits.uses_unlabelled:
        return limits, []
    assert isinstance(labelled.targets, TokenTable)
    rates = learned_rates(labelled.targets.lengths, labelled.samples / SAMPLE_RATE_HZ)
    note = (
        f"pseudo_labels.tokens_per_second: {rates[0]:.3g} to {rates[1]:.3g}, learned from "
        f"{counted(len(labelled.targets), 'transcript')}"
    )
    return replace(limits, tokens_per_second=rates), [note]


def _given(unlabelled: Corpus, limits: PseudoLabelConfig) -> tuple[KnownLabels, list[str]]:
    """The labels that a file gives, filtered, and a note on those that are dropped."""
    targets = unlabelled.targets
    assert targets is not None
    given = KnownLabels(lambda row: Label(targets[row]), unlabelled.samples, limits)
    given.judge(range(len(targets)))
    told = given.describe()
    return given, [f"pseudo_labels: {told}"] if told else []


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
        raise UserError(f"{key} is empty; specify at least one manifest")
    return [u for path in paths for u in read_manifest(path)]


def _rate_notes(key: str, utterances: Sequence[Utterance]) -> list[str]:
    """Note if audio is resampled or its channels are averaged, according to the headers of some files."""
    found = set()
    for utterance in utterances[:: -(-len(utterances) // _PROBED)]:
        try:
            found.add(probe(utterance.source)[1:])
        except UnreachableError:
            raise
        except UserError:
            pass  # the loader reports the error
    foreign = sorted(found - {(SAMPLE_RATE_HZ, 1)})
    if not foreign:
        return []
    kinds = ", ".join(f"{rate} Hz with {counted(channels, 'channel')}" for rate, channels in foreign)
    return [
        f"{key}: has audio of {kinds}, which is converted to {SAMPLE_RATE_HZ} Hz mono at each read "
        "(use asr-emapl shard --codec flac to convert it once)"
    ]


def _external(
    utterances: Sequence[Utterance], hypotheses: str | None, tokenizer: Tokenizer
) -> tuple[TokenTable, str]:
    """The labels of a file, empty for an utterance without one, and one line on what was found in it.

    Raises:
        UserError: no file is named, it cannot be read, or it has none of the utterances.
    """
    if hypotheses is None:
        raise UserError("pseudo_labels.strategy=external needs the labels: set pseudo_labels.hypotheses")
    texts = read_transcripts(hypotheses, role="hypothesis")
    spelling, missing = Spelling(tokenizer), 0

    def tokens(utterance: Utterance) -> list[int]:
        nonlocal missing
        text = texts.get(utterance.id)
        missing += text is None
        return [] if text is None else spelling.tokens(text)

    table = TokenTable(tokens(utterance) for utterance in utterances)
    if missing == len(table):
        raise UserError(
            f"{hypotheses}: has no label for any of the utterances of data.unlabelled; do the ids agree?"
        )
    return table, (
        f"pseudo_labels.hypotheses: labels for {len(table) - missing:,} of {len(table):,} utterances, "
        f"{spelling.changed:,} normalised, {spelling.unspellable:,} that the tokenizer cannot encode"
    )


def _encode(utterances: Sequence[Utterance], tokenizer: Tokenizer) -> TokenTable:
    """The tokens of all transcripts.

    Raises:
        UserError: lists the utterances with characters outside the tokenizer's alphabet.
    """
    findings: list[str] = []

    def tokens(utterance: Utterance) -> list[int]:
        assert utterance.text is not None
        try:
            return tokenizer.encode(utterance.text)
        except UserError as error:
            findings.append(f"utterance {utterance.id}: {error}")
            return []

    table = TokenTable(tokens(utterance) for utterance in utterances)
    if findings:
        raise UserError(list_findings(findings))
    return table

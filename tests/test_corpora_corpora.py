"""What a run says of its corpora before it starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.tiny import make_corpus, tiny_config

from asr_emapl.audio.features import LogMel
from asr_emapl.corpora.corpora import Corpora
from asr_emapl.corpora.selection import MixtureSpec, TrainingAudio
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.mixture import DataCursor
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError, counted
from asr_emapl.text.tokenizer import CharacterTokenizer


def notes(root: Path) -> list[str]:
    config = tiny_config(root, "pseudo_labels.strategy=ema")
    corpora = Corpora.read(config, CharacterTokenizer(), 1)
    return corpora.notes + corpora.new_audio_notes({})


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16_000, 2), (44_100, 2)])
def test_audio_that_is_resampled_is_said_once(tmp_path: Path, rate: int, channels: int) -> None:
    make_corpus(tmp_path)
    assert notes(tmp_path) == []
    for utterance in read_manifest(tmp_path / "labelled.jsonl"):
        silence = np.zeros((round(utterance.duration * rate), channels))
        soundfile.write(utterance.audio, silence, rate)
    (note,) = notes(tmp_path)
    assert note.startswith(f"data.labelled: has audio of {rate} Hz with {counted(channels, 'channel')}")


def test_a_run_that_continues_does_not_repeat_what_was_said_of_its_audio(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    for part in ("labelled", "unlabelled"):
        for utterance in read_manifest(tmp_path / f"{part}.jsonl"):
            soundfile.write(utterance.audio, np.zeros(round(utterance.duration * 8000)), 8000)
    corpora = Corpora.read(tiny_config(tmp_path, "pseudo_labels.strategy=ema"), CharacterTokenizer(), 1)
    contents = corpora.audio.contents
    assert corpora.new_audio_notes(contents) == []
    # The seed had no unlabelled audio.
    (note,) = corpora.new_audio_notes({"labelled": contents["labelled"]})
    assert note.startswith("data.unlabelled: has audio of 8000 Hz")
    assert len(corpora.new_audio_notes({"labelled": ["other"], "unlabelled": ["other"]})) == 2


def test_audio_that_is_not_there_is_for_the_loader_to_report(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    for utterance in read_manifest(tmp_path / "labelled.jsonl"):
        Path(utterance.audio).unlink()
    assert notes(tmp_path) == []


def perturbed(root: Path, *overrides: str) -> Corpora:
    return Corpora.read(tiny_config(root, *overrides), CharacterTokenizer(), 1)


def test_nothing_is_perturbed_unless_it_is_asked_for(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    assert perturbed(tmp_path).perturb is None


def test_perturbations_take_their_sounds_from_manifests(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    sounds = f"manifests=[{tmp_path}/dev.jsonl,{tmp_path}/labelled.jsonl]"
    made = perturbed(tmp_path, f"perturb.noise.{sounds}", f"perturb.reverberation.{sounds}").perturb
    assert made is not None
    assert made.speed is None
    assert made.noise is not None
    assert made.reverberation is not None
    assert len(made.noise.recordings) == len(made.reverberation.responses) == 20
    with pytest.raises(UserError, match=r"perturb\.noise\.manifests"):
        perturbed(tmp_path, "perturb.noise.p=1")


@pytest.mark.parametrize("seconds", [1.0, 1.23457])
def test_what_is_slowed_down_still_fits_the_device(tmp_path: Path, seconds: float) -> None:
    """The longest admitted one too, to the sample."""
    make_corpus(tmp_path)
    source = tmp_path / "silence.wav"
    soundfile.write(source, np.zeros(32_000), 16_000)
    limit = seconds * 0.9
    lengths = [limit - 1e-3, limit - 2e-4, limit - 1e-5, limit, limit + 1e-3, seconds]
    utterances = [Utterance(f"u{i}", str(source), n, "ADA") for i, n in enumerate(lengths)]
    write_manifest(tmp_path / "labelled.jsonl", utterances)
    overrides = ("perturb.speed.factors=[0.9]", f"device.max_seconds={seconds}", "augment=null")
    corpora = perturbed(tmp_path, *overrides)
    assert {"u0", "u1"} <= {u.id for u in corpora.labelled.utterances} <= {"u0", "u1", "u2", "u3"}
    config = tiny_config(tmp_path, *overrides)
    step = corpora.dataset(config, LogMel(config.features), 0, 1)[
        corpora.audio.plan(config, 6.0).next(DataCursor())
    ]
    assert all(m.waveforms_BN.numel() <= seconds * 16_000 for m in step.micro_batches)


def blended(root: Path, *overrides: str) -> Corpora:
    make_corpus(root)
    lists = [f"data.{kind}=[{root}/labelled.jsonl,{root}/dev.jsonl]" for kind in ("labelled", "unlabelled")]
    config = tiny_config(root, "pseudo_labels.strategy=ema", *lists, "data.seen_validation=[dev]", *overrides)
    return Corpora.read(config, CharacterTokenizer(), 1)


def test_manifests_are_one_corpus_unless_they_are_weighed(tmp_path: Path) -> None:
    corpora = blended(tmp_path, "data.unlabelled_weights=[1,3]")
    assert corpora.audio.mixtures["labelled"] == MixtureSpec([20], [1.0])
    assert corpora.audio.mixtures["unlabelled"].sizes == [16, 4]
    plan = corpora.audio.plan(tiny_config(tmp_path, "pseudo_labels.strategy=ema"), 6.0)
    at, seen = DataCursor(), [0, 0]
    for _ in range(80):
        step = plan.next(at)
        at = step.after
        if not step.labelled:
            seen[int(step.indices[0] >= 16)] += step.samples
    assert seen[1] / seen[0] == pytest.approx(3.0, rel=0.2)


@pytest.mark.parametrize(("temperature", "power"), [(1.0, 1.0), (2.0, 0.5), (1e9, 0.0)])
def test_a_temperature_weighs_by_hours(tmp_path: Path, temperature: float, power: float) -> None:
    corpora = blended(tmp_path, f"data.temperature={temperature}")
    hours = [
        sum(u.duration for u in corpora.labelled.utterances[part]) for part in (slice(16), slice(16, 20))
    ]
    weights = corpora.audio.mixtures["labelled"].weights
    assert weights[0] / weights[1] == pytest.approx((hours[0] / hours[1]) ** power, rel=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.labelled_weights=[1]"], r"data\.labelled_weights: 2 manifests need one weight each"),
        (["data.labelled_weights=[1,0]"], r"data\.labelled_weights\[1\]: 0 is not"),
        (["data.unlabelled_weights=[1,nan]"], r"data\.unlabelled_weights\[1\]: 'nan' is not"),
        (["data.temperature=0"], r"data\.temperature: 0 is not a number \(above 0"),
        (["data.temperature=2", "data.labelled_weights=[1,2]"], "set only one of them"),
    ],
)
def test_weights_that_cannot_be(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        blended(tmp_path, *overrides)


def test_what_is_left_out_names_its_manifest(tmp_path: Path) -> None:
    (note, _) = blended(tmp_path, "data.max_seconds=1.0").notes[:2]
    assert note.startswith(f"data.labelled, {tmp_path}/labelled.jsonl: ")
    assert "excluded" in note


def test_unlabelled_audio_without_a_strategy_is_an_error(tmp_path):
    make_corpus(tmp_path)
    unlabelled = f"data.unlabelled=[{tmp_path}/unlabelled.jsonl]"
    with pytest.raises(UserError, match=r"pseudo_labels\.strategy=none; .*data\.unlabelled to \[\]"):
        Corpora.read(tiny_config(tmp_path, unlabelled), CharacterTokenizer(), 1)
    Corpora.read(tiny_config(tmp_path), CharacterTokenizer(), 1)
    Corpora.read(tiny_config(tmp_path, "pseudo_labels.strategy=ema"), CharacterTokenizer(), 1)


def test_limits_admit_what_is_on_them(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    seconds = [3.0, 0.1999, 0.2, 9.0, 36.0, 36.0001, 1.0]
    write_manifest(tmp_path / "labelled.jsonl", [Utterance(str(s), "/a.wav", s) for s in seconds])
    config = tiny_config(tmp_path, "device.max_seconds=100", "batch.seconds=100")
    audio = TrainingAudio.select(config, 1)
    assert [u.duration for u in audio.utterances["labelled"]] == [3.0, 0.2, 9.0, 36.0, 1.0]
    assert audio.notes[0].startswith("data.labelled: 2 of 7 utterances (0.01 h) excluded")
    config = tiny_config(tmp_path, "batch.seconds=100", "data.min_seconds=37", "data.max_seconds=40")
    with pytest.raises(UserError, match=r"data\.labelled: no utterance is between 37 and "):
        TrainingAudio.select(config, 1)

"""Validation audio that is also trained on: found by file, content or id, and nothing else is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.tiny import tiny_config

from asr_emapl.audio.source import ByteRange
from asr_emapl.corpora.corpora import Corpora
from asr_emapl.data import manifest, shared_audio
from asr_emapl.data.manifest import open_manifest, read_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.training.build import read_tokenizer


def make(folder: Path, name: str, seed: int = 0) -> Utterance:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.wav"
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.1, 0.1, 16_000), 16_000)
    return Utterance(name, str(path), 1.0, "WORDS")


def reasons(training: list[Utterance], validation: list[Utterance]) -> list[str]:
    return [one.reason for one in shared_audio.shared_audio(training, validation)]


def test_the_same_stretch_of_a_file_under_any_id(tmp_path):
    one = make(tmp_path, "a")
    assert reasons([replace(one, id="b", text=None)], [one]) == ["file"]
    assert reasons([replace(one, id="b", offset=0.5)], [one]) == ["file"], "a part is the same"
    assert reasons([replace(one, id="b", offset=1.0, duration=0.5)], [one]) == []
    left, right = replace(one, channel=0), replace(one, channel=1)
    assert reasons([replace(left, id="b", text=None)], [right]) == []


def test_a_copy_with_another_name(tmp_path):
    one = make(tmp_path / "dev", "a")
    (tmp_path / "train").mkdir()
    copy = shutil.copy(one.audio, tmp_path / "train" / "z.wav")
    assert reasons([replace(one, id="z", audio=copy, text=None)], [one]) == ["content"]
    assert reasons([make(tmp_path / "train", "y", seed=1)], [one]) == []


def test_files_of_equal_names_and_lengths_are_others_unless_their_transcripts_agree(tmp_path):
    one, other = make(tmp_path / "dev", "a"), make(tmp_path / "train", "a", seed=1)
    assert reasons([replace(other, text="OTHERS")], [one]) == []
    assert reasons([replace(other, text=None)], [one]) == []
    assert reasons([other], [one]) == ["id"], "encoded again"
    assert reasons([replace(other, duration=0.9)], [one]) == []
    # Of another format: nothing but the id and the length can be compared.
    assert reasons([replace(other, text=None, audio="s3://bucket/a.flac")], [one]) == ["id"]


def test_shards_are_compared_by_checksum(tmp_path):
    one = Utterance("a", "dev.tar", 1.0, byte_range=ByteRange(512, 900, 77))
    assert reasons([replace(one, id="b", audio="train.tar", byte_range=ByteRange(9728, 900, 77))], [one]) == [
        "content"
    ]
    assert reasons([replace(one, audio="train.tar", byte_range=ByteRange(9728, 900, 78))], [one]) == []


def test_a_manifest_that_is_read_lazily(tmp_path, monkeypatch):
    one = make(tmp_path / "dev", "a")
    path = tmp_path / "train.jsonl"
    others = [make(tmp_path / "train", f"t{i}", seed=i + 1) for i in range(5)]
    write_manifest(path, [*others, replace(one, id="b")])
    monkeypatch.setattr(manifest, "_INDEXED_BYTES", 0)
    training = open_manifest(path)
    assert not training.in_memory
    assert [found.training.id for found in shared_audio.shared_audio(training, [one])] == ["b"]


@pytest.mark.parametrize("kind", ["labelled", "unlabelled"])
def test_a_run_stops_at_validation_audio_that_it_trains_on(corpus, tmp_path, kind):
    own = read_manifest(corpus / "dev.jsonl")
    write_manifest(tmp_path / "train.jsonl", [*read_manifest(corpus / f"{kind}.jsonl"), own[1], own[2]])
    overrides = [f"data.{kind}=[{tmp_path / 'train.jsonl'}]", "pseudo_labels.strategy=ema"]
    config = tiny_config(corpus, *overrides)
    with pytest.raises(
        UserError, match=rf"data.validation.dev: 2 utterances of 4 .*data.{kind} .*dev-01"
    ) as no:
        Corpora.read(config, read_tokenizer(config), 1)
    assert "\n" not in str(no.value)
    config = tiny_config(corpus, *overrides, "data.seen_validation=[dev]")
    Corpora.read(config, read_tokenizer(config), 1)
    config = tiny_config(corpus, *overrides, "data.seen_validation=[other]")
    with pytest.raises(UserError, match="no split 'other'"):
        Corpora.read(config, read_tokenizer(config), 1)

"""Stored features train and decode like the audio that they were made of, and only with their extractor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.commands import call, fail, succeed
from support.tiny import make_corpus, tiny_config, write_tiny_config
from support.tiny_whisper import DIM, write_openai

from asr_emapl.audio.decode import read_audio
from asr_emapl.audio.features import FeatureConfig, LogMel, Waveform
from asr_emapl.data.loader import collate
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.shard_writer import write_shards
from asr_emapl.data.stored_features import FeatureFiles, StoredBatch, input_features, read_features, stored_by
from asr_emapl.errors import UserError
from asr_emapl.models.contract import ModelConfig
from asr_emapl.models.inputs import build_features
from asr_emapl.models.target import USERS_OWN
from asr_emapl.runs.reader import read_log
from asr_emapl.training.trainer import train

PARTS = ("labelled", "unlabelled", "dev")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The tiny corpus, and its features of a tiny Whisper encoder."""
    root = tmp_path_factory.mktemp("stored")
    make_corpus(root)
    write_openai(root / "whisper.pt")
    for part in PARTS:
        extract(root, root / f"{part}.jsonl", root / "features")
    return root


def extract(root: Path, manifest: Path, out: Path, run=succeed) -> str:
    config = write_tiny_config(root)
    return run("extract-features", manifest, "--config", config, "--out", out, *settings(root))


def settings(root: Path) -> list[str]:
    extractor = "asr_emapl.models.whisper:WhisperEncoderFeatures"
    return [f"features.extractor={extractor}", f"features.weights={root}/whisper.pt"]


def stored_data(root: Path) -> list[str]:
    features = root / "features"
    return [
        f"data.labelled=[{features}/labelled.jsonl]",
        f"data.validation={{dev: {features}/dev.jsonl}}",
        "model.options.stride=2",
        "model.options.frame_seconds=0.02",
    ]


def test_what_is_stored_is_what_the_extractor_returns(root: Path) -> None:
    from asr_emapl.models.whisper import WhisperEncoderFeatures

    extractor = WhisperEncoderFeatures(str(root / "whisper.pt")).eval()
    audio, stored = read_manifest(root / "labelled.jsonl"), read_manifest(root / "features/labelled.jsonl")
    for one, other in zip(audio, stored, strict=True):
        assert (one.id, one.duration, one.text) == (other.id, other.duration, other.text)
        assert stored_by(one) is None
        assert stored_by(other) == extractor.fingerprint
        waveform = read_audio(one.source)
        expected, _ = extractor(waveform[None], torch.tensor([len(waveform)]))
        torch.testing.assert_close(read_features(other), expected[0].half().float())
        assert expected.shape[2] == DIM


@pytest.mark.parametrize("consistency", [0.0, 0.2])
def test_a_run_on_stored_features_is_that_on_the_audio(
    root: Path, tmp_path: Path, consistency: float
) -> None:
    """The losses agree to the precision of float16; masks, batches and clock are the same."""
    traces = {}
    unlabelled = {"audio": root / "unlabelled.jsonl", "stored": root / "features/unlabelled.jsonl"}
    for kind, manifest in unlabelled.items():
        data = stored_data(root) if kind == "stored" else stored_data(root)[2:]
        run = tiny_config(
            root,
            "pseudo_labels.strategy=ema",
            "pseudo_labels.start_hours=0.005",
            *settings(root),
            *data,
            f"data.unlabelled=[{manifest}]",
            f"loss.consistency={consistency}",
            f"run_dir={tmp_path / kind}",
        )
        train(run)
        traces[kind] = [line for line in read_log(tmp_path / kind / "log.jsonl") if "loss" in line]
    assert len(traces["audio"]) > 5
    for one, other in zip(traces["audio"], traces["stored"], strict=True):
        assert one["hours"] == other["hours"]
        assert one["loss"] == pytest.approx(other["loss"], rel=0.02)


def test_a_run_on_stored_features_decodes_audio_and_features(root: Path, tmp_path: Path) -> None:
    config = tiny_config(root, "hours=0.004", *settings(root), *stored_data(root), f"run_dir={tmp_path}/run")
    train(config)
    texts = {}
    for name, manifest in {"audio": root / "dev.jsonl", "stored": root / "features/dev.jsonl"}.items():
        out = tmp_path / f"{name}.jsonl"
        succeed("decode", "--checkpoint", tmp_path / "run", "--manifest", manifest, "--out", out)
        texts[name] = [(line.split('"text"')[1].split('"')[1]) for line in out.read_text().splitlines()]
    assert texts["audio"] == texts["stored"]
    assert len(texts["audio"]) == 4


def test_features_of_another_extractor_are_refused(root: Path, tmp_path: Path) -> None:
    # The model takes log-mel features of the same size.
    config = tiny_config(root, *stored_data(root), f"features.mel_bands={DIM}", f"run_dir={tmp_path}/run")
    with pytest.raises(UserError, match="extract them again"):
        train(config)


def test_perturbation_needs_audio(root: Path, tmp_path: Path) -> None:
    perturb = "perturb.speed={factors: [0.9, 1.1]}"
    config = tiny_config(root, *settings(root), *stored_data(root), perturb, f"run_dir={tmp_path}/run")
    with pytest.raises(UserError, match="perturb"):
        train(config)


def test_perturbation_needs_audio_in_each_manifest(root: Path, tmp_path: Path) -> None:
    mixed = f"data.labelled=[{root}/labelled.jsonl, {root}/features/labelled.jsonl]"
    weights, perturb = "data.labelled_weights=[1, 1]", "perturb.speed={factors: [0.9, 1.1]}"
    config = tiny_config(
        root, *settings(root), *stored_data(root), mixed, weights, perturb, f"run_dir={tmp_path}/run"
    )
    with pytest.raises(UserError, match="perturb"):
        train(config)


def test_manifests_of_both_kinds_need_weights(root: Path, tmp_path: Path) -> None:
    mixed = f"data.labelled=[{root}/labelled.jsonl, {root}/features/labelled.jsonl]"
    run = (*settings(root), *stored_data(root), mixed, "hours=0.004", f"run_dir={tmp_path}/run")
    with pytest.raises(UserError, match="labelled_weights"):
        train(tiny_config(root, *run))
    train(tiny_config(root, *run, "data.labelled_weights=[1, 1]"))


def test_a_mixed_manifest_is_an_error_without_a_traceback(root: Path, tmp_path: Path) -> None:
    rows = [*read_manifest(root / "labelled.jsonl"), *read_manifest(root / "features/labelled.jsonl")]
    rows = [replace(row, id=f"{i}") for i, row in enumerate(rows)]
    write_manifest(tmp_path / "mixed.jsonl", rows)
    mixed = f"data.labelled=[{tmp_path}/mixed.jsonl]"
    config = tiny_config(
        root, *settings(root), *stored_data(root), mixed, "data.workers=1", f"run_dir={tmp_path}/run"
    )
    with pytest.raises(UserError, match="one kind") as caught:
        train(config)
    assert "\n" not in str(caught.value)


def test_validation_features_are_checked_before_training(root: Path, tmp_path: Path) -> None:
    config = write_tiny_config(root)
    other = (*settings(root), "features.options.layers=1")
    succeed("extract-features", root / "dev.jsonl", "--config", config, "--out", tmp_path, *other)
    validation = f"data.validation={{dev: {tmp_path}/dev.jsonl}}"
    run = tiny_config(root, *settings(root), *stored_data(root), validation, f"run_dir={tmp_path}/run")
    with pytest.raises(UserError, match=r"data\.validation\.dev.*extract them again"):
        train(run)
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_audio_and_features_are_not_mixed_in_a_batch(root: Path) -> None:
    one, other = read_manifest(root / "dev.jsonl")[0], read_manifest(root / "features/dev.jsonl")[1]
    with pytest.raises(UserError, match="one kind"):
        collate([one, other])


def test_extraction_resumes_with_the_same_bytes(root: Path, tmp_path: Path) -> None:
    extractor = LogMel()
    files = FeatureFiles(extractor, torch.device("cpu"), workers=2)
    whole = write_shards(root / "labelled.jsonl", tmp_path / "whole", files, 0.1)
    assert len(whole.shards) > 2

    class Stops(FeatureFiles):
        def files(self, utterances):
            for i, file in enumerate(super().files(utterances)):
                if i == 9:
                    raise KeyboardInterrupt
                yield file

    with pytest.raises(KeyboardInterrupt):
        write_shards(
            root / "labelled.jsonl", tmp_path / "parts", Stops(extractor, torch.device("cpu"), 1), 0.1
        )
    resumed = write_shards(root / "labelled.jsonl", tmp_path / "parts", files, 0.1)
    for one, other in zip(whole.shards, resumed.shards, strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes()


def test_damaged_features_are_an_error(root: Path) -> None:
    stored = read_manifest(root / "features/dev.jsonl")[0]
    assert stored.byte_range is not None
    with pytest.raises(UserError, match="not those that were packed"):
        read_features(replace(stored, byte_range=replace(stored.byte_range, crc32=1)))
    audio = read_manifest(root / "dev.jsonl")[0]
    with pytest.raises(UserError, match="not stored features"):
        read_features(audio)


def test_commands_for_audio_name_the_cause(root: Path, tmp_path: Path) -> None:
    stored = root / "features/dev.jsonl"
    for codec in ("as-is", "flac"):
        assert "stored features, not audio" in fail("shard", stored, "--out", tmp_path, "--codec", codec)
    assert "stored features, not audio" in call("segment", stored, "--out", tmp_path / "cut.jsonl").err


def test_stored_features_are_no_damaged_audio(root: Path) -> None:
    assert "contradict" not in succeed("inspect", root / "features/dev.jsonl", "--audio")


def test_features_are_not_extracted_twice(root: Path, tmp_path: Path) -> None:
    message = extract(root, root / "features/dev.jsonl", tmp_path, fail)
    assert "already stored features" in message


def test_the_fingerprint_is_that_of_class_and_weights(tmp_path: Path, root: Path) -> None:
    from asr_emapl.models.whisper import WhisperEncoderFeatures

    path = str(root / "whisper.pt")
    first = WhisperEncoderFeatures(path).fingerprint
    assert first == WhisperEncoderFeatures(path).fingerprint
    assert first != WhisperEncoderFeatures(path, layers=1).fingerprint
    assert first != LogMel().fingerprint
    features, lengths_B = torch.zeros(1, 3, 80), torch.tensor([3])
    batch = StoredBatch(LogMel().fingerprint, [0.03])
    assert input_features(LogMel(), features, lengths_B, batch)[0] is features


def test_the_fingerprint_depends_on_options_that_are_not_weights(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "scaled_features.py").write_text(
        "from asr_emapl.audio.features import LogMel\n"
        "class Scaled(LogMel):\n"
        "    def __init__(self, gain=1.0):\n"
        "        super().__init__()\n"
        "        self.gain = gain\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def fingerprint(**options: float) -> str:
        features = FeatureConfig(extractor="scaled_features:Scaled", options=options)
        return build_features(features, ModelConfig(), USERS_OWN).fingerprint

    assert fingerprint(gain=2.0) == fingerprint(gain=2.0)
    assert len({fingerprint(), fingerprint(gain=2.0), fingerprint(gain=3.0)}) == 3


@pytest.mark.parametrize("name", ["log_mel", "waveform"])
def test_weights_that_would_be_ignored_are_an_error(name: str) -> None:
    with pytest.raises(UserError, match="not used by"):
        build_features(FeatureConfig(extractor=name, weights="a.pt"), ModelConfig(), USERS_OWN)


def test_waveforms_are_not_stored_as_features() -> None:
    with pytest.raises(UserError, match="no features to store"):
        FeatureFiles(Waveform(), torch.device("cpu"), 1)

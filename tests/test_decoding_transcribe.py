"""Results do not depend on batches and order, each utterance has one, the model's mode is restored."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from asr_emapl.audio.features import FeatureConfig, LogMel
from asr_emapl.data.utterance import Utterance
from asr_emapl.decoding import transcribe as transcribe_module
from asr_emapl.decoding.transcribe import Hypothesis, Recognizer, hypotheses, posteriors
from asr_emapl.models.transformer import TransformerCtc
from asr_emapl.text.tokenizer import CharacterTokenizer

SECONDS = [0.3, 1.0, 0.05, 2.0, 0.7, 0.7, 0.02]


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """Noise with a rising tone; the last utterance is part of another one's file."""
    folder = tmp_path_factory.mktemp("audio")
    made = []
    for i, seconds in enumerate(SECONDS):
        time = np.arange(round(16_000 * seconds)) / 16_000
        tone = np.sin(2 * np.pi * (200 + 300 * i + 500 * time) * time)
        path = folder / f"u{i}.wav"
        soundfile.write(path, 0.3 * tone + 0.05 * np.random.default_rng(i).standard_normal(len(time)), 16_000)
        made.append(Utterance(f"u{i}", str(path), seconds))
    made.append(Utterance("part", made[3].audio, 0.5, offset=0.8))
    return made


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    made = TransformerCtc(CharacterTokenizer().vocabulary_size, 20, dim=16, heads=2, layers=2)
    with torch.no_grad():
        made.output.weight.mul_(20.0)  # texts of many characters, far from ties
    return made


FEATURES = LogMel(FeatureConfig(mel_bands=20))


def run(
    model: nn.Module, utterances: list[Utterance], max_seconds: float = 5.0, **options
) -> list[Hypothesis]:
    cpu = torch.device("cpu")
    batches = posteriors([model], FEATURES, utterances, device=cpu, max_seconds=max_seconds, **options)
    return [h for (batch,) in batches for h in hypotheses(batch, CharacterTokenizer())]


def test_each_utterance_once_longest_first(model, utterances) -> None:
    hypotheses = run(model, utterances)
    assert [h.id for h in hypotheses] == ["u3", "u1", "u4", "u5", "part", "u0", "u2", "u6"]
    assert all(0.0 < h.confidence <= 1.0 for h in hypotheses)
    assert len({h.text for h in hypotheses}) >= 4


@pytest.mark.parametrize("max_seconds", [0.01, 2.0, 2.5, 1_000.0])
def test_results_do_not_depend_on_the_batches(model, utterances, max_seconds) -> None:
    expected, given = run(model, utterances), run(model, utterances, max_seconds)
    assert [(h.id, h.text) for h in given] == [(h.id, h.text) for h in expected]
    assert [h.confidence for h in given] == pytest.approx([h.confidence for h in expected], abs=1e-5)


@pytest.mark.parametrize("world_size", [2, 3, 50])
def test_processes_share_the_batches_and_make_equally_many_passes(model, utterances, world_size) -> None:
    made, passes, together = [], [0], {}
    handle = model.register_forward_pre_hook(lambda *_: made.append(None))
    for rank in range(world_size):
        together |= {h.id: h for h in run(model, utterances, rank=rank, world_size=world_size)}
        passes.append(len(made))
    handle.remove()
    assert together == {h.id: h for h in run(model, utterances)}
    assert len(set(np.diff(passes))) == 1


def test_results_do_not_depend_on_the_order(model, utterances) -> None:
    assert run(model, utterances[::-1]) == run(model, utterances)


def test_results_do_not_depend_on_the_rest_of_the_batch(model, utterances) -> None:
    together = {h.id: h for h in run(model, utterances, 1_000.0)}
    for utterance in utterances:
        (alone,) = run(model, [utterance])
        assert (alone.id, alone.text) == (utterance.id, together[utterance.id].text)
        assert alone.confidence == pytest.approx(together[utterance.id].confidence, abs=1e-5)


@pytest.mark.parametrize("max_seconds", [0.5, 1.5, 2.5, 6.0])
def test_batches_keep_to_the_limit(model, utterances, max_seconds) -> None:
    sizes = []
    handle = model.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape))
    try:
        run(model, utterances, max_seconds)
    finally:
        handle.remove()
    assert sum(size[0] for size in sizes) == len(utterances)
    # Frames of 10 ms; the longest utterance, of 2 s, counts as fitting.
    assert all(size[0] * size[1] * 0.01 <= max(max_seconds, 2.0) for size in sizes)


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(model, utterances, training) -> None:
    model.train(training)
    expected = run(model, utterances[:2])
    assert model.training is training
    assert run(model, utterances[:2]) == expected


def test_mode_is_restored_after_close_and_errors(model, utterances) -> None:
    model.train()
    recognizer = Recognizer(model, FEATURES, CharacterTokenizer(), torch.device("cpu"))
    walk = recognizer(utterances, max_seconds=0.1)
    next(walk)
    assert not model.training
    walk.close()
    assert model.training
    missing = Utterance("gone", str(Path(utterances[0].audio).with_name("gone.wav")), 0.5)
    with pytest.raises(Exception, match=r"gone\.wav"):
        run(model, [missing])
    assert model.training


def test_audio_is_decoded_once_for_several_models(model, utterances, monkeypatch) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.output.weight.neg_()
    alone = [run(one, utterances) for one in (model, other)]
    read, count = transcribe_module.collate, []
    monkeypatch.setattr(transcribe_module, "collate", lambda *a: count.append(1) or read(*a))
    cpu = torch.device("cpu")
    batches = list(posteriors([model, other], FEATURES, utterances, device=cpu, max_seconds=5.0))
    assert len(count) == len(batches)
    together = [[], []]
    for batch in batches:
        for found, one in zip(together, batch, strict=True):
            found += hypotheses(one, CharacterTokenizer())
    assert together == alone
    assert [h.text for h in alone[0]] != [h.text for h in alone[1]]


def test_nothing_to_transcribe(model) -> None:
    assert run(model, []) == []


def test_bf16_is_near(model, utterances) -> None:
    exact = {h.id: h for h in run(model, utterances)}
    for rounded in run(model, utterances, bf16=True):
        assert rounded.confidence == pytest.approx(exact[rounded.id].confidence, abs=0.05)


def test_no_gradients_and_no_draws(model, utterances) -> None:
    model.train()
    before = torch.get_rng_state()
    run(model, utterances[:3])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())

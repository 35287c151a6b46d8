"""Labels of one model, of several, and of a file: the texts of `decode`, for any batches and parts."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support.tiny import make_corpus, tiny_config
from torch import nn

from asr_emapl.audio.features import FeatureConfig, LogMel
from asr_emapl.data.loader import collate
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.decoding.beam import BeamConfig, BeamSearch
from asr_emapl.decoding.labellers import (
    HypothesisLabeller,
    LabellingConfig,
    ModelLabeller,
    model_provenance,
)
from asr_emapl.decoding.transcribe import Recognizer, mean_posteriors
from asr_emapl.decoding.tuning import write_config
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.ema import EmaTeacher
from asr_emapl.errors import UserError
from asr_emapl.models.transformer import TransformerCtc
from asr_emapl.objectives.ctc import CtcObjective
from asr_emapl.pseudo_labels.labelling import UtteranceLabel
from asr_emapl.run_labels.build import build_searches, build_strategy
from asr_emapl.runs.phases import Phases
from asr_emapl.text.tokenizer import CharacterTokenizer

BANDS = 20


@pytest.fixture(scope="module")
def utterances(tmp_path_factory) -> list[Utterance]:
    root = tmp_path_factory.mktemp("corpus")
    make_corpus(root)
    return read_manifest(root / "unlabelled.jsonl")


def recognizer(seed: int = 0, bands: int = BANDS, alphabet: str = "") -> Recognizer:
    torch.manual_seed(seed)
    tokenizer = CharacterTokenizer(alphabet) if alphabet else CharacterTokenizer()
    model = TransformerCtc(tokenizer.vocabulary_size, bands, dim=16, heads=2, layers=2)
    with torch.no_grad():
        model.output.weight.mul_(20.0)  # texts of many characters, far from ties
    return Recognizer(model, LogMel(FeatureConfig(mel_bands=bands)), tokenizer, torch.device("cpu"))


def labels(
    recognizers: list[Recognizer], parts: list[list[Utterance]], search=None, **config
) -> list[list[UtteranceLabel]]:
    seconds: list[float] = []
    labeller = ModelLabeller(recognizers, search, LabellingConfig(**config), {})
    found = list(labeller.label(parts, seconds.append))
    assert sum(seconds) == pytest.approx(sum(u.duration for part in parts for u in part))
    return found


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_each_part_has_its_labels_in_order(utterances, threads):
    one = recognizer()
    expected = {h.id: h for h in one(utterances)}
    parts = [utterances[:7], utterances[7:8], utterances[8:]]
    found = labels([one], parts, threads=threads, max_seconds=4.0)
    assert [[label.utterance for label in part] for part in found] == parts
    for label in (label for part in found for label in part):
        hypothesis = expected[label.utterance.id]
        assert label.text == hypothesis.text
        assert label.confidence == pytest.approx(hypothesis.confidence, abs=1e-5)
        assert label.tokens == hypothesis.tokens >= len(label.text)
        assert label.words is None
    assert len({label.text for part in found for label in part}) > 20


ARPA = r"""
\data\
ngram 1=6
ngram 2=1

\1-grams:
-99|<s>|0
-1.0|</s>
-0.3|ADA|0
-0.9|BOB|0
-1.1|CLIO|0
-3.0|<unk>

\2-grams:
-0.2|ADA BOB

\end\
""".replace("|", "\t")


@pytest.mark.parametrize("confidence", ["frames", "tokens"])
@pytest.mark.parametrize(
    "search",
    [
        "greedy",
        pytest.param(
            "beam", marks=pytest.mark.skipif(find_spec("kenlm") is None, reason="needs the extra lm")
        ),
    ],
)
def test_labels_are_those_of_a_training(utterances, tmp_path, search, confidence):
    """Also of an utterance with digital silence, in which the model alone recognises something."""
    one, overrides = recognizer(), [f"pseudo_labels.confidence={confidence}"]
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000).astype(np.float32)
    wave[10_000:25_000] = 0.0
    soundfile.write(tmp_path / "pause.flac", wave, 16_000)
    audio = [*utterances[:9], Utterance("pause", str(tmp_path / "pause.flac"), 2.5)]
    beam = None
    if search == "beam":
        (tmp_path / "lm.arpa").write_text(ARPA)
        beam = BeamConfig(8, str(tmp_path / "lm.arpa"), str(tmp_path / "lm.arpa"))
        write_config(tmp_path / "lm.json", beam)
        overrides.append(f"pseudo_labels.lm_config={tmp_path / 'lm.json'}")
    (found,) = labels([one], [audio], beam and BeamSearch(one.tokenizer, beam), confidence=confidence)

    make_corpus(tmp_path)
    config = tiny_config(tmp_path, "pseudo_labels.strategy=ema", *overrides)
    teacher = EmaTeacher(one.model, half_life=100.0)
    searches = build_searches(config, one.tokenizer)
    models = (teacher, one.model, None, searches)
    strategy = build_strategy(config, one.tokenizer, *models, one.features, len(audio))
    world = ProcessGroup(0, 1, torch.device("cpu"))
    objective = CtcObjective(world, one.features, one.model, strategy, None, Phases(world.device))
    of_training = []
    for batch in (audio[:4], audio[4:]):
        micro = collate(batch)
        of_training += strategy.labels(objective.request(micro, micro)).result().to_list()
    for label, other in zip(found, of_training, strict=True):
        assert label.text == one.tokenizer.decode(other.tokens)
        assert label.tokens == len(other.tokens) > 3
        assert label.confidence == pytest.approx(other.confidence, abs=1e-5)
    strategy.labeller.frame_seconds = None
    (without,) = strategy.labels(objective.request(*[collate(audio[9:])] * 2)).result().to_list()
    assert one.tokenizer.decode(without.tokens) != found[9].text


def test_a_part_does_not_depend_on_the_others(utterances):
    """Bit for bit, so that parts can be dealt to any number of processes."""
    one = recognizer()
    (alone,) = labels([one], [utterances[5:12]], threads=2)
    _, together, _ = labels([one], [utterances[:5], utterances[5:12], utterances[12:]], threads=2)
    assert alone == together


def test_words_have_times(utterances):
    (found,) = labels([recognizer()], [utterances], times=True)
    for label in found:
        assert " ".join(str(word["word"]) for word in label.words) == label.text
        times = [(word["begin"], word["end"]) for word in label.words]
        assert all(0.0 <= begin <= end <= label.utterance.duration + 6e-4 for begin, end in times)
        assert times == sorted(times)


def test_confidence_of_the_tokens_with_and_without_times(utterances):
    (frames,) = labels([recognizer()], [utterances])
    (tokens,) = labels([recognizer()], [utterances], confidence="tokens")
    (timed,) = labels([recognizer()], [utterances], confidence="tokens", times=True)
    sure = [label.confidence for label in tokens]
    assert sure == pytest.approx([label.confidence for label in timed], abs=1e-6)
    assert sure != pytest.approx([label.confidence for label in frames], abs=1e-3)
    assert all(0.0 <= confidence <= 1.0 for confidence in sure)


def test_several_models_are_averaged(utterances):
    first, second = recognizer(0), recognizer(1)
    (twice,) = labels([first, first], [utterances])
    (once,) = labels([first], [utterances])
    assert [label.text for label in twice] == [label.text for label in once]
    assert [label.confidence for label in twice] == pytest.approx(
        [label.confidence for label in once], abs=1e-5
    )
    (both,) = labels([first, second], [utterances])
    (other,) = labels([second, first], [utterances])
    assert [label.text for label in both] == [label.text for label in other]
    assert [label.text for label in both] != [label.text for label in once]


def test_the_mean_is_the_normalised_geometric_mean(utterances):
    (batch,) = recognizer(0).posteriors(utterances[:3])
    (other,) = recognizer(1).posteriors(utterances[:3])
    mean = mean_posteriors([batch, other])
    product = (batch.log_probs_BTV.exp() * other.log_probs_BTV.exp()).sqrt()
    expected = product / product.sum(-1, keepdim=True)
    torch.testing.assert_close(mean.log_probs_BTV.exp(), expected)
    assert mean_posteriors([batch]) is batch


@pytest.mark.parametrize(
    ("other", "said"), [({"bands": 40}, "features"), ({"alphabet": "ABC "}, "tokenizers")]
)
def test_models_that_cannot_be_averaged(other, said):
    with pytest.raises(UserError, match=f"have different {said}"):
        ModelLabeller([recognizer(), recognizer(**other)], None, LabellingConfig(), {})


def test_models_of_other_strides_cannot_be_averaged(utterances):
    slow = recognizer()
    slow.model = _EverySecond(slow.model)
    with pytest.raises(UserError, match="have different strides"):
        ModelLabeller([recognizer(), slow], None, LabellingConfig(), {})


class _EverySecond(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def output_lengths(self, lengths):
        return self.model.output_lengths(lengths) // 2


@pytest.fixture
def broken(utterances, tmp_path) -> list[Utterance]:
    (tmp_path / "broken.flac").write_bytes(b"fLaC and then nothing")
    return [Utterance(f"broken-{i}", str(tmp_path / "broken.flac"), 1.0) for i in range(30)]


@pytest.mark.parametrize("threads", [0, 2])
def test_what_cannot_be_decoded_says_why(utterances, broken, threads):
    part = [broken[0], *utterances[:3], broken[1]]
    found = labels([recognizer()], [part, [broken[2]], utterances[3:]], threads=threads)
    assert [label.utterance for label in found[0]] == part
    assert ["broken.flac" in label.fault for label in found[0]] == [True, False, False, False, True]
    assert found[0][0].text == ""
    assert [len(of_part) for of_part in found] == [5, 1, len(utterances) - 3]


def test_a_disk_that_fails_is_not_taken_for_broken_files(utterances, broken):
    with pytest.raises(UserError, match=r"30 of 34 utterances.*--max-undecodable 0\.01.*broken\.flac"):
        labels([recognizer()], [[*broken, *utterances[:4]]])
    (found,) = labels([recognizer()], [[*broken, *utterances[:4]]], max_undecodable=0.9)
    assert sum(bool(label.fault) for label in found) == 30


def test_provenance_has_hashes_and_settings(tmp_path):
    one = recognizer()
    one.path = tmp_path / "a.pt"
    one.path.write_bytes(b"weights")
    found = model_provenance([one, one], "student", None, LabellingConfig(bf16=True))
    assert found["model"] == "student"
    decoder = {"search": "greedy", "precision": "bf16", "times": False, "confidence": "frames"}
    assert found["decoder"] == decoder
    assert found["checkpoints"] == [hashlib.sha256(b"weights").hexdigest()] * 2


def test_hypotheses_of_another_recogniser(utterances, tmp_path):
    path = tmp_path / "theirs.jsonl"
    rows = [{"id": u.id, "text": " ONE  TWO ", "confidence": 0.5} for u in utterances[:2]]
    rows.append({"id": utterances[2].id, "pred_text": ""})
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    labeller = HypothesisLabeller(path)
    seconds: list[float] = []
    (found,) = labeller.label([utterances[:4]], seconds.append)
    assert [(label.text, label.confidence, label.tokens) for label in found[:3]] == [
        *[("ONE TWO", 0.5, 7)] * 2,
        ("", None, 0),
    ]
    assert "theirs.jsonl" in found[3].fault
    with pytest.raises(UserError, match=r"1 hypotheses have no confidence.*omit --min-confidence"):
        HypothesisLabeller(path, needs_confidence=True)


def test_a_file_of_words_has_hypotheses_too(utterances, tmp_path):
    path = Path(tmp_path, "words.trn")
    path.write_text(f"ONE TWO ({utterances[0].id})\n")
    (found,) = HypothesisLabeller(path).label([utterances[:1]], lambda seconds: None)
    assert found[0].text == "ONE TWO"

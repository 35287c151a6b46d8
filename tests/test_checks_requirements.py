"""Requirements: the run's own limits, batch and model; what it cannot align is what training drops."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import make_corpus, tiny_config
from test_cli import fail, succeed
from torch import nn

from asr_emapl.checks.requirements import alignment, read_requirements
from asr_emapl.ctc import alignable
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.models.target import USERS_OWN
from asr_emapl.text.tokenizer import CharacterTokenizer


class LooksAtItsWeights(nn.Module):
    """A model of the contract that cannot be built without memory: a frame out for every 16 in."""

    def __init__(self, vocabulary_size: int, input_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, vocabulary_size)
        self.norm = self.linear.weight.norm().item()

    def forward(self, features, lengths):
        return self.linear(features[:, ::16]).log_softmax(-1), self.output_lengths(lengths)

    def output_lengths(self, lengths):
        return (lengths + 15) // 16


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    make_corpus(root)
    tiny_config(root)
    return root


def test_limits_and_batch_are_the_runs(corpus):
    demands = read_requirements(corpus / "tiny.yaml", None, None)
    # device.max_seconds and the batch are 6 s, data.max_seconds is not.
    assert (demands.min_seconds, demands.max_seconds, demands.batch_seconds) == (0.2, 6.0, 6.0)
    assert demands.tokenizer == CharacterTokenizer()
    other = read_requirements(corpus / "tiny.yaml", None, 4.0)
    assert (other.max_seconds, other.batch_seconds) == (4.0, 4.0)


def test_without_a_config_no_model_is_known():
    demands = read_requirements(None, None, None)
    assert demands.alignable is None
    assert demands.batch_seconds == 60.0


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_batches_that_are_none(seconds):
    with pytest.raises(UserError, match="positive number"):
        read_requirements(None, None, seconds)


@settings(max_examples=60)
@given(seconds=st.floats(0.05, 3.0), text=st.text("AB ", max_size=60))
def test_it_is_the_trainers_own_judgement(corpus, seconds, text):
    config = tiny_config(corpus)
    utterance = Utterance("u", "/u", seconds, text)
    tokenizer = CharacterTokenizer()
    model = tiny_model(config)
    frames = max(1, (utterance.samples - 400) // 160 + 1)
    out = int(model.output_lengths(torch.tensor([frames]))[0])
    assert alignment(config, tokenizer)([utterance]) == [alignable(tokenizer.encode(text), out)]


def tiny_model(config):
    from asr_emapl.models.contract import build_model

    return build_model(config.model, vocabulary_size=28, input_size=80)


def test_a_model_that_looks_at_its_weights(corpus):
    target = "model.target=test_checks_requirements:LooksAtItsWeights"
    config = tiny_config(corpus, target, "model.options={}")
    config.model.options = {}
    fits = alignment(config, CharacterTokenizer(), USERS_OWN)
    # One second is 98 frames in and 7 out.
    assert fits([Utterance("a", "/a", 1.0, "SEVENTH"), Utterance("b", "/b", 1.0, "EIGHTHLY")]) == [
        True,
        False,
    ]
    assert fits([Utterance("c", "/c", 1.0, "LETTERS")]) == [False], "the repeat needs a blank"


def test_the_command(corpus, tmp_path):
    config, labelled = corpus / "tiny.yaml", corpus / "labelled.jsonl"
    told = succeed("inspect", labelled, "--config", config, "--png", tmp_path / "l.png")
    assert told.endswith("nothing to fix\n")
    assert (tmp_path / "l.png").stat().st_size > 1000
    assert "16" in told

    bad = tmp_path / "bad.jsonl"
    write_manifest(
        bad, [Utterance("a", "/absent.wav", 1.0, "ABCDEFG" * 20), Utterance("b", "/b.wav", 9.0, "")]
    )
    lines = succeed("inspect", bad, "--config", config).splitlines()
    listed = lines[lines.index("what to fix") + 1 :]
    assert [line[:2] for line in listed if line[0] != " "] == ["1.", "2.", "3."]
    plain = json.loads(succeed("inspect", bad, labelled, "--config", config, "--audio", "--json"))
    problems = [finding["problem"] for finding in plain["findings"]]
    assert len(problems) == 4, problems
    assert "audio files that contradict" in problems[-1]
    assert len(plain["contents"]) == 2

    assert "absent.jsonl" in fail("inspect", tmp_path / "absent.jsonl")
    assert "not-there.json" in fail("inspect", labelled, "--tokenizer", tmp_path / "not-there.json")

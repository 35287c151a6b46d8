"""Changes and WER of pseudo-labels over a run, whatever the processes and interruptions."""

from __future__ import annotations

import pytest
import torch

from asr_emapl.data.utterance import Utterance
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.pseudo_labels.labels import Label
from asr_emapl.text.tokenizer import CharacterTokenizer
from asr_emapl.training import label_monitor
from asr_emapl.training.label_monitor import LabelMonitor

ALONE = ProcessGroup(0, 1, torch.device("cpu"))
TOKENIZER = CharacterTokenizer()
TEXTS = ["ONE TWO", "THREE", None, "not spelled so"]


def monitor() -> LabelMonitor:
    utterances = [Utterance(str(i), "a.wav", 1.0, text) for i, text in enumerate(TEXTS)]
    return LabelMonitor(utterances, TOKENIZER)


def label(text: str) -> Label:
    return Label(TOKENIZER.encode(text))


def test_wer_of_labels_with_a_transcript():
    watch = monitor()
    watch.observe(0, {0: label("ONE TOO"), 1: label("THREE"), 2: label("X"), 3: label("Y")})
    assert watch.collect(ALONE) == {"utterances": 4, "label_wer": pytest.approx(100.0 / 3)}
    assert watch.collect(ALONE) == {}


def test_change_since_the_previous_pass():
    watch = monitor()
    watch.observe(0, {2: label("ABCD"), 3: label("AB")})
    watch.collect(ALONE)
    watch.observe(1, {2: label("ABCE")})
    watch.observe(2, {2: label("ABCE")})
    assert watch.collect(ALONE) == {"utterances": 2, "revisited": 2, "changed": 0.125}


def test_it_goes_on_from_its_state():
    whole, first = monitor(), monitor()
    for watch in (whole, first):
        watch.observe(0, {0: label("ONE"), 1: label("TEN")})
        watch.collect(ALONE)
        watch.observe(1, {0: label("ONE TWO")})
    resumed = monitor()
    resumed.load_state_dict(first.state_dict(ALONE), ALONE)
    for watch in (whole, first, resumed):
        watch.observe(2, {1: label("THREE")})
    assert whole.collect(ALONE) == first.collect(ALONE) == resumed.collect(ALONE)


def test_only_a_sample_is_compared(monkeypatch):
    monkeypatch.setattr(label_monitor, "SAMPLE", 2)
    watch = monitor()
    watch.observe(0, {row: label("A") for row in range(4)})
    assert watch.collect(ALONE)["utterances"] == 2

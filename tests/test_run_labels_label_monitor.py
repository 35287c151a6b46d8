"""Changes and WER of pseudo-labels over a run, whatever the processes and interruptions."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import pytest
import torch

from asr_emapl.data.corpus import Corpus
from asr_emapl.data.utterance import Utterance
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.pseudo_labels.labels import Label
from asr_emapl.run_labels import label_monitor
from asr_emapl.run_labels.label_monitor import LabelMonitor
from asr_emapl.text.tokenizer import CharacterTokenizer

ALONE = ProcessGroup(0, 1, torch.device("cpu"))
TOKENIZER = CharacterTokenizer()
TEXTS = ["ONE TWO", "THREE", None, "not spelled so"]


def monitor(*, has_second: bool = False) -> LabelMonitor:
    utterances = [Utterance(str(i), "a.wav", 1.0, text, offset=2.0 * i) for i, text in enumerate(TEXTS)]
    return LabelMonitor(Corpus(utterances, None), TOKENIZER, has_second=has_second)


def label(text: str, confidence: float = 1.0) -> Label:
    return Label(TOKENIZER.encode(text), confidence)


def test_wer_of_labels_with_a_transcript():
    watch = monitor()
    watch.observe(0, {0: label("ONE TOO"), 1: label("THREE"), 2: label("X"), 3: label("Y")}, {})
    found = watch.collect(ALONE)
    assert found["utterances"] == 4
    assert found["label_wer"] == pytest.approx(100.0 / 3)
    assert "changed" not in found
    assert watch.collect(ALONE) == {}


def test_change_since_the_previous_pass():
    watch = monitor()
    watch.observe(0, {2: label("ABCD"), 3: label("AB")}, {})
    watch.collect(ALONE)
    watch.observe(1, {2: label("ABCE")}, {})
    watch.observe(2, {2: label("ABCE")}, {})
    found = watch.collect(ALONE)
    assert (found["utterances"], found["revisited"], found["changed"]) == (2, 2, 0.125)


def test_tokens_and_words_are_compared_with_those_of_the_first_label():
    watch = monitor()
    watch.observe(0, {2: label("AB CD EF"), 3: label("GH IJ")}, {})
    watch.observe(1, {2: label("AB CD"), 3: label("GH IJ")}, {})
    watch.collect(ALONE)
    watch.observe(2, {2: label("AB"), 3: label("GH IJ")}, {})
    found = watch.collect(ALONE)
    assert found["kept_words"] == pytest.approx(3 / 5)
    assert found["kept_tokens"] == pytest.approx((2 + 5) / (8 + 5))


def test_audio_is_counted_by_the_reason_why_it_is_dropped():
    watch = monitor()
    watch.observe(0, {row: label("A") for row in range(4)}, {1: "loop", 3: "low_confidence"})
    second = 1.0 / 3600.0
    expected = {"kept": 2 * second, "loop": second, "low_confidence": second}
    assert watch.collect(ALONE)["audio_hours"] == pytest.approx(expected)


def test_audio_is_that_of_all_labels_and_not_of_a_sample(monkeypatch):
    monkeypatch.setattr(label_monitor, "SAMPLE", 1)
    watch = monitor()
    watch.observe(0, {row: label("A") for row in range(4)}, {})
    watch.observe(1, {3: label("A")}, {})
    assert watch.collect(ALONE)["audio_hours"] == pytest.approx({"kept": 5.0 / 3600.0})
    watch.observe(2, {3: label("A")}, {})  # not in the sample
    assert watch.collect(ALONE) == {"utterances": 0, "audio_hours": pytest.approx({"kept": 1.0 / 3600.0})}


def test_scores_are_means_over_the_labels_that_have_them():
    watch = monitor(has_second=True)
    watch.observe(0, {0: Label([1], 0.5, 0.25, 0.75), 1: Label([2], 0.5, 0.75), 2: Label([3], 0.5, 0.5)}, {})
    found = watch.collect(ALONE)
    assert (found["blank_share"], found["agreement"]) == (0.75, 0.5)
    alone = monitor()
    alone.observe(0, {0: label("ONE")}, {})
    assert not {"blank_share", "agreement"} & alone.collect(ALONE).keys()


def test_some_utterances_are_followed(monkeypatch):
    monkeypatch.setattr(label_monitor, "FOLLOWED", 2)
    watch = monitor()
    for step, text in enumerate(["ONE", "ONE TWO"]):
        watch.observe(step, {row: label(text, 0.5) for row in range(4)}, {})
    followed = watch.collect(ALONE)["followed"]
    assert [(one["id"], one["step"], one["text"], one["confidence"]) for one in followed] == [
        (id_, step, text, 0.5) for step, text in enumerate(["ONE", "ONE TWO"]) for id_ in "03"
    ]
    first, last = followed[:2]
    assert (first["transcript"], last["transcript"]) == ("ONE TWO", "not spelled so")
    assert (last["audio"][-5:], last["offset"], last["duration"]) == ("a.wav", 6.0, 1.0)


def test_kept_and_dropped_labels_are_sampled_with_their_audio():
    watch = monitor()
    watch.observe(3, {0: label("ONE"), 1: label("")}, {1: "empty"})
    empty, kept = watch.sampled()
    assert (kept["reason"], kept["id"], kept["text"], kept["transcript"]) == ("kept", "0", "ONE", "ONE TWO")
    assert (empty["reason"], empty["step"], empty["text"]) == ("empty", 3, "")
    assert kept["audio"].endswith("a.wav")


def test_it_goes_on_from_its_state():
    whole, first = monitor(), monitor()
    for watch in (whole, first):
        watch.observe(0, {0: label("ONE"), 1: label("TEN")}, {1: "loop"})
        watch.collect(ALONE)
        watch.observe(1, {0: label("ONE TWO")}, {})
    resumed = monitor()
    resumed.load_state_dict(first.state_dict(ALONE), ALONE)
    for watch in (whole, first, resumed):
        watch.observe(2, {1: label("THREE")}, {})
    assert whole.collect(ALONE) == first.collect(ALONE) == resumed.collect(ALONE)
    assert whole.sampled() == first.sampled() == resumed.sampled()


def test_only_a_sample_is_compared(monkeypatch):
    monkeypatch.setattr(label_monitor, "SAMPLE", 2)
    watch = monitor()
    watch.observe(0, {row: label("A") for row in range(4)}, {})
    assert watch.collect(ALONE)["utterances"] == 2


def test_several_processes_see_what_one_sees():
    """Two processes with the labels of a step each; the second saves and resumes like the first."""
    whole, one, two = monitor(), monitor(), monitor()
    labels, reasons = {0: Label([1, 2], float("nan")), 3: label("X")}, {0: "low_confidence"}
    whole.observe(0, {1: label("ONE")}, {})
    whole.observe(0, labels, reasons)
    one.observe(0, {1: label("ONE")}, {})
    two.observe(0, labels, reasons)
    states, found = _together(one.state_dict, two.state_dict), _together(one.collect, two.collect)
    assert repr(states[0]) == repr(states[1]) == repr(whole.state_dict(ALONE))
    assert found[0] == found[1] == whole.collect(ALONE)
    assert one.sampled() == two.sampled() == whole.sampled()


def _together(*calls):
    """The results of calls that gather one value each, as on two processes."""
    with ThreadPoolExecutor(2) as pool:
        meeting, values = Barrier(2), [None, None]

        def gathering(rank):
            def gather(value):
                values[rank] = pickle.dumps(value)
                meeting.wait(5.0)
                return [pickle.loads(one) for one in values]

            return SimpleNamespace(gather=gather, is_first=rank == 0)

        running = [pool.submit(call, gathering(rank)) for rank, call in enumerate(calls)]
        return [one.result() for one in running]

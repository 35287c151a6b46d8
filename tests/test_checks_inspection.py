"""Inspection: each thing that is wrong is found, named and counted, and nothing is found in what is right."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.audio.source import ByteRange
from asr_emapl.checks.inspection import Requirements, inspect_manifests, with_audio
from asr_emapl.checks.inspection_result import Contents, Finding
from asr_emapl.data.batch_plan import BatchConfig
from asr_emapl.data.utterance import Utterance
from asr_emapl.text.tokenizer import CharacterTokenizer, SentencePieceTokenizer

DEMANDS = Requirements(CharacterTokenizer(), 0.2, 20.0, 60.0, BatchConfig())
TEXT = "TWELVE WORDS OF TEXT THAT ANYONE COULD READ IN SECONDS"


def good(count: int = 30, prefix: str = "u") -> list[Utterance]:
    """Utterances with nothing to fix: about 14 characters per second."""
    rng = np.random.default_rng(ord(prefix))
    return [
        Utterance(
            f"{prefix}{i}", f"/c/{prefix}{i}.flac", float(s), TEXT[: int(14 * s)].strip(), f"{prefix}s{i % 3}"
        )
        for i, s in enumerate(rng.uniform(1.5, 3.5, count))
    ]


def changed(index: int = 3, **fields: object) -> list[Utterance]:
    utterances = good()
    utterances[index] = dataclasses.replace(utterances[index], **fields)
    return utterances


def findings(*manifests: list[Utterance], demands: Requirements = DEMANDS) -> list[Finding]:
    return inspect_manifests({f"{i}.jsonl": us for i, us in enumerate(manifests)}, demands).findings


def one(*manifests: list[Utterance], demands: Requirements = DEMANDS) -> Finding:
    (found,) = findings(*manifests, demands=demands)
    assert found.remedy
    return found


def test_nothing_is_found_in_what_is_right():
    assert findings(good()) == []
    assert findings(good(), good(prefix="v")) == []
    assert findings([dataclasses.replace(u, text=None, speaker=None) for u in good()]) == []


def test_letters_outside_the_alphabet_are_counted():
    found = one(changed(text="CAF\u00c9 7 \u00c9T\u00c9\t" + TEXT[:20]))
    assert found.problem.startswith("1 utterance has characters outside the alphabet: '\u00c9' (3), ")
    assert "'7' (1)" in found.problem
    assert "'\\t' (1)" in found.problem
    assert found.examples == ["u3"]


@pytest.mark.parametrize("letter", ["]", "^", "-", "\\"])
def test_letters_that_mean_something_in_a_pattern(letter):
    found = one([*good(), dataclasses.replace(good()[0], id="x", audio="/x", text=f"A{letter}B {TEXT[:20]}")])
    assert found.examples == ["x"]
    assert repr(letter) in found.problem


def test_letters_outside_a_sentencepiece_model():
    tokenizer = SentencePieceTokenizer.train([TEXT, "QUICK BROWN FOX JUMPS OVER LAZY DOGS"] * 5, 40, "bpe")
    demands = dataclasses.replace(DEMANDS, tokenizer=tokenizer)
    assert findings(good(), demands=demands) == []
    assert "'7' (1)" in one(changed(text="7 " + TEXT[:30]), demands=demands).problem


@pytest.mark.parametrize("text", ["", "  "])
def test_empty_transcripts(text):
    found = one(changed(text=text))
    assert found.problem == "1 utterance has an empty transcript"
    assert found.examples == ["u3"]


def test_transcripts_beside_none():
    assert one(changed(text=None)).problem == "1 utterance has no transcript, in a manifest with transcripts"
    # A manifest for either kind is as it should be.
    assert findings(good(), [dataclasses.replace(u, text=None) for u in good(prefix="v")]) == []


def test_lengths_outside_the_limits():
    short, long_ = findings([*good(), Utterance("a", "/a", 0.1), Utterance("b", "/b", 21.0)][-2:])
    assert "1 utterance has a length below 0.2 s" in short.problem
    assert "1 utterance has a length above 20 s (0.01 h)" in long_.problem
    assert (short.examples, long_.examples) == (["a"], ["b"])


def test_speaking_rates_far_from_the_others():
    found = one([*changed(text="NO", duration=9.0), Utterance("fast", "/f", 1.0, TEXT)])
    assert found.problem.startswith("2 utterances have a speaking rate")
    # The oddest first.
    assert [example.split()[0] for example in found.examples] == ["u3", "fast"]
    # Silence around a word is no slow speech, and of a few nobody knows what is usual.
    assert findings(changed(text="NO", duration=1.3)) == []
    assert findings([*good(3), Utterance("fast", "/f", 1.0, TEXT)]) == []


def test_the_same_audio_twice():
    copy = good()[3]
    found = one([*good(), dataclasses.replace(copy, id="x"), dataclasses.replace(copy, id="y")])
    assert found.problem == "the same audio (file and offset) more than once: 2 duplicates"
    assert found.examples == ["u3 = x = y"]
    # Another stretch of the file is another utterance.
    assert (
        findings([*good(), dataclasses.replace(copy, id="x", offset=9.0, text=TEXT[:24], duration=2.0)]) == []
    )


def test_utterances_of_one_shard_and_channels_of_one_file_are_not_the_same_audio():
    """In a shard every utterance has the path of the shard and offset 0."""
    utterances = good()
    parts = [
        dataclasses.replace(u, audio="/shard.tar", byte_range=ByteRange(1000 * i, 900, 0))
        for i, u in enumerate(utterances)
    ]
    assert findings(parts) == []
    call = [dataclasses.replace(u, audio="/call.wav", channel=i % 2) for i, u in enumerate(utterances[:2])]
    assert findings([*call, *utterances[2:]]) == []
    found = one([*parts, dataclasses.replace(parts[3], id="x")])
    assert found.examples == ["u3 = x"]


def test_the_same_text_and_length_twice():
    found = one([*good(), dataclasses.replace(good()[3], id="x", audio="/other.flac")])
    assert found.problem == "the same text and length more than once: 1 duplicate"
    assert not found.is_fault
    assert found.examples == ["u3 = x"]
    blank = [dataclasses.replace(u, text=None, duration=2.0) for u in good()]
    assert findings(blank) == [], "the same length alone says nothing"


def test_what_manifests_share():
    other = [dataclasses.replace(u, audio=f"/v/{u.id}", duration=u.duration + 0.3) for u in good(3)]
    ids, speakers = findings(good(), other)
    assert ids.problem == "ids with the same transcript in both 0.jsonl and 1.jsonl: 3"
    assert ids.is_fault
    assert ids.examples == ["u0", "u1", "u2"]
    assert speakers.problem == "speakers that are in both 0.jsonl and 1.jsonl: 3"
    assert not speakers.is_fault
    assert speakers.examples == ["us0", "us1", "us2"]


def test_files_of_two_folders_may_have_equal_names():
    other = [dataclasses.replace(u, text=TEXT, audio=f"/v/{u.id}", speaker=None) for u in good(3)]
    (ids,) = [f for f in findings(good(), other) if f.problem.startswith("ids")]
    assert ids.problem == "ids that are in both 0.jsonl and 1.jsonl: 3"
    assert not ids.is_fault


def test_audio_in_two_manifests_is_a_fault():
    """Also under another id; the same id alone is another matter."""
    named = [dataclasses.replace(u, id=f"x{u.id}", speaker=None) for u in good(2)]
    texts, audio = findings(good(), named)
    assert audio.is_fault
    assert audio.problem == "audio that is in both 0.jsonl and 1.jsonl: 2 utterances"
    assert audio.examples == ["u0 = xu0", "u1 = xu1"]
    assert "for validation" in audio.remedy
    assert not texts.is_fault


def test_examples_name_their_manifest_if_there_are_several():
    assert one(good(), [Utterance("a", "/a", 0.1)]).examples == ["a (1.jsonl)"]


def test_what_ctc_cannot_align_is_asked_of_known_letters_alone():
    asked: list[str] = []

    def alignable(utterances):
        asked.extend(u.id for u in utterances)
        return [u.id != "u5" for u in utterances]

    demands = dataclasses.replace(DEMANDS, alignable=alignable)
    letters, ctc = findings(changed(text="7" * 40), demands=demands)
    assert "characters" in letters.problem
    assert ctc.problem.startswith("1 utterance has more tokens than the model has frames")
    assert ctc.examples == ["u5"]
    assert asked == [u.id for u in good() if u.id != "u3"]


def test_headers_are_opened_when_asked_for(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(32_000), 16_000)
    utterances = [Utterance(id_, str(tmp_path / f"{id_}.wav"), 1.0) for id_ in "ab"]
    manifests = {"m.jsonl": utterances}
    inspection = inspect_manifests(manifests, DEMANDS)
    assert inspection.findings == []
    (found,) = with_audio(inspection, manifests).findings
    assert found.problem == "audio files that contradict m.jsonl: 2"
    assert "2.00 s long, but 1.00 s" in found.examples[0]


LENGTHS = st.lists(st.floats(0.01, 40.0), min_size=1, max_size=60)


@settings(max_examples=60)
@given(lengths=LENGTHS, batch=st.floats(1.0, 100.0), names=st.lists(st.sampled_from("abc"), min_size=60))
def test_contents_by_a_plain_count(lengths, batch, names):
    utterances = [
        Utterance(str(i), f"/{i}", s, None, name)
        for i, (s, name) in enumerate(zip(lengths, names, strict=False))
    ]
    demands = dataclasses.replace(DEMANDS, batch_seconds=batch, max_seconds=min(20.0, batch))
    inspection = inspect_manifests({"m": utterances}, demands)
    (contents,) = inspection.contents
    assert contents.hours == pytest.approx(sum(lengths) / 3600.0)
    assert (contents.shortest_seconds, contents.longest_seconds) == (min(lengths), max(lengths))
    bins = Counter(int(s / inspection.bin_seconds) for s in lengths)
    assert contents.histogram == [bins[i] for i in range(max(bins) + 1)]
    assert len(contents.histogram) <= 20
    hours = Counter()
    for u in utterances:
        hours[u.speaker] += u.duration / 3600.0
    assert contents.speakers == len(hours)
    assert contents.most is not None
    assert contents.least is not None
    assert contents.most[1] == pytest.approx(max(hours.values()))
    assert contents.least[1] == pytest.approx(min(hours.values()))
    within = [round(s * 16_000) for s in lengths if 0.2 <= s <= min(20.0, batch)]
    assert (contents.steps == 0) == (not within)
    assert 0.0 <= contents.padding < 1.0
    assert contents.steps >= sum(within) / (round(batch * 16_000) or 1) - 1e-9
    # Padded audio is what is there and what padding adds to it.
    assert sum(within) / (1.0 - contents.padding) <= contents.steps * round(batch * 16_000) + 1e-3


def test_padding_and_steps_of_a_case_done_by_hand():
    # At 6 s: 3 + 3, then 2 + 2 + 1 (padded to 6, of which 1 is padding).
    utterances = [Utterance(str(i), f"/{i}", s) for i, s in enumerate([3.0, 1.0, 2.0, 3.0, 2.0, 30.0])]
    demands = dataclasses.replace(DEMANDS, batch_seconds=6.0, batch=BatchConfig(shuffle_padding=0.0))
    (contents,) = inspect_manifests({"m": utterances}, demands).contents
    assert (contents.steps, contents.padding) == (2, pytest.approx(1 / 12))


def test_as_json():
    inspection = inspect_manifests({"m": changed(text="")}, DEMANDS)
    plain = json.loads(json.dumps(inspection.to_dict()))
    assert plain["contents"][0]["utterances"] == 30
    assert plain["findings"][0]["examples"] == ["u3"]
    assert Contents(**{**plain["contents"][0], "most": None, "least": None}).hours > 0.0

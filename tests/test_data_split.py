"""Splits of a manifest: by audio of each speaker, and by speaker."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commands import fail

from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.split import split_by_audio, split_by_speaker
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError

UTTERANCES = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", None]), st.floats(0.5, 30.0)), min_size=1, max_size=60
).map(lambda rows: [Utterance(f"u{i}", "x.flac", d, speaker=s) for i, (s, d) in enumerate(rows)])


@given(UTTERANCES, st.floats(0.0, 1.0))
def test_nothing_is_lost_and_the_amount_is_met(utterances: list[Utterance], share: float) -> None:
    seconds = sum(u.duration for u in utterances)
    first, rest = split_by_audio(utterances, share * seconds / 3600.0)
    assert sorted([*first, *rest], key=utterances.index) == utterances
    assert first == sorted(first, key=utterances.index)
    # Each speaker is off by at most half of the utterance at its limit.
    off = sum(u.duration for u in first) - share * seconds
    assert abs(off) <= 15.0 * len({u.speaker for u in utterances}) + 1e-6


def test_speakers_get_equal_amounts() -> None:
    utterances = [Utterance(f"{s}{i}", "x.flac", 10.0, speaker=s) for s in "abc" for i in range(20)]
    first, _ = split_by_audio(utterances, 150.0 / 3600.0)
    assert [u.id for u in first] == [f"{s}{i}" for s in "abc" for i in range(5)]


def test_what_a_speaker_lacks_is_shared_by_the_others() -> None:
    few = [Utterance(f"a{i}", "x.flac", 10.0, speaker="a") for i in range(2)]
    many = [Utterance(f"b{i}", "x.flac", 10.0, speaker="b") for i in range(30)]
    first, _ = split_by_audio(few + many, 100.0 / 3600.0)
    assert [u.speaker for u in first] == ["a"] * 2 + ["b"] * 8


def test_too_much_audio_is_an_error() -> None:
    with pytest.raises(UserError, match="--hours 1"):
        split_by_audio([Utterance("u", "x.flac", 10.0)], 1.0)


def test_speakers_are_kept_whole_and_evenly_spaced() -> None:
    utterances = [Utterance(f"{s}{i}", "x.flac", 1.0, speaker=s) for i in range(3) for s in "abcdef"]
    chosen, others = split_by_speaker(utterances, 2)
    assert {u.speaker for u in chosen} == {"a", "d"}
    assert len(chosen) == 6
    assert not {u.speaker for u in chosen} & {u.speaker for u in others}
    with pytest.raises(UserError, match="6 speakers"):
        split_by_speaker(utterances, 6)


@pytest.mark.parametrize(("seconds", "remedy"), [(1.0, "specify more"), (29.0, "specify less")])
def test_an_empty_part_is_an_error(tmp_path: Path, seconds: float, remedy: str) -> None:
    manifest = tmp_path / "all.jsonl"
    write_manifest(manifest, [Utterance(f"{i}", "x.flac", 10.0) for i in range(3)])
    parts = ("--out", tmp_path / "out.jsonl", "--rest", tmp_path / "rest.jsonl")
    assert remedy in fail("split", manifest, "--hours", str(seconds / 3600.0), *parts)

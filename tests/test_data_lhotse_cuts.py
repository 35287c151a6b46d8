"""Lhotse's cuts as manifests: what can be read is, what cannot is named by line."""

from __future__ import annotations

import contextlib
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.data.lhotse_cuts import from_cut, is_cut
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError


def cut(**changes: Any) -> dict[str, Any]:
    """A cut as lhotse writes it."""
    supervision = {
        "id": "s1", "recording_id": "rec", "start": 0.0, "duration": 1.5, "channel": 0, "text": "GO ON",
        "language": "English", "speaker": "7",
    }  # fmt: skip
    recording = {
        "id": "rec",
        "sources": [{"type": "file", "channels": [0], "source": "/corpus/rec.flac"}],
        "sampling_rate": 16000,
        "num_samples": 160000,
        "duration": 10.0,
        "channel_ids": [0],
    }
    return {
        "id": "rec-0", "start": 2.5, "duration": 1.5, "channel": 0, "supervisions": [supervision],
        "recording": recording, "type": "MonoCut", **changes,
    }  # fmt: skip


def recording(**changes: Any) -> dict[str, Any]:
    return {"recording": {**cut()["recording"], **changes}}


def supervision(**changes: Any) -> dict[str, Any]:
    return {"supervisions": [{**cut()["supervisions"][0], **changes}]}


def source(**changes: Any) -> dict[str, Any]:
    return recording(sources=[{**cut()["recording"]["sources"][0], **changes}])


def write(path: Path, *cuts: object) -> Path:
    content = "".join(json.dumps(c) + "\n" for c in cuts).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_a_cut_set_is_read_directly(tmp_path: Path, name: str) -> None:
    unlabelled = cut(id="rec-1", start=0, supervisions=[])
    (one, two) = read_manifest(write(tmp_path / name, cut(), unlabelled))
    assert one == Utterance("rec-0", "/corpus/rec.flac", 1.5, "GO ON", "7", 2.5)
    assert two == Utterance("rec-1", "/corpus/rec.flac", 1.5)


def test_a_channel_of_a_recording_is_the_utterances(tmp_path: Path) -> None:
    of_two = cut(channel=5, **source(channels=[4, 5]), **supervision(channel=[5]))
    (utterance,) = read_manifest(write(tmp_path / "m.jsonl", of_two))
    assert (utterance.channel, utterance.text) == (1, "GO ON")


def test_a_supervision_may_reach_a_little_beyond_its_cut(tmp_path: Path) -> None:
    (utterance,) = read_manifest(write(tmp_path / "m.jsonl", cut(**supervision(start=-0.04, duration=1.58))))
    assert utterance.text == "GO ON"


def test_cuts_and_utterances_may_stand_in_one_file(tmp_path: Path) -> None:
    plain = {"id": "a", "audio": "/a.flac", "duration": 1.0, "type": "speech"}
    assert [u.id for u in read_manifest(write(tmp_path / "m.jsonl", plain, cut()))] == ["a", "rec-0"]


def test_several_supervisions_are_joined_in_time(tmp_path: Path) -> None:
    said = cut()["supervisions"][0]
    late, early = (
        {**said, "start": 0.9, "duration": 0.5, "text": "HOME"},
        {**said, "start": 0.1, "duration": 0.7},
    )
    both = [late, early, {"start": 0.5, "speaker": "7"}]
    (utterance,) = read_manifest(write(tmp_path / "m.jsonl", cut(supervisions=both)))
    assert (utterance.text, utterance.speaker) == ("GO ON HOME", "7")
    both[0]["speaker"] = "8"
    (utterance,) = read_manifest(write(tmp_path / "m.jsonl", cut(supervisions=both)))
    assert utterance.speaker is None


def test_relative_paths_are_lhotses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manifests").mkdir()
    write(tmp_path / "manifests" / "cuts.jsonl", cut(**source(source="corpus/rec.flac")))
    monkeypatch.chdir(tmp_path)
    (utterance,) = read_manifest("manifests/cuts.jsonl")
    assert utterance.audio == str(tmp_path / "corpus" / "rec.flac")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"type": "MixedCut"}, "a MixedCut is not a segment of one file"),
        ({"type": "MultiCut"}, "a MultiCut is not"),
        ({"type": "PaddingCut"}, "a PaddingCut is not"),
        (source(type="command", source="sox a.sph -t wav -"), "from 1 sources (command), not one file"),
        (source(type="url"), "(url)"),
        (recording(sources=cut()["recording"]["sources"] * 2), "from 2 sources (file)"),
        (recording(sources=[]), "from 0 sources"),
        (recording(sources=None), "no valid sources of its recording"),
        ({"recording": None}, "no valid recording"),
        (
            {**source(channels=[0, 1]), "channel": 2, "supervisions": []},
            "channel 2 is not a channel of its recording",
        ),
        (supervision(channel=1), "a supervision of channel 1 in a cut of channel 0"),
        (supervision(channel=[0, 1]), r"a supervision of channel [0, 1]"),
        (supervision(duration=1.6), "from 0.00 to 1.60 s extends beyond a cut of 1.50 s"),
        (supervision(start=-7.5, duration=9.0), "from -7.50 to 1.50 s extends beyond a cut of 1.50 s"),
        (source(source=None), "is not a path"),
        (recording(transforms=[{"name": "Speed", "kwargs": {"factor": 0.9}}]), "has transforms"),
        ({"supervisions": [{"text": 7}]}, "text of a supervision is not a string"),
        ({"supervisions": ["GO"]}, "no valid supervisions"),
        ({"duration": 0}, "duration is 0.0 s"),
        ({"start": -1.0}, "offset is -1.0 s"),
        ({"id": 7}, "id is not a string"),
    ],
)
def test_what_is_no_stretch_of_a_file_is_named_by_line(
    tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    path = write(tmp_path / "m.jsonl", cut(id="first"), cut(**changes))
    with pytest.raises(UserError) as error:
        read_manifest(path)
    (line,) = str(error.value).split("\n")
    assert line.startswith(f"{path}:2: ")
    assert fault in line
    assert line.endswith(")"), "the remedy is missing"


@pytest.mark.parametrize("broken", [lambda b: b[:-20], lambda b: b[:30] + b"????" + b[34:]])
def test_a_broken_gzip_file_is_an_error_of_one_line(tmp_path: Path, broken: Any) -> None:
    path = write(tmp_path / "m.jsonl.gz", cut())
    path.write_bytes(broken(path.read_bytes()))
    with pytest.raises(UserError, match=r"m\.jsonl\.gz: cannot be read"):
        read_manifest(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda value: (
        st.lists(value, max_size=2)
        | st.dictionaries(
            st.sampled_from(["sources", "type", "source", "channels", "text", "start", "speaker"]), value
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["id", "start", "duration", "supervisions", "recording"]), JSON))
def test_garbage_raises_nothing_but_value_errors(fields: dict[str, Any]) -> None:
    garbage = {**fields, "type": "MonoCut"}
    assert is_cut(garbage)
    with contextlib.suppress(ValueError):
        assert from_cut(garbage).keys() == {"id", "audio", "duration", "offset", "text", "speaker"}

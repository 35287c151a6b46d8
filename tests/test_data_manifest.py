"""The manifest: what is written is read back, what is wrong is listed by line, nothing is half written."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.audio.source import ByteRange
from asr_emapl.data import manifest
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError

GOOD = {"id": "a", "audio": "/corpus/a.flac", "duration": 1.5}

# Whatever JSON and UTF-8 can carry; a NUL or a blank name is refused and tested by itself.
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
NAME = st.text(LETTERS, min_size=1).filter(lambda name: bool(name.strip()))
UTTERANCE = st.builds(
    Utterance,
    id=NAME,
    audio=NAME.map(lambda name: str(Path("/", name))).filter(lambda path: path.startswith("/")),
    duration=st.floats(1e-3, 1e6),
    text=st.none() | st.text(LETTERS),
    speaker=st.none() | st.text(LETTERS),
    offset=st.floats(0, 1e6),
    byte_range=st.none()
    | st.builds(
        ByteRange, st.integers(0, 2**63 - 1), st.integers(1, 2**63 - 1), crc32=st.integers(0, 2**32 - 1)
    ),
)


def lines(path: Path, *records: object) -> Path:
    """A manifest of these lines: bytes as they are, anything else as JSON."""
    encoded = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    path.write_bytes(b"\n".join(encoded) + b"\n")
    return path


def faults(path: Path, **options: bool) -> list[str]:
    with pytest.raises(UserError) as error:
        read_manifest(path, **options)
    return str(error.value).split("\n")


@settings(deadline=None)
@given(utterances=st.lists(UTTERANCE, min_size=1, max_size=5, unique_by=lambda utterance: utterance.id))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, utterances: list[Utterance]) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.jsonl"
    write_manifest(path, utterances)
    assert read_manifest(path) == utterances
    assert len(path.read_bytes().splitlines()) == len(utterances)


def test_fields_and_samples(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", {**GOOD, "text": "GO ON", "speaker": "7", "offset": 2, "lang": "en"})
    (utterance,) = read_manifest(path)
    assert utterance == Utterance("a", "/corpus/a.flac", 1.5, "GO ON", "7", 2.0)
    assert utterance.samples == 24_000
    assert isinstance(utterance.offset, float)
    with pytest.raises(AttributeError):
        utterance.text = "STOP"  # type: ignore[misc]


def test_relative_paths_are_the_manifests_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corpus").mkdir()
    lines(tmp_path / "corpus" / "m.jsonl", {**GOOD, "audio": "wav/a.flac"})
    monkeypatch.chdir(tmp_path)
    (utterance,) = read_manifest("corpus/m.jsonl")
    assert utterance.audio == str(tmp_path / "corpus" / "wav" / "a.flac")


def test_paths_are_written_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_manifest(tmp_path / "new" / "folder" / "m.jsonl", [Utterance("a", "wav/a.flac", 1.0)])
    record = json.loads((tmp_path / "new" / "folder" / "m.jsonl").read_text())
    assert record == {"id": "a", "audio": str(tmp_path / "wav" / "a.flac"), "duration": 1.0}


def test_a_shard_in_the_manifests_own_folder_goes_by_its_name(tmp_path: Path) -> None:
    here, there = str(tmp_path / "a.tar"), str(tmp_path / "b" / "a.tar")
    packed = [Utterance(place, place, 1.0, byte_range=ByteRange(512, 100, 7)) for place in (here, there)]
    write_manifest(tmp_path / "m.jsonl", [*packed, Utterance("file", str(tmp_path / "a.flac"), 1.0)])
    first, second, third = map(json.loads, (tmp_path / "m.jsonl").read_text().splitlines())
    assert (first["audio"], first["byte_range"]) == ("a.tar", {"start": 512, "length": 100, "crc32": 7})
    assert second["audio"] == there
    assert third["audio"] == str(tmp_path / "a.flac")
    assert read_manifest(tmp_path / "m.jsonl")[:2] == packed


def test_urls_stay_urls(tmp_path: Path) -> None:
    lines(tmp_path / "m.jsonl", {**GOOD, "audio": "https://host/a%20b.flac"})
    utterances = read_manifest(tmp_path / "m.jsonl")
    assert utterances[0].audio == "https://host/a%20b.flac"
    write_manifest(tmp_path / "m.jsonl", utterances)
    assert read_manifest(tmp_path / "m.jsonl") == utterances


def test_nemo_names(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "m.jsonl",
        {"audio_filepath": "/x/rec.wav", "duration": 1, "offset": 0.0, "text": "A"},
        {"audio_filepath": "/x/rec.wav", "duration": 1, "offset": 1.0, "text": ""},
        {"audio_filepath": "/y/rec.wav", "duration": 1, "offset": None},
        {"audio_filepath": "/x/b.wav", "duration": 1, "utt_id": "rec-2"},
    )
    utterances = read_manifest(path)
    assert [utterance.id for utterance in utterances] == ["x/rec-0", "x/rec-1000", "y/rec", "rec-2"]
    assert [utterance.audio for utterance in utterances] == [
        "/x/rec.wav",
        "/x/rec.wav",
        "/y/rec.wav",
        "/x/b.wav",
    ]
    assert [utterance.offset for utterance in utterances] == [0.0, 1.0, 0.0, 0.0]


NAMELESS = [
    {"audio": "talks/a.wav", "duration": 2.0, "offset": 0.0},
    {"audio": "talks/a.wav", "duration": 2.0, "offset": 2.5},
    {"audio": "calls/a.wav", "duration": 2.0},
    {"audio": "calls/b.flac", "duration": 2.0, "offset": 0.25},
]


@given(st.permutations(NAMELESS))
def test_ids_of_lines_without_one_do_not_depend_on_their_order(order: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = read_manifest(lines(Path(folder, "m.jsonl"), *order))
    expected = ["talks/a-0", "talks/a-2500", "calls/a", "calls/b-250"]
    assert [u.id for u in found] == [expected[NAMELESS.index(line)] for line in order]


def test_the_same_stretch_twice_without_an_id_is_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", NAMELESS[0], {**NAMELESS[0], "text": "A"})
    with pytest.raises(UserError, match="'a-0' is also on line 1"):
        read_manifest(path)


def test_a_channel_is_read_and_written(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", {**GOOD, "channel": 1})
    (one,) = read_manifest(path)
    assert one.channel == one.source.channel == 1
    write_manifest(tmp_path / "again.jsonl", [one])
    assert read_manifest(tmp_path / "again.jsonl") == [one]


@pytest.mark.parametrize("channel", [-1, 1.0, True, "A", 2**70])
def test_a_channel_that_is_none_is_refused(tmp_path: Path, channel: object) -> None:
    with pytest.raises(UserError, match="channel"):
        read_manifest(lines(tmp_path / "m.jsonl", {**GOOD, "channel": channel}))


def test_byte_order_mark_windows_line_ends_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    one, two = (json.dumps({**GOOD, "id": id_}).encode() for id_ in "ab")
    path.write_bytes(b"\xef\xbb\xbf" + one + b"\r\n\r\n" + two)
    assert [utterance.id for utterance in read_manifest(path)] == ["a", "b"]


def test_unicode_line_separators_do_not_split_a_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, [Utterance("a", "/a.flac", 1.0, "ONE\u2028TWO\x85THREE")])
    assert "\u2028".encode() in path.read_bytes()
    assert read_manifest(path)[0].text == "ONE\u2028TWO\x85THREE"


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (b"{", "not JSON"),
        (b'{"id": "a"} {}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"duration": ' + b"1" * 10_000 + b"}", "not JSON"),
        (b'{"id": "\xff"}', "not UTF-8"),
        ([GOOD], "not a JSON object"),
        (None, "not a JSON object"),
        ({**GOOD, "audio": None}, "audio is missing"),
        ({**GOOD, "audio": 3}, "audio is not a string"),
        ({**GOOD, "audio": "a\0b"}, "audio is blank or has a NUL"),
        ({**GOOD, "audio": ""}, "audio is blank"),
        ({**GOOD, "id": " "}, "id is blank"),
        ({**GOOD, "id": 7}, "id is not a string"),
        ({**GOOD, "text": ["A"]}, "text is not a string"),
        ({**GOOD, "text": "\ud800"}, "unpaired surrogate"),
        ({**GOOD, "speaker": 84}, "speaker is not a string"),
        ({**GOOD, "duration": None}, "duration is missing"),
        ({**GOOD, "duration": "1.5"}, "duration is not a number"),
        ({**GOOD, "duration": True}, "duration is not a number"),
        ({**GOOD, "duration": math.nan}, "duration is nan s"),
        ({**GOOD, "duration": math.inf}, "duration is inf s"),
        ({**GOOD, "duration": 10**400}, "duration is inf s"),
        ({**GOOD, "duration": 1e308}, "duration is 1e+308 s"),
        ({**GOOD, "duration": 2e7}, "duration is 20000000.0 s"),
        ({**GOOD, "offset": 1e8}, "offset is 100000000.0 s"),
        ({**GOOD, "duration": 0}, "duration is 0.0 s"),
        ({**GOOD, "duration": -1.5}, "duration is -1.5 s"),
        ({**GOOD, "duration": 1e-9}, "duration is 1e-09 s"),
        ({**GOOD, "offset": "0"}, "offset is not a number"),
        ({**GOOD, "offset": -0.5}, "offset is -0.5 s"),
        ({**GOOD, "offset": math.nan}, "offset is nan s"),
        ({**GOOD, "byte_range": 5}, "byte_range is not {start, length, crc32}"),
        ({**GOOD, "byte_range": {"start": 0, "length": 5}}, "byte_range is not"),
        ({**GOOD, "byte_range": {"start": -1, "length": 5, "crc32": 0}}, "byte_range is not"),
        ({**GOOD, "byte_range": {"start": 0, "length": 0, "crc32": 0}}, "byte_range is not"),
        ({**GOOD, "byte_range": {"start": 0, "length": 2**63, "crc32": 0}}, "byte_range is not"),
        ({**GOOD, "byte_range": {"start": 0, "length": 5, "crc32": 2**32}}, "byte_range is not"),
        ({**GOOD, "byte_range": {"start": True, "length": 5, "crc32": 0}}, "byte_range is not"),
    ],
)
def test_each_fault_is_named_with_place_and_remedy(tmp_path: Path, record: object, fault: str) -> None:
    path = lines(tmp_path / "m.jsonl", {**GOOD, "id": "first"}, record)
    (line,) = faults(path)
    assert line.startswith(f"{path}:2: ")
    assert fault in line
    assert line.endswith(")"), "the remedy is missing"


def test_all_faults_are_listed_in_the_order_of_lines(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", {"id": 1, "audio": 2}, b"{", GOOD, {**GOOD, "duration": 0})
    found = faults(path)
    assert [line.split(": ")[0] for line in found] == [f"{path}:{number}" for number in (1, 1, 1, 2, 4, 4)]
    assert "id 'a' is also on line 3" in found[-1]


def test_faults_beyond_twenty_are_counted(tmp_path: Path) -> None:
    found = faults(lines(tmp_path / "m.jsonl", *[b"{,"] * 31))
    assert len(found) == 21
    assert found[-1] == "... and 11 more"
    assert len(faults(lines(tmp_path / "m.jsonl", *[b"{,"] * 20))) == 20


@pytest.mark.parametrize("text", [None, "", " \t"])
def test_require_text(tmp_path: Path, text: str | None) -> None:
    path = lines(tmp_path / "m.jsonl", {**GOOD, "text": "GO"}, {**GOOD, "id": "b", "text": text})
    assert [utterance.text for utterance in read_manifest(path)] == ["GO", text]
    (line,) = faults(path, require_text=True)
    assert line.startswith(f"{path}:2: text is missing")


def test_absent_empty_and_unreadable_manifests(tmp_path: Path) -> None:
    assert faults(tmp_path / "absent.jsonl")[0].startswith(
        f"{tmp_path / 'absent.jsonl'}: cannot be read (No such"
    )
    for content in (b"", b"\n\r\n", b"\xef\xbb\xbf"):
        (tmp_path / "empty.jsonl").write_bytes(content)
        assert "the manifest has no utterances" in faults(tmp_path / "empty.jsonl")[0]
    assert "cannot be read" in faults(tmp_path)[0]
    assert "cannot be read" in faults(Path("nul\0.jsonl"))[0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda value: st.lists(value, max_size=3) | st.dictionaries(st.text(max_size=3), value, max_size=3),
    max_leaves=5,
)
FIELDS = ["id", "utt_id", "audio", "audio_filepath", "duration", "text", "speaker", "offset", "byte_range"]
RECORD = st.dictionaries(st.sampled_from(FIELDS), JSON | st.sampled_from(["a", 1.0, 2]))
LINE = st.binary(max_size=30) | (RECORD | JSON).map(lambda value: json.dumps(value).encode())


@settings(max_examples=300, deadline=None)
@given(content=st.lists(LINE, max_size=6), require_text=st.booleans())
def test_garbage_raises_nothing_but_user_errors(
    tmp_path_factory: pytest.TempPathFactory, content: list[bytes], require_text: bool
) -> None:
    path = lines(tmp_path_factory.getbasetemp() / "garbage.jsonl", *content)
    try:
        utterances = read_manifest(path, require_text=require_text)
    except UserError as error:
        message = str(error)
    else:
        assert all(utterance.samples > 0 for utterance in utterances)
        # What can be read can be written.
        write_manifest(path, utterances)
        assert read_manifest(path, require_text=require_text) == utterances
        return
    assert message.startswith(f"{path}:")


def test_a_manifest_without_any_transcript_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "train.jsonl"
    lines = [json.dumps({"id": f"u{i}", "audio": f"{i}.flac", "duration": 1.0}) for i in range(30)]
    path.write_text("\n".join(lines) + "\n")
    for least in (1 << 20, 0):  # without an index, and with one
        monkeypatch.setattr(manifest, "_INDEXED_BYTES", least)
        with pytest.raises(UserError) as caught:
            manifest.open_manifest(path, require_text=True)
        assert str(caught.value).startswith(f"{path}: no utterance has a transcript; ")
        assert "\n" not in str(caught.value)

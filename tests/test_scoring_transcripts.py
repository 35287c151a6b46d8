"""Transcript files: formats, all broken lines in one error, atomic writing."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.data.manifest import read_manifest
from asr_emapl.errors import UserError
from asr_emapl.scoring import read_transcripts, write_hypotheses
from asr_emapl.scoring.transcripts import TranscriptEntry, read_pair, read_utterances

EXPECTED = {"a-1": "HELLO (BIG) WORLD", "a-2": "", "b": "IT'S"}
CONTENTS = {
    "jsonl": """{"id": "a-1", "text": "HELLO (BIG) WORLD"}
{"id": "a-2", "text": "", "duration": 1.5}
{"id": "b", "text": "IT'S"}
""",
    "trn": "HELLO (BIG) WORLD (a-1)\n(a-2)\nIT'S (b)\n",
    "plain": "a-1 HELLO (BIG) WORLD\na-2\nb\tIT'S \n",
}
NAMES = {
    "jsonl": ["a.jsonl", "a.json", "a.JSONL", "a.txt", "text"],
    "trn": ["a.trn", "a.txt"],
    "plain": ["1-2.trans.txt", "text"],
}


@pytest.mark.parametrize(("form", "name"), [(form, name) for form, names in NAMES.items() for name in names])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\n\n"])
def test_formats(form: str, name: str, bom: bytes, line_end: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(bom + CONTENTS[form].replace("\n", line_end).encode())
    assert read_transcripts(path) == EXPECTED
    assert list(read_transcripts(str(path))) == list(EXPECTED)


def test_last_line_without_end_and_trn_comments(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a ONE\nb TWO")
    assert read_transcripts(tmp_path / "a.txt") == {"a": "ONE", "b": "TWO"}
    (tmp_path / "a.trn").write_text(";; made by hand\nONE (a)")
    assert read_transcripts(tmp_path / "a.trn") == {"a": "ONE"}


def test_role_decides_between_text_and_pred_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"id": "a", "text": "TRUE", "pred_text": "GUESSED"}\n{"id": "b", "text": null, "pred_text": "B"}\n'
    )
    assert read_transcripts(path) == {"a": "TRUE", "b": "B"}
    assert read_transcripts(path, role="hypothesis") == {"a": "GUESSED", "b": "B"}


def test_all_broken_lines_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        '{"id": "a", "text": "A"}',
        "nonsense",
        "[1]",
        '{"text": "A"}',
        '{"id": 3, "text": "A"}',
        '{"id": "b"}',
        '{"id": "c", "text": 1}',
        '{"id": "a", "text": "AGAIN"}',
    ]
    path.write_text("\n".join(lines))
    with pytest.raises(UserError) as error:
        read_transcripts(path)
    findings = str(error.value).split("\n")
    assert [finding.split(":")[1] for finding in findings] == ["2", "3", "4", "5", "6", "7", "8"]
    assert all(finding.startswith(f"{path}:") for finding in findings)
    assert "not JSON" in findings[0]
    assert "not a JSON object" in findings[1]
    assert "no 'id'" in findings[2]
    assert "no 'id'" in findings[3]
    assert "neither 'text' nor 'pred_text'" in findings[4]
    assert "'text' is not a string" in findings[5]
    assert "'a' is repeated (first in line 1)" in findings[6]


def test_findings_are_capped_at_twenty(tmp_path: Path) -> None:
    path = tmp_path / "a.trn"
    path.write_text("NO ID HERE\n" * 25)
    with pytest.raises(UserError) as error:
        read_transcripts(path)
    findings = str(error.value).split("\n")
    assert len(findings) == 21
    assert "no '(id)'" in findings[0]
    assert "5 more" in findings[-1]


def test_duplicates_in_plain_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a ONE\n\na ONE\n")
    with pytest.raises(UserError, match=r"text:3: id 'a' is repeated \(first in line 1\)"):
        read_transcripts(tmp_path / "text")


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_empty_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(UserError, match="no transcripts"):
        read_transcripts(tmp_path / "text")


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"a OK\nb \xff\n")
    with pytest.raises(UserError, match="text:2: not UTF-8"):
        read_transcripts(tmp_path / "text")
    with pytest.raises(UserError, match="cannot be read"):
        read_transcripts(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read"):
        read_transcripts(tmp_path)


@settings(deadline=None)
@given(
    hypotheses=st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8")), min_size=1
    )
)
def test_round_trip(hypotheses: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("hypotheses") / "new" / "hyp.jsonl"
    write_hypotheses(path, hypotheses)
    assert read_transcripts(path, role="hypothesis") == hypotheses
    assert [entry.name for entry in path.parent.iterdir()] == ["hyp.jsonl"]


def test_written_lines_are_plain_json(tmp_path: Path) -> None:
    write_hypotheses(tmp_path / "hyp.jsonl", {"a": "É", "b": ""})
    lines = (tmp_path / "hyp.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines == ['{"id": "a", "text": "É"}', '{"id": "b", "text": ""}']
    assert [json.loads(line)["id"] for line in lines] == ["a", "b"]


def test_unwritable_target(tmp_path: Path) -> None:
    (tmp_path / "hyp.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_hypotheses(tmp_path / "hyp.jsonl", {"a": "A"})
    assert [entry.name for entry in tmp_path.iterdir()] == ["hyp.jsonl"]


def test_speakers_and_durations(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "text": "A", "speaker": 84, "duration": 2}\n{"id": "b", "text": "B"}\n')
    assert read_utterances(path) == {"a": TranscriptEntry("A", "84", 2.0), "b": TranscriptEntry("B")}
    for duration in ('"long"', "NaN", "true"):
        path.write_text(f'{{"id": "a", "text": "A", "duration": {duration}}}\n')
        with pytest.raises(UserError, match="'duration' is not a number of seconds"):
            read_utterances(path)


def test_manifests_of_other_toolkits(tmp_path: Path) -> None:
    nemo = tmp_path / "nemo.json"
    lines = [
        {"audio_filepath": "x/a.wav", "duration": 1.5, "text": "ONE", "pred_text": "WON"},
        {"audio_filepath": "y/a.wav", "duration": 2, "text": "TWO", "speaker": "s"},
    ]
    nemo.write_text("\n".join(map(json.dumps, lines)))
    assert read_utterances(nemo) == {
        "x/a": TranscriptEntry("ONE", None, 1.5),
        "y/a": TranscriptEntry("TWO", "s", 2.0),
    }
    assert read_transcripts(nemo, role="hypothesis") == {"x/a": "WON", "y/a": "TWO"}
    cut = {
        "id": "c",
        "type": "MonoCut",
        "start": 0.0,
        "duration": 3.0,
        "channel": 0,
        "recording": {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "r.wav"}]},
        "supervisions": [{"id": "c", "start": 0.0, "duration": 3.0, "text": "HI", "speaker": "me"}],
    }
    lhotse = tmp_path / "cuts.jsonl.gz"
    lhotse.write_bytes(gzip.compress(json.dumps(cut).encode()))
    assert read_utterances(lhotse) == {"c": TranscriptEntry("HI", "me", 3.0)}
    nemo.write_text(json.dumps({"audio_filepath": "a.wav", "duration": 1.5}))
    with pytest.raises(UserError, match=r"nemo.json:1: id 'a' has neither"):
        read_utterances(nemo)


def test_results_of_nemo(tmp_path: Path) -> None:
    """Results have no durations and the manifest's ids; one file can be reference and hypothesis."""
    manifest, result = tmp_path / "m.json", tmp_path / "sub" / "result.json"
    result.parent.mkdir()
    audio = [{"audio_filepath": f"/data/{name}.wav"} for name in ("x/a", "y/a")]
    manifest.write_text("\n".join(json.dumps(a | {"duration": 1.5, "text": "ONE"}) for a in audio))
    texts = {"text": "ONE", "pred_text": "WON"}
    result.write_text("\n".join(json.dumps(a | texts) for a in reversed(audio)))
    assert read_utterances(result)["x/a"] == TranscriptEntry("ONE")
    assert [utterance.id for utterance in read_manifest(manifest)] == ["x/a", "y/a"]
    for reference in (manifest, result):
        references, hypotheses = read_pair(reference, result)
        assert {name: transcript.text for name, transcript in references.items()} == {
            "x/a": "ONE",
            "y/a": "ONE",
        }
        assert {name: transcript.text for name, transcript in hypotheses.items()} == {
            "x/a": "WON",
            "y/a": "WON",
        }
    # Without ids and audio, text and pred_text of one line still belong together.
    result.write_text("\n".join(json.dumps(texts) for _ in audio))
    references, hypotheses = read_pair(result, result)
    assert list(references) == list(hypotheses) == ["line-1", "line-2"]
    assert set(hypotheses.values()) == {TranscriptEntry("WON")}
    with pytest.raises(UserError, match="no 'id'"):
        read_pair(manifest, result)


@pytest.mark.parametrize("content", ['[{"id": "a", "text": "A"}]', '[\n{"id": "a", "text": "A"}\n]', "{\n}"])
@pytest.mark.parametrize("read", [read_transcripts, read_manifest])
def test_json_over_several_lines(tmp_path: Path, content: str, read: Callable[[Path], object]) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read(path)
    assert len(str(error.value).splitlines()) == 1
    assert ("jq -c '.[]'" if content[0] == "[" else "jq -c .") in str(error.value)


def test_comments_in_plain_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_text(";; by hand\nu1 ONE\n;; end\n")
    assert read_transcripts(tmp_path / "text") == {"u1": "ONE"}


def test_truncated_gzip_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "a", "text": "A"}\n' * 99)[:-9])
    with pytest.raises(UserError, match=r"a.jsonl.gz: cannot be read"):
        read_transcripts(path)


def test_manifest_with_an_invalid_text(tmp_path: Path) -> None:
    line = {"audio_filepath": "a.wav", "duration": 1.5, "text": "A", "pred_text": [1]}
    (tmp_path / "nemo.json").write_text(json.dumps(line))
    with pytest.raises(UserError, match=r"nemo\.json:1: id 'a': 'pred_text' is not a string"):
        read_transcripts(tmp_path / "nemo.json", role="hypothesis")

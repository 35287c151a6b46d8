"""The commands score and compare: output, files, formats and messages about invalid input."""

from __future__ import annotations

import json
from pathlib import Path

import jiwer
import pytest
from support.commands import call, fail, succeed

REFERENCES = {
    "u1": "THE CAT SAT ON THE MAT",
    "u2": "HELLO WORLD",
    "u3": "ONE TWO THREE",
    "u4": "SAME",
}
HYPOTHESES = {
    "u1": "THE BAT SAT ON MAT TODAY",
    "u2": "",
    "u3": "ONE TOO THREE FOUR",
    "u4": "SAME",
}


def transcripts(path: Path, texts: dict[str, str]) -> Path:
    """Write texts in the format of the ending."""
    if path.suffix == ".jsonl":
        lines = [
            json.dumps({"id": name, "audio": f"{name}.flac", "duration": 1.0, "text": text})
            for name, text in texts.items()
        ]
    elif path.suffix == ".trn":
        lines = [f"{text} ({name})" for name, text in texts.items()]
    else:
        lines = [f"{name} {text}" for name, text in texts.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    for ending in ("jsonl", "trn", "txt"):
        transcripts(folder / f"ref.{ending}", REFERENCES)
        transcripts(folder / f"hyp.{ending}", dict(reversed(HYPOTHESES.items())))
    return folder


WORDS = jiwer.process_words(list(REFERENCES.values()), list(HYPOTHESES.values()))
CHARACTERS = jiwer.process_characters(list(REFERENCES.values()), list(HYPOTHESES.values()))


@pytest.mark.parametrize("hypothesis", ["jsonl", "trn", "txt"])
@pytest.mark.parametrize("reference", ["jsonl", "trn", "txt"])
def test_score_equals_jiwer_for_all_formats(scored, reference, hypothesis):
    result = json.loads(succeed("score", scored / f"ref.{reference}", scored / f"hyp.{hypothesis}", "--json"))
    for key, theirs in (("words", WORDS), ("characters", CHARACTERS)):
        assert result[key] == {
            "substitutions": theirs.substitutions,
            "deletions": theirs.deletions,
            "insertions": theirs.insertions,
            "reference_length": theirs.hits + theirs.substitutions + theirs.deletions,
            "errors": theirs.substitutions + theirs.deletions + theirs.insertions,
            "rate": pytest.approx(theirs.wer if key == "words" else theirs.cer),
        }
    assert result["sentences"] == 4
    assert result["sentences_wrong"] == 3


def test_the_table_shows_the_same(scored):
    shown = succeed("score", scored / "ref.jsonl", scored / "hyp.trn", "--resamples", "0").splitlines()
    head, *table = shown[:4]
    assert head.split() == ["%", "errors", "sub", "del", "ins", "N"]
    assert shown[4:] == ["", "normalisation: none: texts as they are, words separated by whitespace"]
    for line, name, theirs, rate in (
        (table[0], "WER", WORDS, WORDS.wer),
        (table[1], "CER", CHARACTERS, CHARACTERS.cer),
    ):
        counts = [theirs.substitutions, theirs.deletions, theirs.insertions]
        length = theirs.hits + theirs.substitutions + theirs.deletions
        assert line.split() == [name, f"{100 * rate:.2f}", *map(str, [sum(counts), *counts, length])]
    assert table[2].split() == ["SER", "75.00", "3", "4"]
    assert all(len(line) == len(head) for line in table)


def test_missing_and_extra_hypotheses(scored, tmp_path):
    path = transcripts(tmp_path / "hyp.txt", {"u1": REFERENCES["u1"], "u9": "WHAT"})
    assert "u9" in fail("score", scored / "ref.trn", path)
    told = succeed("score", scored / "ref.trn", path, "--allow-missing").splitlines()[-1]
    assert told == "3 hypotheses missing (counted as empty), 1 extra (ignored)"


def test_options_of_score(scored, tmp_path):
    pair = (scored / "ref.jsonl", scored / "hyp.trn")
    page = tmp_path / "errors.html"
    shown = succeed(
        *("score", *pair, "--by", "speaker", "--by", "duration", "--confusions", 1, "--normalise", "words"),
        *("--vocabulary", scored / "ref.jsonl", "--alignments", page),
    )
    assert "speakers are unknown" in shown
    assert "below 5 s" in shown
    assert "out of vocabulary: 0.00 %" in shown
    assert "normalisation: words: " in shown
    assert page.read_text().startswith("<!doctype html>")
    assert "--speaker-in-id: no id contains '-' or '_' (first id: 'u" in fail(
        "score", *pair, "--speaker-in-id"
    )
    rows = succeed("score", *pair, *pair, "--csv").splitlines()
    assert rows[0].startswith("group,name,measure,rate,")
    assert sum(row.startswith("split,") for row in rows) == 6
    assert "--csv does not support" in fail("score", *pair, "--csv", "--confusions", 2)
    assert "mutually exclusive" in fail("score", *pair, "--csv", "--json")
    assert "errors.docx: " in fail("score", *pair, "--alignments", tmp_path / "errors.docx")
    assert "unknown normalisation 'shout'" in fail("score", *pair, "--normalise", "shout")
    assert "got 3 files; expected pairs" in fail("score", *pair, pair[0])


def test_compare(scored):
    files = (scored / "ref.trn", scored / "hyp.trn", scored / "ref.txt")
    assert succeed("compare", *files).splitlines()[0].endswith("--speaker-in-id.")
    result = json.loads(succeed("compare", *files, "--json", "--weights", "sclite", "--seed", 3))
    assert result["names"] == ["hyp", "ref"]
    assert result["by_utterance"]["seed"] == 3
    assert result["normalisation"].startswith("none")
    assert "nowhere" in fail("compare", *files[:2], "nowhere.trn")
    (scored / "less.txt").write_text("".join((scored / "ref.txt").read_text().splitlines(True)[1:]))
    assert fail("compare", *files[:2], scored / "less.txt").startswith("error: less: 1 of ")


@pytest.mark.parametrize("content", [None, "", "no colon and no id at all )\n{\n"])
def test_score_with_a_wrong_file(scored, tmp_path, content):
    path = tmp_path / "hyp.trn"
    if content is not None:
        path.write_text(content)
    outcome = call("score", scored / "ref.trn", path)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: {path}")
    assert "Traceback" not in outcome.err

"""Evaluations: splits, speakers, durations, and their tables, CSV and alignment files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from asr_emapl.errors import UserError
from asr_emapl.scoring import score
from asr_emapl.scoring.alignment_files import write_alignments
from asr_emapl.scoring.evaluation import Evaluation, evaluate, split_names
from asr_emapl.scoring.evaluation_report import evaluation_csv, evaluation_lines
from asr_emapl.scoring.normalisation import NORMALISATIONS, normalisation
from asr_emapl.scoring.tally import ScoringConfig, joined, tally
from asr_emapl.scoring.transcripts import TranscriptEntry

REFERENCES = {
    "84-1": TranscriptEntry("THE CAT SAT", "84", 2.0),
    "84-2": TranscriptEntry("ON THE MAT", "84", 5.0),
    "7-1": TranscriptEntry("", "7", 12.0),
    "7-2": TranscriptEntry("A B C D", "7", 40.0),
}
HYPOTHESES = {"84-1": "THE CAT SIT", "84-2": "ON THE MAT", "7-1": "HM", "7-2": ""}


def write(path: Path, transcripts: dict[str, TranscriptEntry] | dict[str, str]) -> str:
    records = [
        {"id": name, "text": t} if isinstance(t, str) else
        {"id": name, "text": t.text, "speaker": t.speaker, "duration": t.seconds}
        for name, t in transcripts.items()
    ]  # fmt: skip
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    return [write(tmp_path / "dev.jsonl", REFERENCES), write(tmp_path / "hyp.jsonl", HYPOTHESES)]


def evaluated(files: list[str], **config: object) -> Evaluation:
    return evaluate(files, ScoringConfig(**config), normalisation("none"))  # type: ignore[arg-type]


def test_breakdowns_add_up() -> None:
    found = tally(REFERENCES, HYPOTHESES, ScoringConfig())
    assert found.score == score({name: t.text for name, t in REFERENCES.items()}, HYPOTHESES)
    assert found.score.words.to_dict() == {
        **{"substitutions": 1, "deletions": 4, "insertions": 1, "reference_length": 10},
        **{"errors": 6, "rate": 0.6},
    }
    speakers = found.by_speaker()
    assert list(speakers) == ["7", "84"]
    assert speakers["7"].words.errors == 5
    assert speakers["7"] + speakers["84"] == found.score
    durations = found.by_duration()
    assert {name: s.sentences for name, s in durations.items()} == {
        **{"below 5 s": 1, "5 to 10 s": 1, "10 to 15 s": 1, "from 30 s": 1},
    }
    assert next(iter(durations)) == "below 5 s"


def test_unknown_speakers_and_durations() -> None:
    some = {"a": TranscriptEntry("A", "me"), "b": TranscriptEntry("B", None, 1.0)}
    found = tally(some, {"a": "A", "b": "C"}, ScoringConfig())
    assert found.clusters is None
    assert list(found.by_speaker()) == ["me"]
    assert list(found.by_duration()) == ["below 5 s"]
    assert [pair.id for pair in joined({"x": found, "y": found}).pairs] == ["x/a", "x/b", "y/a", "y/b"]


def test_one_split_is_the_total(pair: list[str]) -> None:
    found = evaluated(pair).to_dict(most=2)
    json.dumps(found, allow_nan=False)
    assert found["words"]["errors"] == 6
    assert found["normalisation"].startswith("none")
    assert found["speakers"]["7"]["words"]["insertions"] == 1
    assert found["confusions"]["deletions"] == [("A", 1), ("B", 1)]
    assert set(found["by_speaker"]) == set(found["by_utterance"]) == {"words", "characters", "sentences"}
    assert found["by_speaker"]["words"]["drawn"] == 2
    assert "splits" not in found
    assert "out_of_vocabulary" not in found


def test_several_splits(pair: list[str], tmp_path: Path) -> None:
    other = [write(tmp_path / "test.jsonl", {"84-1": "X Y"}), write(tmp_path / "t.jsonl", {"84-1": "X"})]
    found = evaluated(pair + other)
    assert list(found.splits) == ["dev", "test"]
    assert found.total.score == found.splits["dev"].score + found.splits["test"].score
    assert found.to_dict(0)["splits"]["test"]["words"]["errors"] == 1
    shown = list(evaluation_lines(found, [], 0))
    assert [line.split()[:3] for line in shown[1:10:3]] == [
        ["dev", "WER", "60.00"], ["test", "WER", "50.00"], ["all", "WER", "58.33"],
    ]  # fmt: skip


def test_names_of_splits() -> None:
    assert split_names(["a/dev.clean.jsonl.gz", "b/x.trn", "text"]) == ["dev.clean", "x", "text"]
    assert split_names(["a/dev.trn", "b/dev.trn"]) == ["a/dev.trn", "b/dev.trn"]
    assert split_names(["x/y/a/dev.trn", "x/y/b/c/dev.trn"]) == ["a/dev.trn", "b/c/dev.trn"]
    assert split_names(["dev.trn", "dev.trn"]) == ["dev.trn (1)", "dev.trn (2)"]


def test_missing_files_and_ids(pair: list[str], tmp_path: Path) -> None:
    for files in (pair[:1], pair * 2 + pair[:1], []):
        with pytest.raises(UserError, match=f"^got {len(files)} files.*REF HYP"):
            evaluated(files)
    short = write(tmp_path / "short.jsonl", {"84-1": "A", "x": "B"})
    with pytest.raises(
        UserError, match=r"short.jsonl: 3 of 4 references have no hypothesis: 84-2, 7-1, 7-2; 1"
    ):
        evaluated([pair[0], short])
    found = evaluated([pair[0], short], allow_missing=True)
    assert (found.total.tally.missing, found.total.tally.extra) == (["84-2", "7-1", "7-2"], ["x"])
    last = list(evaluation_lines(found, [], 0))[-1]
    assert last == "3 hypotheses missing (counted as empty), 1 extra (ignored)"


def test_speakers_in_ids(tmp_path: Path) -> None:
    texts = write(tmp_path / "a.jsonl", {"84-1": "A", "84_2": "B", "7": "C"})
    assert list(evaluated([texts, texts], speaker_in_id=True).total.tally.by_speaker()) == ["7", "84"]
    assert evaluated([texts, texts]).total.by_speaker == {}


def test_lines(pair: list[str]) -> None:
    shown = list(evaluation_lines(evaluated(pair), ["speaker", "duration"], 1))
    assert shown[0].split()[-7:] == ["N", "95", "%", "by", "utterance", "by", "speaker"]
    assert len({len(line) for line in shown[:4]}) == 1
    table = shown[shown.index("") + 1 :]
    assert table[0].split() == [
        *("speaker", "WER", "%", "CER", "%", "SER", "%", "sub", "del", "ins", "words", "utterances")
    ]
    assert table[1].split() == ["7", "125.00", "128.57", "100.00", "0", "4", "1", "4", "2"]
    assert any(line.startswith("SAT -> SIT") for line in shown)
    assert shown[-1] == "normalisation: none: texts as they are, words separated by whitespace"


def test_lines_without_speakers_and_durations(tmp_path: Path) -> None:
    texts = write(tmp_path / "a.jsonl", {"a": "A", "b": "B"})
    found = evaluated([texts, texts], resamples=0)
    shown = list(evaluation_lines(found, ["speaker", "duration"], 0))
    assert "%" not in shown[0].split()[1:]
    hint = "or derive them from ids with --speaker-in-id"
    assert f"speakers are unknown; add them to the reference, {hint}" in shown
    assert "durations are unknown; add them to the reference" in shown


def test_csv(pair: list[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(evaluation_csv(evaluated(pair)))))
    assert {row["group"] for row in rows} == {"all", "split", "speaker", "duration"}
    assert all(row["normalisation"] == "none" for row in rows)
    first = rows[0]
    assert (first["measure"], first["errors"], first["reference_length"]) == ("WER", "6", "10")
    assert float(first["low_by_utterance"]) <= 0.6 <= float(first["high_by_utterance"])
    (seven,) = (row for row in rows if (row["group"], row["name"], row["measure"]) == ("speaker", "7", "SER"))
    assert (seven["rate"], seven["errors"], seven["deletions"], seven["low_by_speaker"]) == (
        "1.0",
        "2",
        "",
        "",
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", "84-1: 1 error in 3 words"),
        ("a.html", "<del>SAT</del><ins>SIT</ins>"),
        ("a.PRA", "System name:   dev"),
        ("a.pra", "id: (84-1)\nScores: (#C #S #D #I) 2 1 0 0\n"),
    ],
)
def test_alignments_written(pair: list[str], tmp_path: Path, name: str, expected: str) -> None:
    place = tmp_path / "new" / name
    write_alignments(place, evaluated(pair).total.tally.alignments, "dev", NORMALISATIONS["none"])
    content = place.read_text(encoding="utf-8")
    assert expected in content
    assert ("none: texts as they are" in content) == (not name.lower().endswith("pra"))
    assert [path.name for path in place.parent.iterdir()] == [name]


def test_invalid_alignment_files(pair: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a.pdf: .*\.txt, \.html, \.pra"):
        write_alignments(tmp_path / "a.pdf", [], "dev", "none")
    with pytest.raises(UserError, match=r"a\.txt: cannot be written"):
        write_alignments(tmp_path / "dev.jsonl" / "a.txt", [], "dev", "none")


def test_weights_of_sclite(tmp_path: Path) -> None:
    files = [write(tmp_path / "r.jsonl", {"u": "A B"}), write(tmp_path / "h.jsonl", {"u": "B C"})]
    found = evaluated(files, weights="sclite", resamples=0)
    counts = found.total.score.words
    assert (counts.substitutions, counts.deletions, counts.insertions) == (0, 1, 1)
    assert [alignment.counts for alignment in found.total.tally.alignments] == [counts]
    assert found.to_dict(0)["weights"] == "sclite"
    assert any("sclite's weights" in line for line in evaluation_lines(found, [], 0))
    assert evaluated(files, resamples=0).total.score.words.substitutions == 2


def test_vocabulary_in_an_evaluation(pair: list[str], tmp_path: Path) -> None:
    (tmp_path / "words").write_text("the\ncat\nsat\non\nmat\n")
    found = evaluate(pair, ScoringConfig(resamples=0), normalisation("words"), [str(tmp_path / "words")])
    assert found.to_dict(0)["out_of_vocabulary"]["running"] == 4
    shown = "\n".join(evaluation_lines(found, [], 0))
    assert "out of vocabulary: 40.00 % of 10 words (4 tokens, 4 types), 0 recognised correctly" in shown
    assert "most frequent: A (1), B (1), C (1), D (1)" in shown


def test_both_sides_are_normalised(tmp_path: Path) -> None:
    files = [write(tmp_path / "r.jsonl", {"u": "It's"}), write(tmp_path / "h.jsonl", {"u": "it is"})]
    assert evaluate(files, ScoringConfig(), normalisation("jiwer")).total.score.words.errors == 0
    assert evaluated(files).total.score.words.errors == 2

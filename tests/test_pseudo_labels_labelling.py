"""Parts are written once, whatever interrupts the work; other settings are refused; joining filters."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from asr_emapl.data.manifest import Manifest, open_manifest, read_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.joined_labels import join_parts, summary
from asr_emapl.pseudo_labels.label_parts import LabelParts, part_path
from asr_emapl.pseudo_labels.labelling import UtteranceLabel, label_manifest

ALONE = ProcessGroup(0, 1, torch.device("cpu"))
LIMITS = PseudoLabelConfig()
PART_HOURS = 3 * 2.0 / 3600.0
"""Three of the utterances."""


class Fixed:
    """Labels by utterance; fails after some parts."""

    def __init__(
        self, answers: dict[str, UtteranceLabel], fails_after: int = 99, **provenance: object
    ) -> None:
        self.answers, self.fails_after = answers, fails_after
        self.provenance = {"decoder": "fixed", **provenance}
        self.files = ["somewhere"]
        self.asked: list[str] = []

    def label(self, parts: Iterable[list[Utterance]], advance):
        for number, part in enumerate(parts):
            if number == self.fails_after:
                raise KeyboardInterrupt
            self.asked += [u.id for u in part]
            yield [self.answers[u.id] for u in part]
            advance(sum(u.duration for u in part))


def answer(utterance: Utterance, number: int) -> UtteranceLabel:
    """By number: empty, undecodable, of low confidence, of unknown confidence, NaN; otherwise good."""
    if number == 1:
        return UtteranceLabel(utterance, "", 0.9, 0)
    if number == 2:
        return UtteranceLabel(utterance, fault="a.flac: broken")
    confidence = {3: 0.2, 4: None, 5: float("nan")}.get(number, 0.9)
    return UtteranceLabel(utterance, f"WORD {number}", confidence, 6)


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    utterances = [
        Utterance(f"u{i}", f"/audio/{i}.flac", 2.0, "THE TRUTH", speaker="me", offset=1.5 * (i % 2))
        for i in range(10)
    ]
    write_manifest(tmp_path / "all.jsonl", utterances)
    return open_manifest(tmp_path / "all.jsonl")


@pytest.fixture
def answers(manifest) -> dict[str, UtteranceLabel]:
    return {u.id: answer(u, number) for number, u in enumerate(manifest)}


def label(manifest: Manifest, folder: Path, labeller: Fixed, hours: float = PART_HOURS) -> LabelParts:
    parts = LabelParts.of(manifest.samples, hours)
    label_manifest(manifest, parts, folder, labeller, ALONE)
    return parts


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_finished_parts_are_neither_asked_for_nor_touched_again(manifest, answers, tmp_path):
    folder = tmp_path / "labels"
    with pytest.raises(KeyboardInterrupt):
        label(manifest, folder, Fixed(answers, fails_after=2))
    before = {path: path.stat() for path in (folder / "parts").iterdir()}
    assert sorted(path.name for path in before) == ["00000.jsonl", "00001.jsonl"]
    second = Fixed(answers)
    parts = label(manifest, folder, second)
    assert second.asked == ["u6", "u7", "u8", "u9"]
    assert all(path.stat() == stat for path, stat in before.items())
    third = Fixed(answers)
    label(manifest, folder, third)
    assert third.asked == []
    label(manifest, tmp_path / "whole", Fixed(answers))
    for number in range(len(parts)):
        assert part_path(folder, number).read_bytes() == part_path(tmp_path / "whole", number).read_bytes()


def test_only_what_is_missing_is_made_again(manifest, answers, tmp_path):
    label(manifest, tmp_path, Fixed(answers))
    part_path(tmp_path, 1).unlink()
    again = Fixed(answers)
    label(manifest, tmp_path, again)
    assert again.asked == ["u3", "u4", "u5"]


def test_other_settings_are_refused_and_named(manifest, answers, tmp_path):
    label(manifest, tmp_path / "labels", Fixed(answers))
    with pytest.raises(UserError, match=r'labels: .*decoder: "fixed" -> "beam".*another --out'):
        label(manifest, tmp_path / "labels", Fixed(answers, decoder="beam"))
    with pytest.raises(UserError, match="part_hours: "):
        label(manifest, tmp_path / "labels", Fixed(answers), hours=1.0)
    write_manifest(tmp_path / "all.jsonl", list(manifest)[:-1])
    with pytest.raises(UserError, match=r"manifest.content: .*manifest.utterances: 10 -> 9"):
        label(open_manifest(tmp_path / "all.jsonl"), tmp_path / "labels", Fixed(answers))


def test_a_moved_checkpoint_is_the_same_checkpoint(manifest, answers, tmp_path):
    label(manifest, tmp_path, Fixed(answers))
    moved = Fixed(answers)
    moved.files = ["elsewhere"]
    label(manifest, tmp_path, moved)


def test_a_manifest_of_others_is_not_replaced(manifest, answers, tmp_path):
    (tmp_path / "manifest.jsonl").write_text("by hand")
    with pytest.raises(UserError, match="already exists"):
        label(manifest, tmp_path, Fixed(answers))
    assert not (tmp_path / "plan.json").exists()


def test_lines_have_the_utterance_the_label_and_where_it_is_from(manifest, answers, tmp_path):
    parts = label(manifest, tmp_path, Fixed(answers))
    join_parts(tmp_path, parts, LIMITS, "drop")
    first = lines(tmp_path / "manifest.jsonl")[0]
    assert first == {
        **{"id": "u0", "audio": "/audio/0.flac", "duration": 2.0, "speaker": "me"},
        **{"text": "WORD 0", "tokens": 6, "confidence": 0.9, "provenance": {"decoder": "fixed"}},
    }
    read = {u.id: u for u in read_manifest(tmp_path / "manifest.jsonl", require_text=True)}
    assert read["u7"] == Utterance("u7", "/audio/7.flac", 2.0, "WORD 7", "me", 1.5)


def test_what_has_no_label_is_in_the_part_alone(manifest, answers, tmp_path):
    parts = label(manifest, tmp_path, Fixed(answers))
    found = join_parts(tmp_path, parts, LIMITS, "drop")
    (line,) = [line for line in lines(part_path(tmp_path, 0)) if line["id"] == "u2"]
    assert line["left_out"] == "a.flac: broken"
    assert "text" not in line, "a transcript is not a label"
    assert (found.left_out, found.example) == (1, "u2: a.flac: broken")
    assert "u2" not in {line["id"] for line in lines(tmp_path / "manifest.jsonl")}


def test_filters_drop_or_record(manifest, answers, tmp_path):
    parts = label(manifest, tmp_path, Fixed(answers))
    limits = PseudoLabelConfig(min_confidence=0.5)
    dropped = join_parts(tmp_path, parts, limits, "drop")
    ids = [line["id"] for line in lines(tmp_path / "manifest.jsonl")]
    assert ids == ["u0", "u4", "u6", "u7", "u8", "u9"]  # u4: nothing is known of its confidence
    assert dropped.dropped == {"empty": 1, "low_confidence": 2}
    assert dropped.kept == 6
    told = summary(dropped, limits, "drop")
    assert told["manifest"] == {"utterances": 6, "hours": round(12 / 3600, 6)}
    assert told["dropped"]["low_confidence"] == {"utterances": 2, "hours": round(4 / 3600, 6)}
    assert told["left_out"]["utterances"] == 1

    recorded = join_parts(tmp_path, parts, limits, "record")
    reasons = {line["id"]: line.get("filter") for line in lines(tmp_path / "manifest.jsonl")}
    assert {id_ for id_, reason in reasons.items() if reason == "low_confidence"} == {"u3", "u5"}
    assert "u1" not in reasons, "nothing can be trained on an empty label"
    assert recorded.dropped == dropped.dropped
    assert recorded.kept == 8
    assert len(read_manifest(tmp_path / "manifest.jsonl", require_text=True)) == 8


def test_a_label_of_spaces_alone_is_empty(manifest, answers, tmp_path):
    answers["u7"] = UtteranceLabel(answers["u7"].utterance, "", 0.9, tokens=6)
    parts = label(manifest, tmp_path, Fixed(answers))
    assert join_parts(tmp_path, parts, PseudoLabelConfig(), "record").dropped["empty"] == 2


def test_nothing_left_is_an_error_that_says_why(manifest, answers, tmp_path):
    parts = label(manifest, tmp_path, Fixed(answers))
    join_parts(tmp_path, parts, LIMITS, "drop")
    before = (tmp_path / "manifest.jsonl").read_bytes()
    with pytest.raises(
        UserError, match=r"10 utterances \(7 too_few_tokens, 1 empty, 1 low_confidence, 1 left out"
    ):
        join_parts(tmp_path, parts, PseudoLabelConfig(tokens_per_second=[50.0, 100.0]), "drop")
    assert (tmp_path / "manifest.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing"),
        ("", "has 0 of 3 utterances"),
        ("{}\n", r":1: not a line"),
        ("x\n", r":1: not a"),
    ],
)
def test_a_part_that_was_tampered_with_is_named(manifest, answers, tmp_path, content, said):
    parts = label(manifest, tmp_path, Fixed(answers))
    if content is None:
        part_path(tmp_path, 1).unlink()
    else:
        part_path(tmp_path, 1).write_text(content)
    with pytest.raises(UserError, match=rf"00001\.jsonl.*{said}.*rerun the same command"):
        join_parts(tmp_path, parts, LIMITS, "drop")

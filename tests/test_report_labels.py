"""What a report shows of labels: errors by confidence, followed utterances, kept and dropped labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from support.logged_runs import write_lines, write_run

from asr_emapl.errors import UnreachableError, UserError
from asr_emapl.report import labels as labels_module
from asr_emapl.report import player
from asr_emapl.report.labels import labels_of_runs
from asr_emapl.report.page import render
from asr_emapl.report.run import read_runs


def labels(hours: float, text: str) -> dict[str, object]:
    return {
        "event": "labels",
        "hours": hours,
        "step": round(10 * hours),
        "utterances": 20,
        "audio_hours": {"kept": 0.15, "loop": 0.05},
        "blank_share": 0.7,
        "decile_errors": [5, *[0] * 9],
        "decile_words": [10] * 10,
        "followed": [
            {"id": "<u1>", "step": 2, "text": text, "confidence": 0.5, "transcript": "PASS <X>"},
        ],
        "kept_words": 0.75,
        "entropy": 2.5,
    }


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "plain", [40.0, 30.0])
    folder = write_run(tmp_path / "ema", [40.0, 30.0])
    with (folder / "log.jsonl").open("a") as log:
        for hours in range(30):
            log.write(json.dumps(labels(float(hours), f"PASS {hours}")) + "\n")
        alarm = {"event": "alarm", "hours": 1.5, "step": 9, "reason": "drift", "text": "lost <its> words"}
        log.write(json.dumps(alarm) + "\n")
    soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(np.arange(16_000) / 5.0), 16_000)
    common = {"step": 7, "confidence": 0.5, "duration": 1.0}
    write_lines(
        folder / "label_samples.jsonl",
        [
            common | {"reason": "kept", "id": "k", "audio": str(tmp_path / "a.wav"), "text": "ONE <TWO>"},
            common | {"reason": "loop", "id": "d", "audio": "gone.wav", "text": "", "transcript": "TEN"},
            common | {"reason": "loop", "id": "e", "audio": " ", "text": "", "confidence": None},
        ],
    )
    return read_runs([("plain", tmp_path / "plain"), ("ema", folder)])


def test_errors_of_all_intervals_are_added(runs):
    (found,) = labels_of_runs(runs)
    assert found.run == 1
    assert found.wer_by_confidence == [50.0] + [0.0] * 9


def test_of_many_passes_the_first_the_last_and_some_between_are_shown(runs):
    (found,) = labels_of_runs(runs)
    (followed,) = found.followed
    passes = [label.text for label in followed.labels]
    assert (followed.id, passes[0], passes[-1], len(passes)) == ("<u1>", "PASS 0", "PASS 29", 12)


def test_labels_are_shown_at_the_hours_of_their_step(runs):
    """Not at those of the record, which is written later."""
    (found,) = labels_of_runs(runs)
    assert {label.hours for label in found.followed[0].labels} == {1.0}
    assert {one.labels[0].hours for sample in found.samples for one in sample.utterances} == {None}


def test_labels_are_aligned_with_a_transcript(runs):
    (found,) = labels_of_runs(runs)
    assert found.followed[0].labels[0].alignment.counts.errors == 1
    kept, loops = found.samples
    assert kept.utterances[0].labels[0].alignment is None
    assert loops.utterances[0].labels[0].alignment.counts.deletions == 1


def test_samples_have_a_player_where_there_is_audio(runs):
    (found,) = labels_of_runs(runs)
    kept, loops = found.samples
    assert [(one.reason, len(one.utterances)) for one in found.samples] == [("kept", 1), ("loop", 2)]
    assert kept.utterances[0].player.audio.startswith("data:audio/mpeg")
    assert [one.player.audio for one in loops.utterances] == ["", ""]
    assert "gone.wav" in loops.utterances[0].player.problem
    assert "audio is blank" in loops.utterances[1].player.problem


def test_samples_have_the_audio_of_all_such_labels(runs):
    kept, loops = labels_of_runs(runs)[0].samples
    assert (kept.hours, loops.hours, kept.share) == pytest.approx((4.5, 1.5, 0.75))
    assert "max_repeats" in loops.description


def test_the_number_of_players_is_limited(runs, monkeypatch):
    monkeypatch.setattr(labels_module, "_PLAYERS", 1)
    monkeypatch.setattr(player, "_embedded", lambda utterance: "data:audio/mpeg;base64,AA")
    kept, loops = labels_of_runs(runs)[0].samples
    assert kept.utterances[0].player.audio
    assert not any(one.player.audio for one in loops.utterances)
    assert "fewer runs" in loops.utterances[0].player.problem


def test_a_server_that_cannot_be_reached_is_asked_once(runs, monkeypatch):
    asked = []

    def unreachable(utterance):
        asked.append(utterance.id)
        raise UnreachableError("the server is gone")

    monkeypatch.setattr(player, "_embedded", unreachable)
    (found,) = labels_of_runs(runs)
    assert len(asked) == 1
    assert {one.player.problem for sample in found.samples for one in sample.utterances} == {
        "the server is gone"
    }


def test_the_page_shows_them_escaped(runs):
    page = render(runs, None, 5)
    for text in (
        "WER of labels by confidence",
        "Followed utterances",
        "<ins>29</ins>",
        "&lt;u1&gt;",
        "Kept and dropped labels",
        "4.5 h, 75.0 % of the audio",
        "Blank frames",
        "ONE &lt;TWO&gt;",
        "Dropped: loop",
        "<del>TEN</del>",
        "(empty)",
        "at 1.5 h, lost &lt;its&gt;",
    ):
        assert text in page
    assert "Words relative to the first label" in page
    assert "Labels that loop" not in page  # was not logged


def test_sections_without_contents_are_left_out(tmp_path):
    page = render(read_runs([("run", write_run(tmp_path / "run", [40.0]))]), None, 5)
    assert "Followed utterances" not in page
    assert "Kept and dropped labels" not in page


def test_a_line_that_is_no_sample_is_named(tmp_path):
    folder = write_run(tmp_path / "run", [40.0])
    (folder / "label_samples.jsonl").write_text('{"reason": "kept"}\n')
    with pytest.raises(UserError, match=r"label_samples\.jsonl:1"):
        read_runs([("run", folder)])


def test_a_followed_label_without_confidence_is_named(tmp_path):
    folder = write_run(tmp_path / "run", [40.0])
    broken = {"event": "labels", "hours": 1.0, "followed": [{"id": "a", "text": "A"}]}
    write_lines(folder / "log.jsonl", [broken])
    with pytest.raises(UserError, match=r"log\.jsonl:1.*followed"):
        read_runs([("run", folder)])

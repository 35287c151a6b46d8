"""What a report shows of labels: errors by confidence, followed utterances, kept and dropped labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from support.logged_runs import write_lines, write_run

from asr_emapl.errors import UserError
from asr_emapl.report.labels import labels_of_runs
from asr_emapl.report.page import render
from asr_emapl.report.run import read_runs


def labels(hours: float, text: str) -> dict[str, object]:
    return {
        "event": "labels",
        "hours": hours,
        "step": round(10 * hours),
        "utterances": 20,
        "audio": {"kept": 0.9, "loop": 0.1},
        "decile_errors": [5, *[0] * 9],
        "decile_words": [10] * 10,
        "followed": [{"id": "<u1>", "text": text, "confidence": 0.5}],
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
    soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(np.arange(16_000) / 5.0), 16_000)
    common = {"step": 7, "confidence": 0.5, "duration": 1.0}
    write_lines(
        folder / "label_samples.jsonl",
        [
            common | {"reason": "kept", "id": "k", "audio": str(tmp_path / "a.wav"), "text": "ONE <TWO>"},
            common | {"reason": "loop", "id": "d", "audio": "gone.wav", "text": "", "transcript": "TEN"},
            common | {"reason": "loop", "id": "e", "audio": " ", "text": "X X X X", "confidence": None},
        ],
    )
    return read_runs([("plain", tmp_path / "plain"), ("ema", folder)])


def test_errors_of_all_intervals_are_added(runs):
    (found,) = labels_of_runs(runs)
    assert found.run == 1
    assert found.wer_by_confidence == [50.0] + [0.0] * 9


def test_of_many_passes_the_first_the_last_and_some_between_are_shown(runs):
    (found,) = labels_of_runs(runs)
    passes = [label.text for label in found.followed["<u1>"]]
    assert (passes[0], passes[-1], len(passes)) == ("PASS 0", "PASS 29", 12)


def test_samples_have_a_player_where_there_is_audio(runs):
    (found,) = labels_of_runs(runs)
    assert {reason: len(samples) for reason, samples in found.samples.items()} == {"kept": 1, "loop": 2}
    assert found.samples["kept"][0].audio.startswith("data:audio/mpeg")
    assert [one.audio for one in found.samples["loop"]] == ["", ""]


def test_the_page_shows_them_escaped(runs):
    page = render(runs, None, 5)
    for text in (
        "WER of labels by confidence",
        "PASS 29",
        "&lt;u1&gt;",
        "ONE &lt;TWO&gt;",
        "Dropped: loop",
        "(empty)",
    ):
        assert text in page
    assert "Words, of those of the first labels" in page
    assert "Labels that loop" not in page  # was not logged


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

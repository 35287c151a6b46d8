"""Which charts there are, and what they are of."""

from __future__ import annotations

import pytest
from support.logged_runs import STEP, write_lines, write_run

from asr_emapl.report.charts import chart_groups, word_error_rates
from asr_emapl.report.run import read_runs


@pytest.fixture
def groups(tmp_path):
    runs = read_runs(
        [("a", write_run(tmp_path / "a", [60.0, 40.0])), ("b", write_run(tmp_path / "b", [20.0]))]
    )
    return {group.name: {chart.title: chart for chart in group.charts} for group in chart_groups(runs)}


def test_everything_that_was_logged_has_its_chart(groups):
    assert {name: list(charts) for name, charts in groups.items()} == {
        "wer": ["dev"],
        "pseudo-labels": ["Trained on", "Not empty", "Mean confidence", "Tokens per utterance"],
        "scaling": ["Learning rate", "kappa", "rho", "Teacher's half-life"],
        "learning": ["Loss, labelled", "Loss, pseudo-labelled", "Gradient norm"],
        "speed": ["Speed"],
    }


def test_a_line_for_each_run_and_model_the_teachers_on_top(groups):
    lines = groups["wer"]["dev"].lines
    assert [(line.name, line.run, line.dashed) for line in lines] == [
        ("a, student", 0, True),
        ("b, student", 1, True),
        ("a, teacher", 0, False),
        ("b, teacher", 1, False),
    ]
    assert lines[2].points == [(1.0, 60.0), (2.0, 40.0)]


def test_what_pseudo_labels_were_like(groups):
    values = {title: chart.lines[0].points for title, chart in groups["pseudo-labels"].items()}
    assert values == {
        "Trained on": [(1.0, 75.0), (2.0, 75.0)],
        "Not empty": [(1.0, 75.0), (2.0, 75.0)],
        "Mean confidence": [(1.0, 90.0), (2.0, 90.0)],
        "Tokens per utterance": [(1.0, pytest.approx(20 / 3)), (2.0, pytest.approx(20 / 3))],
    }


def test_what_was_in_force(groups):
    ends = {title: chart.lines[0].points[-1] for title, chart in groups["scaling"].items()}
    assert ends == {
        "Learning rate": (2.0, 0.002),
        "kappa": (2.0, 2.5),
        "rho": (2.0, 0.98),
        "Teacher's half-life": (2.0, 0.5),
    }
    assert groups["speed"]["Speed"].lines[0].points == [(1.0, 72.0), (2.0, 72.0)]


def test_what_nobody_logged_has_none(tmp_path):
    step = {key: value for key, value in STEP.items() if key not in ("kappa", "half_life_hours")}
    steps = [{**step, "step": i, "hours": i / 10, "loss": 0.0, "utterances": 0} for i in (1, 2)]
    steps[1] |= {"lr": 0.002}  # rho is constant
    write_lines(tmp_path / "log.jsonl", steps)
    groups = chart_groups(read_runs([("old", tmp_path)]))
    assert {group.name: [chart.title for chart in group.charts] for group in groups} == {
        "scaling": ["Learning rate"],
        "learning": ["Gradient norm"],
    }


def test_a_split_of_one_run_alone_has_a_chart_too(tmp_path):
    runs = read_runs(
        [
            ("a", write_run(tmp_path / "a", [60.0], ("dev", "other"))),
            ("b", write_run(tmp_path / "b", [250.0, 50.0], ("dev",))),
        ]
    )
    dev, other = word_error_rates(runs)
    assert (dev.title, len(dev.lines)) == ("dev", 4)
    assert (other.title, len(other.lines)) == ("other", 2)
    # What lies above 100 % on the way down is cut off.
    assert dev.ceiling == pytest.approx(104.0)


def test_changes_and_wer_of_labels(tmp_path):
    lines = [
        {"event": "labels", "step": 50, "hours": 1.0, "utterances": 9, "label_wer": 40.0},
        {"event": "labels", "step": 99, "hours": 2.0, "utterances": 9, "label_wer": 30.0, "changed": 0.25},
    ]
    write_lines(tmp_path / "log.jsonl", lines)
    (group,) = chart_groups(read_runs([("run", tmp_path)]))
    points = {chart.title: chart.lines[0].points for chart in group.charts}
    assert points == {
        "WER of labels": [(1.0, 40.0), (2.0, 30.0)],
        "Changed since the last pass": [(2.0, 25.0)],
    }

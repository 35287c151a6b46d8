"""Settings side by side, and what the batch made of them."""

from __future__ import annotations

from asr_emapl.report.run import Run
from asr_emapl.report.settings import scaled, settings

CONFIG = {
    "hours": 2.0,
    "run_dir": "a",
    "batch": {"seconds": 24, "reference_seconds": 12.0},
    "teacher": {"rho": 0.99},
}


def run(config, folder, **step) -> Run:
    steps = [{"kind": "labelled", "hours": 1.0, **step}] if step else []
    return Run("run", folder, steps, config=config)


def test_settings_side_by_side(tmp_path):
    one = {"a": {"b": 1, "c": [0.9, 0.98]}, "d": None, "e": True, "f": {}, "g": [{"x": 1}]}
    other = {"a": {"b": 2, "c": [0.9, 0.98]}, "d": None, "new": "text"}
    found = settings([run(one, tmp_path), run(other, tmp_path), run(None, tmp_path)])
    assert {setting.key: setting.values for setting in found} == {
        "a.b": ["1", "2", ""],
        "a.c": ["0.9, 0.98", "0.9, 0.98", ""],
        "d": ["none", "none", ""],
        "e": ["true", "", ""],
        "f": ["none", "", ""],
        "g": ["{'x': 1}", "", ""],
        "new": ["", "text", ""],
    }


def test_those_that_differ(tmp_path):
    found = settings([run({"same": 1, "other": 1}, tmp_path), run({"same": 1, "other": 2}, tmp_path)])
    assert [setting.key for setting in found if setting.differs] == ["other"]
    assert settings([run(None, tmp_path)]) == []


def kappa(found) -> str:
    (row,) = [row for row in found.rows if row.name == "kappa"]
    return row.scaled


def test_hyper_parameters_at_the_batch_of_the_config(tmp_path):
    assert kappa(scaled(run(CONFIG, tmp_path))) == "2"


def test_the_log_knows_better(tmp_path):
    """Of a batch that depended on the hardware."""
    automatic = {**CONFIG, "batch": {"seconds": "auto", "reference_seconds": 12.0}}
    assert kappa(scaled(run(automatic, tmp_path, kappa=8.0))) == "8"
    assert scaled(run(automatic, tmp_path)).note.startswith("the log does not say which batch")


def test_a_kappa_of_each_step_is_not_the_runs(tmp_path):
    each = {**CONFIG, "optimizer": {"audio_per_step": "actual"}}
    assert kappa(scaled(run(each, tmp_path, kappa=1.9))) == "2"


def test_without_a_config_or_with_one_of_another_version(tmp_path):
    assert scaled(run(None, tmp_path)) is None
    found = scaled(run({"no_such_key": 1}, tmp_path))
    assert (found.rows, found.warnings) == ([], [])
    assert "no_such_key" in found.note

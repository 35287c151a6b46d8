"""The table of WERs from the files of `score --json`."""

from __future__ import annotations

import json

import pytest
from support.commands import succeed

from asr_emapl.errors import UserError
from asr_emapl.scoring.score_table import score_table


def scores(folder, **rates):
    folder.mkdir(parents=True)
    for name, rate in rates.items():
        (folder / f"{name.replace('_', '.')}.json").write_text(json.dumps({"words": {"rate": rate}}))
    return folder


def test_rows_are_systems_and_columns_are_splits(tmp_path):
    seed = scores(tmp_path / "seed", dev_teacher=0.5)
    ema = [scores(tmp_path / f"ema-{i}", dev_teacher=0.25 + i / 10, dev_student=0.3) for i in range(2)]
    (seed / "other.json").write_text("{}")
    assert score_table({"seed": [seed], "ema": ema}) == (
        ["WER %", "dev student", "dev teacher"],
        [["seed", "-", "50.0"], ["ema", "30.0 +-0.0", "30.0 +-5.0"]],
    )
    said = succeed("score-table", f"seed={seed}", *(f"ema={folder}" for folder in ema))
    assert "30.0 +-5.0" in said


@pytest.mark.parametrize("text", ["{}", "[]", "not JSON", '{"words": {"rate": null}}'])
def test_a_foreign_file_is_named(tmp_path, text):
    (tmp_path / "dev.teacher.json").write_text(text)
    with pytest.raises(UserError, match=r"dev\.teacher\.json"):
        score_table({"x": [tmp_path]})


def test_a_folder_without_scores_is_named(tmp_path):
    with pytest.raises(UserError, match="contains no scores"):
        score_table({"x": [tmp_path]})

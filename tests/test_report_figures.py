"""Charts as files: the groups that there is something for, whose lines are whose, the same twice."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from support.logged_runs import write_lines, write_run

from asr_emapl.errors import UserError
from asr_emapl.report.figures import write_figures
from asr_emapl.report.run import read_runs


@pytest.fixture
def runs(tmp_path):
    one = write_run(tmp_path / "one", [40.0, 30.0], config="")
    two = write_run(tmp_path / "two", [50.0, 20.0], config="")
    return read_runs([("baseline $x_1$", one), ("ema", two)])


def test_a_file_of_each_kind_a_group(runs, tmp_path):
    files = write_figures(runs, tmp_path / "new" / "figures")
    assert {file.name for file in files} >= {"wer.svg", "wer.png", "learning.svg", "learning.png"}
    assert sorted(files) == sorted((tmp_path / "new" / "figures").iterdir())
    for file in files:
        if file.suffix == ".png":
            assert file.read_bytes().startswith(b"\x89PNG")
        else:
            ElementTree.parse(file)


def test_lines_are_named_as_they_are_written(runs, tmp_path):
    write_figures(runs, tmp_path)
    texts = (tmp_path / "wer.svg").read_text(encoding="utf-8")  # names in comments, letters as shapes
    for name in ("baseline $x_1$, teacher", "ema, teacher", "dev (%)", "Word error rate"):
        assert f"<!-- {name} -->" in texts


def test_the_same_runs_give_the_same_svg(runs, tmp_path):
    write_figures(runs, tmp_path / "a")
    write_figures(runs, tmp_path / "b")
    for file in (tmp_path / "a").glob("*.svg"):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_what_no_run_has_logged_is_not_drawn(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_lines(folder / "log.jsonl", [{"event": "validation", "hours": 1.0, "wer": {"teacher/dev": 40.0}}])
    files = write_figures(read_runs([("run", folder)]), tmp_path / "figures")
    assert {file.stem for file in files} == {"wer"}


def test_a_folder_that_is_a_file(runs, tmp_path):
    (tmp_path / "figures").write_text("")
    with pytest.raises(UserError, match=r"wer\.svg: cannot be written"):
        write_figures(runs, tmp_path / "figures")

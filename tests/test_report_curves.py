"""Curves from logs, and pictures of them: what is in them, and what is refused."""

from __future__ import annotations

import itertools
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support.logged_runs import SPLITS, write_validated_run
from typer.testing import CliRunner

from asr_emapl import cli
from asr_emapl.errors import UserError
from asr_emapl.report import curves
from asr_emapl.report.curves import draw_curves


def texts(svg: Path) -> list[str]:
    """matplotlib draws letters as shapes and leaves each text as a comment."""
    return [
        line.split("<!--")[1].split("-->")[0].strip()
        for line in svg.read_text().splitlines()
        if "<!--" in line
    ]


def test_png(tmp_path) -> None:
    runs = [(f"run {i}", write_validated_run(tmp_path / str(i), [90.0, 40.0 + i])) for i in range(2)]
    out = tmp_path / "new" / "folder" / "curves.png"
    draw_curves(runs, out)
    content = out.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 1_000
    assert height > 500


def test_svg_says_what_is_drawn(tmp_path) -> None:
    runs = [
        ("first", write_validated_run(tmp_path / "a", [90.0, 41.0])),
        ("costs $5 & <more> $", write_validated_run(tmp_path / "b", [90.0, 42.0, 33.3])),
    ]
    draw_curves(runs, tmp_path / "curves.SVG")
    found = texts(tmp_path / "curves.SVG")
    assert [t for t in found if t in SPLITS] == list(SPLITS)
    assert found.count("WER (%)") == 1
    assert found.count("audio consumed (hours)") == 2
    assert {"teacher", "student", "41.0", "33.3", "51.0  first"} <= set(found)
    assert sum("$5 &" in t and t.startswith("43.3  costs") for t in found) == 1


def test_same_runs_same_file(tmp_path) -> None:
    run = write_validated_run(tmp_path / "run", [90.0, 40.0])
    for name in ("a.svg", "b.svg"):
        draw_curves([("run", run)], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_each_run_is_named_in_the_last_panel_it_is_in(tmp_path) -> None:
    runs = [
        ("both", write_validated_run(tmp_path / "a", [40.0])),
        ("one", write_validated_run(tmp_path / "b", [20.0], models=("student",), splits=SPLITS[:1])),
    ]
    draw_curves(runs, tmp_path / "curves.svg")
    found = texts(tmp_path / "curves.svg")
    # Without a teacher, the student's number.
    assert {"40.0", "50.0  both", "21.0  one"} <= set(found)


@pytest.mark.parametrize("rates", [[250.0, 180.0], [float("inf"), 50.0], [0.0], [100.0] * 30])
def test_odd_rates(tmp_path, rates) -> None:
    draw_curves([("run", write_validated_run(tmp_path / "run", rates))], tmp_path / "curves.png")


def test_more_runs_than_colours(tmp_path) -> None:
    runs = [(f"run {i}", write_validated_run(tmp_path / str(i), [50.0 + i])) for i in range(9)]
    draw_curves(runs, tmp_path / "curves.svg")
    found = texts(tmp_path / "curves.svg")
    assert "66.0  run 6" in found
    assert "67.0  \u25cf run 7" in found
    assert len({curves.look(i) for i in range(28)}) == 28


@pytest.mark.parametrize("name", ["curves.pdf", "curves", "curves.jpg"])
def test_other_endings_are_refused_before_anything_is_read(tmp_path, name) -> None:
    with pytest.raises(UserError, match=rf"{name}: unknown image format; use the file extension .png"):
        draw_curves([("run", tmp_path / "absent")], tmp_path / name)


def test_no_runs(tmp_path) -> None:
    with pytest.raises(UserError, match="no runs"):
        draw_curves([], tmp_path / "curves.png")


def test_a_place_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"curves\.png: cannot be written"):
        draw_curves([("run", write_validated_run(tmp_path / "run", [9.0]))], tmp_path / "file" / "curves.png")


@pytest.mark.parametrize(
    "heights",
    [[], [0.5], [0.1, 0.1, 0.1], [0.0, 0.01, 0.9, 1.0, 1.0], [0.2, 0.3, 0.4], [0.5] * 15, [1.0] * 3],
)
def test_labels_are_moved_apart_and_no_further(heights) -> None:
    spread = curves._spread(heights)
    gap = curves._LINE_SHARE
    assert all(b - a > gap - 1e-9 for a, b in itertools.pairwise(spread))
    assert all(-1e-9 <= height <= 1.0 + 1e-9 for height in spread)
    if all(b - a >= gap for a, b in itertools.pairwise(heights)):
        assert spread == pytest.approx(heights)
    assert len(spread) == len(heights)


def test_panels_end_at_100_for_curves_that_come_down_from_above() -> None:
    def top(*rates: float) -> float:
        return curves.highest([[(float(i), r) for i, r in enumerate(rates)]])

    assert top(300.0, 40.0) == pytest.approx(104.0)
    assert top(80.0, 40.0) == pytest.approx(83.2)
    assert top(400.0, 200.0) == pytest.approx(1.04 * 240.0)
    assert top(0.0) == pytest.approx(1.04)
    assert top(float("inf")) == pytest.approx(1.04)


def test_neither_reading_nor_drawing_loads_torch(tmp_path) -> None:
    run = write_validated_run(tmp_path / "run", [90.0, 40.0])
    code = (
        "import sys; from pathlib import Path; from asr_emapl.report.curves import draw_curves;"
        "assert 'matplotlib' not in sys.modules;"
        f"draw_curves([('run', Path({str(run)!r}))], Path({str(tmp_path / 'curves.png')!r}));"
        "assert 'torch' not in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_command_with_a_run_directory_whose_name_has_an_equals_sign(tmp_path) -> None:
    run = write_validated_run(tmp_path / "lr=0.1", [90.0, 40.0])
    out = tmp_path / "curves.svg"
    result = CliRunner().invoke(cli.app, ["plot", str(run), f"low={run}", "--out", str(out)])
    assert result.exit_code == 0, result.exception
    assert {"50.0  lr=0.1", "50.0  low"} <= set(texts(out))


def test_command(tmp_path) -> None:
    run = write_validated_run(tmp_path / "run", [90.0, 40.0])
    out = tmp_path / "curves.svg"
    result = CliRunner().invoke(cli.app, ["plot", str(run), f"other={run}", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert str(out) in result.output.replace("\n", "")
    assert {"50.0  run", "50.0  other"} <= set(texts(out))

"""The scan over batches: which runs it makes of a config, how it measures distances, a whole small one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny import WITH_UNLABELLED, make_corpus

from asr_emapl.config import load_config
from asr_emapl.training.build import nominal_step_audio

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "kappa_scan"
QUICKSTART = ROOT / "recipes" / "quickstart" / "conf" / "quickstart.yaml"
sys.path[:0] = [str(RECIPE), str(RECIPE.parent)]

from distance import compare, mean_curve, spread, teacher_curves  # noqa: E402
from scan import Run, Scan  # noqa: E402


@pytest.fixture
def scan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = tmp_path / "runs" / "seed" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "step-000000007.pt").touch()
    return Scan(load_config(QUICKSTART), 4.0, [0.5, 4.0], 3)


def resolved(run: Run):
    """The run as the trainer sees it, and its kappa."""
    config = load_config(QUICKSTART, run.overrides)
    return config, nominal_step_audio(config, 1).kappa()


def rho_per_step(config, kappa):
    seconds = config.batch.reference_seconds
    return 0.5 ** (kappa * seconds / config.teacher.half_life_seconds(seconds))


def test_the_runs_of_a_scan(scan):
    names = [run.name for run in scan.others(0.8)]
    assert len(names) == len(set(names)) == 2 * (2 * 4 + 1)
    assert [run.name for run in scan.references()][:3] == [f"ema-reference-seed{i}" for i in range(3)]
    twice = list(Scan(scan.reference, 4.0, [0.5, 4.0], 3, repeats=2).others(0.8))
    assert [run.name for run in twice[: len(names)]] == names  # all of a scan before any repeat
    assert len({run.kind for run in twice}) == len(names) == len(twice) // 2
    assert {resolved(run)[0].seed for run in twice} == {0, 1}
    hours, _ = resolved(scan.seed())
    assert hours.hours == scan.start_hours
    others = [resolved(run)[0] for run in scan.others(0.8)]
    assert {config.hours for config in others} == {scan.start_hours + 4.0}
    # A batch of 6 s must not leave out utterances that the others learn from.
    assert {config.data.max_seconds for config in others} == {0.5 * scan.reference.batch.reference_seconds}


@pytest.mark.parametrize("kappa", [0.5, 4.0])
def test_what_each_mode_scales(scan, kappa):
    base, _ = resolved(next(scan.references()))
    rho, lr = rho_per_step(base, 1.0), base.optimizer.lr
    runs = {run.name: resolved(run) for run in scan.others(0.5)}
    for system, strategy in (("ema", "ema"), ("supervised", "none")):
        for mode, rho_expected, lr_expected in (
            ("full", rho**kappa, lr * kappa**0.5),
            ("noise", rho**kappa, lr * kappa / (kappa / (0.5 + 0.5 * kappa)) ** 0.5),
            ("optimizer", rho, lr * kappa**0.5),
            ("nothing", rho, lr),
        ):
            config, found = runs[f"{system}-{mode}-kappa{kappa:g}-seed0"]
            assert found == kappa
            assert config.pseudo_labels.strategy == strategy
            assert rho_per_step(config, kappa) == pytest.approx(rho_expected)
            assert config.optimizer.reference().at(kappa)[0]["lr"] == pytest.approx(lr_expected)


def test_the_progressive_run_rises_within_the_hours(tmp_path, scan):
    config, kappa = resolved(list(Scan(scan.reference, 6.0, [0.5, 2.0, 4.0, 8.0], 3).others(1.0))[-1])
    start = scan.start_hours
    assert kappa == 1.0
    assert config.batch.progressive == [[start + 2.0, 48.0], [start + 4.0, 96.0]]


def logged(folder: Path, curve: list[tuple[float, float]]) -> Path:
    folder.mkdir()
    records = [
        {"event": "validation", "hours": h, "wer": {"teacher/dev": r, "student/dev": 0}} for h, r in curve
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_distances(tmp_path):
    a = logged(tmp_path / "a", [(1.0, 40.0), (2.0, 30.0), (3.0, 20.0)])
    b = logged(tmp_path / "b", [(1.0, 44.0), (2.0, 30.0), (3.0, 24.0)])
    both = [teacher_curves(run)["dev"] for run in (a, b)]
    assert mean_curve(both) == [
        (1.0, 42.0),
        (2.0, 30.0),
        (3.0, 22.0),
    ]
    # Measured half an hour later than the references: read off between its points.
    late = logged(tmp_path / "late", [(0.5, 50.0), (1.5, 40.0), (2.5, 30.0), (3.5, 20.0)])
    (found,) = compare("late", late, [a, b])
    assert (found.largest, found.last, found.last_wer) == pytest.approx((5.0, 3.0, 20.0))
    assert found.mean == pytest.approx((3.0 + 5.0 + 3.0) / 3)
    assert [c.largest for c in spread("seeds", [a, b])] == [4.0, 4.0]
    assert [c.mean for c in spread("seeds", [a, b])] == pytest.approx([-8.0 / 3, 8.0 / 3])


@pytest.mark.parametrize("arguments", [["--config", "nowhere.yaml"], ["--hours"], ["--frobnicate"]])
def test_usage_errors_are_one_line(tmp_path, arguments):
    command = ["bash", str(RECIPE / "run.sh"), "--exp", str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_whole_scan_and_again(tmp_path):
    make_corpus(tmp_path)
    (tmp_path / "tiny.yaml").write_text(
        WITH_UNLABELLED.format(root=tmp_path) + "pseudo_labels: {strategy: ema, start_hours: 0.01}\n"
    )
    command = ["bash", str(RECIPE / "run.sh"), "--exp", str(tmp_path / "exp"), "--config"]
    command += [
        str(tmp_path / "tiny.yaml"),
        "--hours",
        "0.01",
        "--kappas",
        "2",
        "--seeds",
        "2",
        "--workers",
        "2",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "| ema-full-kappa2 | 1 |" in first.stdout
    assert "ema-progressive" in first.stdout
    distances = json.loads((tmp_path / "exp" / "distances.json").read_text())
    assert len(distances) == 4 + 2 * (4 + 1)
    assert (tmp_path / "exp" / "ema.png").read_bytes().startswith(b"\x89PNG")
    again = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert again.stdout.splitlines()[-8:] == first.stdout.splitlines()[-8:]

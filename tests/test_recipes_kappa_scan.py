"""The scan over batches: which runs it makes of a config, how it measures distances, a whole small one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.tiny import WITH_UNLABELLED, make_corpus, tiny_config

from asr_emapl.config import load_config
from asr_emapl.planning import nominal_step_audio
from asr_emapl.training.trainer import train

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "kappa_scan"
QUICKSTART = ROOT / "recipes" / "quickstart" / "conf" / "quickstart.yaml"
sys.path[:0] = [str(RECIPE), str(RECIPE.parent)]

from distance import compare, interval, mean_curve, teacher_curves  # noqa: E402
from parallel_runs import Devices  # noqa: E402
from scan import Run, Scan  # noqa: E402


@pytest.fixture
def scan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = Scan(load_config(QUICKSTART), 4.0, [0.5, 4.0], 2)
    for seed in range(found.seeds):
        checkpoints = found.seed_run(seed).folder / "checkpoints"
        checkpoints.mkdir(parents=True)
        (checkpoints / "step-000000007.pt").touch()
    return found


def resolved(run: Run):
    """The run as the trainer sees it, and its kappa."""
    config = load_config(QUICKSTART, run.overrides)
    return config, nominal_step_audio(config, 1).kappa()


def rho_per_step(config, kappa):
    seconds = config.batch.reference_seconds
    return 0.5 ** (kappa * seconds / config.teacher.half_life_seconds(seconds))


def test_the_runs_of_a_scan(scan):
    runs = list(scan.runs())
    assert len(runs) == len({run.name for run in runs}) == 2 * 2 * (1 + 2 * 3 + 1)
    assert len({run.kind for run in runs}) == len(runs) // 2
    seed, _ = resolved(scan.seed_run(1))
    assert (seed.hours, seed.seed, seed.pseudo_labels.strategy) == (scan.start_hours, 1, "none")
    for run in runs:
        config, _ = resolved(run)
        assert config.hours == scan.start_hours + 4.0
        assert run.name.endswith(f"-seed{config.seed}")
        # Each seed has its own seed model.
        assert f"seed-seed{config.seed}/" in str(config.init.checkpoint)
        # A batch of 6 s must not leave out utterances that the others learn from.
        assert config.data.max_seconds == 0.5 * scan.reference.batch.reference_seconds
        is_supervised = run.name.startswith("supervised")
        assert config.pseudo_labels.strategy == ("none" if is_supervised else "ema")
        assert (config.data.labelled == scan.reference.data.unlabelled) == is_supervised


@pytest.mark.parametrize("kappa", [0.5, 4.0])
def test_what_each_mode_scales(scan, kappa):
    runs = {run.name: resolved(run) for run in scan.runs()}
    base, _ = runs["ema-reference-seed0"]
    rho, lr = rho_per_step(base, 1.0), base.optimizer.lr
    for system in ("ema", "supervised"):
        for mode, rho_expected, lr_expected in (
            ("full", rho**kappa, lr * kappa**0.5),
            ("optimizer", rho, lr * kappa**0.5),
            ("nothing", rho, lr),
        ):
            config, found = runs[f"{system}-{mode}-kappa{kappa:g}-seed0"]
            assert found == kappa
            assert rho_per_step(config, kappa) == pytest.approx(rho_expected)
            assert config.optimizer.reference().at(kappa)[0]["lr"] == pytest.approx(lr_expected)


def test_the_progressive_run_rises_within_the_hours(scan):
    scan = replace(scan, hours=6.0, kappas=[0.5, 2.0, 4.0, 8.0], seeds=1)
    config, kappa = resolved(list(scan.runs())[-1])
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


def test_differences_are_paired_by_seed(tmp_path):
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
    (found,) = compare("ema", "full-kappa4", [late, late], [a, b])
    assert found.wer == [20.0, 20.0]
    assert found.last == pytest.approx([5.0, 1.0])
    assert found.mean == pytest.approx([5.0, (1.0 + 5.0 + 1.0) / 3])
    assert found.distance == pytest.approx((5.0 + 3.0) / 2)
    # The reference is compared with other seeds.
    (reference,) = compare("ema", "reference", [a, b], [a, b])
    assert reference.last == [0.0, 0.0]
    assert reference.distance == pytest.approx((32.0 / 3) ** 0.5)


def test_an_interval_excludes_0_or_not():
    # Student's t for 3 degrees of freedom is 3.182.
    assert interval([1.0, 2.0, 3.0, 2.0]) == "+2.0 (+0.7 to +3.3)*"
    assert interval([-1.0, 1.0]) == "+0.0 (-12.7 to +12.7)"


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--config", "nowhere.yaml"], ["--hours"], ["--frobnicate"]),
        *(["--systems", "emma"], ["--seeds", "1"], ["--", "optimiser.lr=1"]),
    ],
)
def test_usage_errors_are_one_line(tmp_path, arguments):
    command = ["bash", str(RECIPE / "run.sh"), "--exp", str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if not line.startswith("note:")]) == 1
    assert not list(tmp_path.iterdir()), "nothing was rendered"


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
    assert "| full-kappa2 | 2 |" in first.stdout
    assert "| progressive | 2 |" in first.stdout
    distances = json.loads((tmp_path / "exp" / "distances.json").read_text())
    assert len(distances) == 2 * (1 + 3 + 1)
    assert (tmp_path / "exp" / "ema.png").read_bytes().startswith(b"\x89PNG")
    again = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert again.stdout.splitlines()[-8:] == first.stdout.splitlines()[-8:]


def test_a_run_starts_again_if_its_seed_was_trained_further(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fast = ("validation.every_hours=null", "checkpoint.every_hours=null")
    seed, run = Run("seed-seed3", ()), Run("ema-reference-seed3", ())
    train(tiny_config(corpus, f"run_dir={seed.folder}", "hours=0.003", *fast))
    train(
        tiny_config(corpus, f"run_dir={run.folder}", f"init.checkpoint={seed.folder}", "hours=0.006", *fast)
    )
    run.start_again_if_trained_further(seed)
    assert run.folder.exists()
    train(tiny_config(corpus, f"run_dir={seed.folder}", "hours=0.005", *fast))
    run.start_again_if_trained_further(seed)
    assert not run.folder.exists()
    assert (tmp_path / "runs" / "earlier" / "ema-reference-seed3-1" / "log.jsonl").exists()
    assert capsys.readouterr().out.splitlines()[-1].startswith("ema-reference-seed3: starts again")


def test_changes_are_accepted_only_when_a_run_starts(tmp_path, monkeypatch):
    """A run may start from a seed of other data; after that, changes are refused as elsewhere."""
    monkeypatch.chdir(tmp_path)
    commands = []
    monkeypatch.setattr(Devices, "emapl", lambda self, arguments, *_: commands.append(arguments))
    devices, run = Devices(1), Run("a-seed0", ())
    devices.train(run, QUICKSTART)
    (run.folder / "checkpoints").mkdir(parents=True)
    (run.folder / "checkpoints" / "step-000000001.pt").touch()
    devices.train(run, QUICKSTART)
    assert ["--allow-changes" in command for command in commands] == [True, False]

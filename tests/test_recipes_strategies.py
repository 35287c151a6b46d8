"""The comparison of strategies: which runs it makes of a config, its tables, a whole small one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from asr_emapl.config import load_config
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.scoring import write_hypotheses

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "strategies"
QUICKSTART = ROOT / "recipes" / "quickstart" / "conf" / "quickstart.yaml"
LIBRISPEECH = ROOT / "recipes" / "librispeech"
SYSTEMS = yaml.safe_load((RECIPE / "systems.yaml").read_text())


@pytest.fixture
def recipe(monkeypatch) -> dict[str, ModuleType]:
    """The modules of the recipe, whose names other recipes have too."""
    monkeypatch.syspath_prepend(ROOT / "recipes")
    modules = {}
    for name in ("comparison", "picture", "strategies"):
        spec = importlib.util.spec_from_file_location(name, RECIPE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        modules[name] = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, modules[name])
        spec.loader.exec_module(modules[name])
    return modules


@pytest.fixture
def comparison(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = recipe["strategies"].Comparison(
        load_config(QUICKSTART), SYSTEMS, "12", 1, 3.5, hypotheses="labels.jsonl"
    )
    checkpoints = found.seed_run().folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "step-000000007.pt").touch()
    return found


def test_every_system_starts_from_the_seed_of_its_amount_and_has_equal_audio(comparison):
    for name in SYSTEMS:
        run = comparison.run(name)
        config = load_config(QUICKSTART, run.overrides)
        assert run.name == f"12-{name}-seed1"
        assert (config.seed, config.hours) == (1, 7.5)
        assert config.data.labelled == ["data/labelled-12.jsonl"]
        assert config.init.checkpoint == "runs/12-seed-seed1/checkpoints/step-000000007.pt"
        # The decay begins at 3/7 of the way, as in the quickstart.
        assert config.schedule.decay_from_hours == pytest.approx(4.0 + 3.5 * 3 / 7, abs=1e-3)
    seed = load_config(QUICKSTART, comparison.seed_run().overrides)
    assert (seed.hours, seed.pseudo_labels.strategy) == (4.0, "none")


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("rounds-lm", {"strategy": "rounds", "lm_config": "runs/12-lm-seed1.json"}),
        ("external", {"strategy": "external", "hypotheses": "labels.jsonl"}),
        ("cache", {"strategy": "cache", "labeller": "student"}),
        ("baseline", {"strategy": "none"}),
    ],
)
def test_what_a_system_is(comparison, system, expected):
    labels = load_config(QUICKSTART, comparison.run(system).overrides).pseudo_labels
    assert {name: getattr(labels, name) for name in expected} == expected
    if labels.strategy == "rounds":
        assert labels.rounds.hours == [0.0, 5.0, 6.0, 7.0]


def test_systems_on_real_speech(recipe, tmp_path, monkeypatch):
    """Each amount has its own unlabelled audio; the language model is given; the baseline has neither."""
    monkeypatch.chdir(tmp_path)
    config = LIBRISPEECH / "conf" / "frozen_whisper_tiny.yaml"
    systems = yaml.safe_load((LIBRISPEECH / "systems.yaml").read_text())
    Path("data").mkdir()
    Path("data/unlabelled-1.5.jsonl").touch()
    found = recipe["strategies"].Comparison(
        load_config(config), systems, "1.5", 0, 12.0, Path("data/3gram.arpa"), "labels.jsonl"
    )
    checkpoints = found.seed_run().folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "step-000000007.pt").touch()
    assert found.lm == Path("data/3gram.arpa")
    seed = load_config(config, found.seed_run().overrides)
    assert (seed.hours, seed.data.unlabelled, seed.schedule.decay_from_hours) == (12.0, [], 6.0)
    for name in systems.keys() - {"seed"}:
        run = load_config(config, found.run(name).overrides)
        unlabelled = [] if name == "baseline" else ["data/unlabelled-1.5.jsonl"]
        assert (run.hours, run.data.unlabelled) == (24.0, unlabelled)
    assert load_config(config, found.run("rounds-lm").overrides).pseudo_labels.rounds.hours == [0.0, 18.0]


def test_the_table(recipe, tmp_path, monkeypatch, capsys):
    """Ten speakers; the baseline errs in every utterance, ema in half of them, the oracle never."""
    monkeypatch.chdir(tmp_path)
    utterances = [
        Utterance(f"s{s}-{i}", "a.wav", 1.0, "ONE TWO", speaker=f"s{s}") for s in range(10) for i in range(6)
    ]
    for part in ("dev-clean", "dev-other"):
        write_manifest(f"data/{part}.jsonl", utterances)
    for system, wrong in (("baseline", 6), ("ema", 3), ("oracle", 0)):
        for seed in (0, 1):
            folder = Path(f"runs/4-{system}-seed{seed}")
            folder.mkdir(parents=True)
            texts = {u.id: "ONE SIX" if int(u.id[-1]) < wrong else "ONE TWO" for u in utterances}
            for part in ("dev-clean", "dev-other"):
                write_hypotheses(folder / f"{part}.jsonl", texts)
                if system == "ema" and seed == 0:
                    write_hypotheses(folder / f"{part}.lm.jsonl", {u.id: "ONE TWO" for u in utterances})
            (folder / "processor_seconds.json").write_text("[60.0, 30.0]")
            labels = [
                {"event": "labels", "hours": h, "step": 1, "label_wer": w} for h, w in ((1, 50), (4, 20))
            ]
            rates = {f"student/{part}": 40.0 for part in ("dev-clean", "dev-other")}
            lines = labels if system == "ema" else []
            lines = [*lines, {"event": "validation", "hours": 4, "step": 9, "wer": rates}]
            (folder / "decoded").touch()
            (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    titles = {"baseline": "base", "ema": "teacher", "oracle": "true texts"}
    references = {part: f"data/{part}.jsonl" for part in ("dev-clean", "dev-other")}
    table = recipe["comparison"].Table(Path("runs"), titles, references, "min")
    table.print()
    told = capsys.readouterr().out
    greedy, with_lm = told.split("4 min labelled, decoded with the language model")
    rows = {line.split(" | ")[0][2:]: line for line in greedy.splitlines() if line.startswith("| ")}
    assert "4 min labelled" in greedy
    assert "| 50.0 +-0.0 | 50.0 +-0.0 | +25.0 (+25.0 to +25.0)*" in rows["base"]
    assert "| 25.0 +-0.0 | 25.0 +-0.0 | - | - | 50 % | 50 % | 40.0 +-0.0 | 40.0 +-0.0 |" in rows["teacher"]
    assert "| 20.0 +-0.0 | 1.5 +-0.0 |" in rows["teacher"]
    assert "| 100 % | 100 % | 40.0 +-0.0 | 40.0 +-0.0 | - |" in rows["true texts"]
    (only,) = (line for line in with_lm.splitlines() if line.startswith("| teacher"))
    assert "| 1 | 0.0 | 0.0 | - | - | - | - |" in only
    recipe["picture"].draw_strategies(table, Path("figure.png"))
    assert Path("figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--frobnicate"], "--frobnicate"),
        (["--systems"], "--systems"),
        (["--external", "absent.jsonl"], "absent.jsonl"),
    ],
)
@pytest.mark.parametrize("script", [RECIPE / "run.sh", LIBRISPEECH / "strategies.sh"])
def test_usage_errors_are_one_line(tmp_path, script, arguments, named):
    command = ["bash", str(script), "--exp", str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_scan_on_real_speech_needs_the_folder_of_the_strategies(tmp_path):
    script = str(LIBRISPEECH / "kappa.sh")
    command = ["bash", script, "--from", str(tmp_path / "absent"), "--exp", str(tmp_path / "exp")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "absent" in done.stderr
    assert "strategies.sh" in done.stderr
    assert not (tmp_path / "exp").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--systems", "emma"], "unknown system 'emma'"), (["--", "optimiser.lr=1"], "optimiser")],
)
def test_options_are_checked_before_anything_is_rendered(tmp_path, arguments, named):
    command = ["bash", str(RECIPE / "run.sh"), "--exp", str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("note:")]
    assert named in line
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_whole_comparison_and_again(tmp_path):
    command = [
        "bash",
        str(RECIPE / "run.sh"),
        "--exp",
        str(tmp_path / "exp"),
        "--minutes",
        "1",
        "--seeds",
        "1",
    ]
    command += ["--systems", "baseline,ema,rounds-lm,oracle", "--hours", "0.02", "--workers", "2"]
    command += ["--", "pseudo_labels.start_hours=0.02", "schedule.decay_from_hours=null"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    outputs = []
    for _ in range(2):
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=900, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append([line for line in done.stdout.splitlines() if line.startswith("|")])
    assert len(outputs[0]) == 2 + 4
    assert [row.split(" | ")[:4] for row in outputs[0]] == [row.split(" | ")[:4] for row in outputs[1]]
    assert (tmp_path / "exp" / "strategies.png").exists()

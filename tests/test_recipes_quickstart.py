"""The quickstart as a user runs it: a few steps of it always, all of it when marked slow."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.documents import PAGES, run_page

ROOT = Path(__file__).parent.parent
RUN = ROOT / "recipes" / "quickstart" / "run.sh"
FEW_STEPS = (
    "hours=0.02",
    "pseudo_labels.start_hours=0.01",
    "validation.every_hours=null",
    "checkpoint.every_hours=null",
)


def quickstart(exp: Path, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(RUN), "--exp", str(exp), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def test_a_few_steps_leave_a_table_a_picture_and_scores(tmp_path, monkeypatch):
    exp = tmp_path / "with space"
    done = quickstart(exp, "--oracle", "--seed", "3", "--", *FEW_STEPS, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = exp / "runs" / "seed-3"
    for system in ("seed", "baseline", "ema", "oracle"):
        counts = json.loads((runs / system / "dev-other.teacher.json").read_text())
        assert counts["words"]["reference_length"] > 300
        rate = 100 * counts["words"]["rate"]
        assert f"{rate:.1f}" in done.stdout
    assert (runs / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "gap to the oracle" in done.stdout
    config = (runs / "ema" / "config.yaml").read_text()
    assert "strategy: ema" in config
    assert "seed: 3" in config
    first = json.loads((runs / "ema" / "log.jsonl").read_text().splitlines()[0])
    assert first["hours"] > 0.01
    suggested = done.stdout.partition("To continue, from any folder:")[2]
    assert shlex.split(suggested.partition("cd ")[2].splitlines()[0]) == [str(exp)]
    assert_commands_run(suggested, exp)
    assert_commands_run(readme_commands().replace("seed-0", "seed-3"), exp)
    # The documentation's commands run in this folder.
    monkeypatch.chdir(exp)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (exp / "runs" / "seed-0").symlink_to("seed-3")
    assert sum(run_page(page, exp) for page in PAGES) > 30
    # Decoding and scoring are not repeated.
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/dev-*.json*")}
    again = quickstart(exp, "--oracle", "--seed", "3", "--", *FEW_STEPS, timeout=3000)
    assert again.returncode == 0, again.stderr
    assert [line[3:9] for line in re.findall("== .* of 4: .*", again.stdout)] == [
        "1 of 4",
        "2 of 4",
        "3 of 4",
        "4 of 4",
    ]
    assert len(re.findall("== [123] of 4: .*: done\n", again.stdout)) == 3
    assert {path: path.stat().st_mtime_ns for path in runs.glob("*/dev-*.json*")} == before


def readme_commands() -> str:
    """What the README says to run after the quickstart."""
    return (
        (ROOT / "README.md").read_text().partition("After the quickstart")[2].partition("`report` writes")[0]
    )


def assert_commands_run(text: str, exp: Path) -> None:
    """Run the asr-emapl commands of a text in the folder of the quickstart."""
    commands = [line.strip() for line in text.splitlines() if line.strip().startswith("asr-emapl ")]
    assert len(commands) >= 3
    audio = next((exp / "data").rglob("dev-clean/**/*.flac"))
    for command in commands:
        line = command.replace("asr-emapl", f"{sys.executable} -m asr_emapl").replace(
            "talk.flac", shlex.quote(str(audio))
        )
        done = subprocess.run(["bash", "-c", line], cwd=exp, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize(
    "arguments", [["--frobnicate"], ["--seed"], ["--seed", "one"], ["--", "no.such.key=1"]]
)
def test_usage_errors_are_one_line(tmp_path, arguments):
    done = quickstart(tmp_path, *arguments, timeout=60)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note:")]
    assert len(lines) == 1
    assert lines[0].startswith("error:")


@pytest.mark.slow
def test_pseudo_labels_beat_the_supervised_baseline(tmp_path):
    """One seed, so a looser bound than the mean of several in RESULTS.md."""
    done = quickstart(tmp_path, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    gains = [int(n) for n in re.findall(r"(-?\d+) % fewer word errors", done.stdout)]
    assert len(gains) == 2
    assert min(gains) >= 10
    assert max(gains) >= 25

"""Functions that the recipes share: processes that end with the script, files that are current."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

COMMON = Path(__file__).resolve().parents[1] / "recipes" / "common.sh"
# A trainer that saves when it gets SIGTERM.
TRAINER = """import pathlib, signal, sys, time
log = pathlib.Path(sys.argv[1])
def save(*_):
    time.sleep(0.3)
    log.write_text("ready saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
log.write_text("ready")
time.sleep(60)
"""


def script(body: str, *arguments: object) -> subprocess.Popen[str]:
    text = f"set -euo pipefail\nsource {COMMON}\n{body}"
    command = ["bash", "-c", text, "script", *map(str, arguments)]
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.Popen(
        command,
        text=True,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A shell cannot trap what it ignored from the start, as tests in the background do with SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def result(body: str, *arguments: object) -> tuple[int, str]:
    process = script(body, *arguments)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output.strip()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


@pytest.fixture
def trainer(tmp_path) -> Path:
    (tmp_path / "trainer.py").write_text(TRAINER)
    return tmp_path / "trainer.py"


def said(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stopped_script_waits_until_all_its_processes_have_saved(tmp_path, trainer, number):
    body = """start "$PYTHON" "$1" "$2"; one=$!
    start "$PYTHON" "$1" "$3"
    finish "$one" "$!"
    echo "stopped=$was_stopped"
    """
    process = script(body, trainer, tmp_path / "one", tmp_path / "two")
    until(lambda: said(tmp_path / "one") == said(tmp_path / "two") == ["ready"])
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert output.strip() == "stopped=1"
    assert said(tmp_path / "one") == said(tmp_path / "two") == ["ready", "saved"]


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux")
def test_a_killed_script_takes_its_processes_with_it(tmp_path, trainer):
    process = script('start "$PYTHON" "$1" "$2"; finish "$!"', trainer, tmp_path / "one")
    until(lambda: said(tmp_path / "one") == ["ready"])
    process.kill()
    until(lambda: said(tmp_path / "one") == ["ready", "saved"])
    process.communicate()


SLEEPER = """import pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text("ready")
time.sleep(60)
pathlib.Path(sys.argv[1]).write_text("ready late")
"""


def test_a_stopped_stage_ends_and_says_how_to_resume(tmp_path):
    process = script('run "$PYTHON" -c "$1" "$2"; echo late', SLEEPER, tmp_path / "one")
    until(lambda: said(tmp_path / "one") == ["ready"])
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert output == "stopped; rerun the same command to resume\n"
    assert process.returncode == 130


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux")
def test_a_killed_script_takes_its_stage_with_it(tmp_path):
    process = script('run bash -c "echo \\$\\$ >$1; exec sleep 60"', tmp_path / "pid")
    until(lambda: bool(said(tmp_path / "pid")))
    process.kill()
    until(lambda: not Path("/proc", *said(tmp_path / "pid"), "exe").exists())
    process.communicate()


def test_a_stage_has_its_status_and_its_output(tmp_path):
    assert result("run bash -c 'echo out; exit 3' || echo $?") == (0, "out\n3")
    assert result("run false; echo late") == (1, "")


def test_every_stage_of_a_recipe_ends_with_its_script():
    """All commands that can take longer than seconds are run by `run`, `start` or a variable."""
    for recipe in COMMON.parent.rglob("*.sh"):
        code = recipe.read_text().partition("\nHELP\n")[2] or recipe.read_text()
        for line in code.splitlines():
            if re.match(r"(.*\|\| |\s*)asr-emapl (?!settings)[a-z-]+ ", line):
                pytest.fail(f"{recipe}: {line.strip()}")


def test_statuses_are_those_of_the_processes():
    body = """start bash -c 'sleep 0.2; exit 3'; one=$!
    start true; two=$!
    finish "$one" "$two" || echo "failed with $?"
    echo "${status_of[$one]} ${status_of[$two]} [$was_stopped]"
    """
    assert result(body) == (0, "failed with 3\n3 0 []")


def test_a_process_that_was_killed_has_its_status():
    status, output = result("start bash -c 'kill -9 $$'; finish $! || echo $?")
    assert (status, output.splitlines()[-1]) == (0, "137")


def test_a_file_is_current_if_it_is_newer_than_its_inputs(tmp_path):
    for age, name in enumerate(["new", "middle", "old"]):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    (tmp_path / "empty").touch()

    def is_current(*names: str) -> bool:
        return result('is_current "$@"', *(tmp_path / name for name in names))[0] == 0

    assert is_current("new", "old", "middle")
    assert not is_current("middle", "old", "new")
    assert not is_current("middle", "middle")
    assert not is_current("empty", "old")
    assert not is_current("missing", "old")


@pytest.mark.parametrize(
    ("last", "is_done"),
    [
        ({"event": "validation", "step": 9, "hours": 4.0001, "wer": {"teacher/dev": 5.0}}, True),
        ({"event": "validation", "step": 9, "hours": 3.9, "wer": {"teacher/dev": 5.0}}, False),
        ({"event": "step", "step": 9, "hours": 4.0001, "kind": "labelled"}, False),
        (None, False),
    ],
)
def test_a_run_has_trained_if_it_was_validated_at_its_last_hour(tmp_path, last, is_done):
    if last is not None:
        (tmp_path / "log.jsonl").write_text(f"{json.dumps({'event': 'step'})}\n{json.dumps(last)}\n")
    _, output = result('has_trained "$1" 4.0 && echo done || echo open', tmp_path)
    assert output == ("done" if is_done else "open")


def test_the_newest_checkpoint_is_that_of_the_last_step(tmp_path):
    folder = tmp_path / "a run" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("step-000000009.pt", "step-000000010.pt", "best.pt", "step-000000011.pt.partial"):
        (folder / name).touch()
    assert result('newest_checkpoint "$1"', tmp_path / "a run") == (0, str(folder / "step-000000010.pt"))


def test_suggested_commands_can_be_pasted(tmp_path):
    place = tmp_path / "with space"
    place.mkdir()
    _, text = result('root=/nowhere PYTHON=python; cd "$1"; suggest "echo here: \\$PWD"', place)
    commands = "\n".join(line for line in text.splitlines() if line.startswith("    "))
    done = subprocess.run(["bash", "-c", commands], capture_output=True, text=True, cwd="/", check=True)
    assert done.stdout == f"here: {place}\n"


@pytest.mark.parametrize(
    ("overrides", "status", "told"),
    [((), 0, "4.0"), (("hours=4",), 2, "hours=4.0"), (("hours=x",), 2, "hours")],
)
def test_a_run_that_ends_before_pseudo_labels_start_is_refused(overrides, status, told):
    config = COMMON.parent / "quickstart" / "conf" / "quickstart.yaml"
    command = 'asr-emapl() { "$PYTHON" -m asr_emapl "$@"; }\n'
    body = 'start=$(pseudo_label_start "$@") || exit 2\necho "$start"'
    found, output = result(command + body, config, *overrides)
    assert (found, len(output.splitlines())) == (status, 1)
    assert told in output


READ = """options=() overrides=() lm_text='' table='' quick=''
usage() { echo the usage; }
valued=lm-text passed='seeds systems' passed_files=external flags=quick passed_flags=table
read_options "$@"
printf '%s|' "$lm_text" "$quick" "${options[*]-}" "${overrides[*]-}"
"""


def test_options_of_every_kind(tmp_path) -> None:
    file = tmp_path / "labels.jsonl"
    file.touch()
    given = [
        "--seeds",
        3,
        "--lm-text",
        "a b",
        "--quick",
        f"--external={file}",
        "--table",
        "--",
        "lr=1",
        "--x",
    ]
    status, output = result(READ, *given)
    assert (status, output) == (0, f"a b|--quick|--seeds=3 --external={file} --table|lr=1 --x|")


def test_a_value_after_an_equals_sign_may_contain_one() -> None:
    assert result(READ, "--lm-text=a=b", "--systems=")[1] == "a=b||--systems=||"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--sedes", 3], "unknown option '--sedes'"),
        (["seeds", 3], "unknown option 'seeds'"),
        (["-"], "unknown option '-'"),
        (["--seeds systems", 3], "unknown option '--seeds systems'"),
        (["--seeds"], "--seeds needs a value"),
        (["--external", "nowhere"], "--external nowhere: no such file"),
    ],
)
def test_an_option_that_cannot_be_read(given, message) -> None:
    status, output = result(READ, *given)
    assert status == 2
    assert message in output


def test_help_prints_the_usage() -> None:
    assert result(READ, "--seeds", 1, "--help") == (0, "the usage")

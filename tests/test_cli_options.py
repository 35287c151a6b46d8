"""Numbers on the command line that mean nothing are refused first; output that nobody takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import call

NUMBERS = [
    ("decode", "--checkpoint c --manifest m --out o", "--max-seconds", "nan inf -1 1e400 x"),
    ("decode", "--checkpoint c --manifest m --out o", "--lm-weight", "nan -inf 1e10"),
    ("decode", "--checkpoint c --manifest m --out o", "--word-bonus", "nan inf"),
    ("transcribe", "a.wav --checkpoint c", "--max-seconds", "nan inf 0 -1"),
    ("lm", "--text t --out o", "--prune", "nan inf -1"),
    ("tune-lm", "--checkpoint c --manifest m --lm l --out o", "--max-seconds", "nan -1"),
    ("inspect", "m", "--batch-seconds", "nan inf 0 -1"),
    ("scale", "--config c", "--batch-seconds", "nan inf 0 -1"),
    ("gradient-noise", "run", "--from-hours", "nan inf -1"),
    ("shard", "m --out o", "--shard-mib", "nan inf 0 -1"),
    ("shard", "m --out o", "--workers", "0 -1 99999999999999999999"),
    ("segment", "a --out o", "--workers", "0 -1 99999999999999999999"),
    ("segment", "a --out o", "--min-seconds", "nan inf -1"),
    ("segment", "a --out o", "--max-seconds", "nan inf 0"),
    ("segment", "a --out o", "--target-seconds", "nan inf 0"),
    ("segment", "a --out o", "--pause-seconds", "nan inf -1"),
    ("segment", "a --out o", "--edge-seconds", "nan inf -1"),
    ("tokenizer", "--out o", "--size", "-1 0 99999999999999999999"),
    ("score", "r h", "--seed", "-1 99999999999999999999"),
    ("score", "r h", "--resamples", "-1 99999999999999999999"),
    ("score", "r h", "--confusions", "-1 99999999999999999999"),
    ("compare", "r a b", "--seed", "-1 99999999999999999999"),
    ("compare", "r a b", "--resamples", "0 99999999999999999999"),
    ("report", "run", "--worst", "-1 99999999999999999999"),
    ("prepare libri-light", "--data d --out o", "--max-seconds", "nan inf 0"),
    ("prepare libri-light", "--data d --out o", "--min-seconds", "nan inf 0"),
    ("prepare rendered", "--out o", "--seed", "-1 99999999999999999999"),
]


@pytest.mark.parametrize(("command", "given", "option", "values"), NUMBERS)
def test_numbers_without_a_meaning_are_refused(
    command: str, given: str, option: str, values: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in values.split():
        outcome = call(*command.split(), *given.split(), option, value)
        assert outcome.status == 2
        assert option in outcome.err.replace("\n", "")
    assert list(tmp_path.iterdir()) == []


def run(arguments: str, redirection: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a shell, as `redirection` says."""
    command = f"{sys.executable} -m asr_emapl {arguments} {redirection}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def scored(tmp_path: Path) -> str:
    """A command that writes letters beyond ASCII, many lines of them."""
    names = [f"a{i}-\u00e9" for i in range(500)]
    (tmp_path / "r").write_text("".join(f"{name} CAF\u00c9\n" for name in names), encoding="utf-8")
    return f"score {tmp_path}/r {tmp_path}/r --by speaker --speaker-in-id --resamples 0"


def test_letters_that_the_terminal_lacks_are_escaped(scored: str) -> None:
    outcome = run(f"{scored} --vocabulary {scored.split()[1]}.absent\u00e9", PYTHONIOENCODING="ascii")
    assert outcome.returncode == 2
    assert "absent\\xe9: cannot be read" in outcome.stderr
    assert run(scored, PYTHONIOENCODING="ascii").returncode == 0


def test_a_reader_that_ends_first(scored: str) -> None:
    for reader in ("| head -n 1", "| true"):
        outcome = run(scored, reader)
        assert outcome.returncode in (0, 1)
        assert outcome.stderr == ""


def test_closed_streams(scored: str, tmp_path: Path) -> None:
    assert run(scored, ">&-").returncode == 0
    assert run("tokenizer --out " + str(tmp_path / "t.json"), "<&- >&- 2>&-").returncode == 0
    assert (tmp_path / "t.json").read_text().startswith("{")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_output_onto_a_full_disk(scored: str) -> None:
    outcome = run(scored, "> /dev/full")
    assert outcome.returncode == 2
    assert outcome.stderr == "error: the output: No space left on device\n"

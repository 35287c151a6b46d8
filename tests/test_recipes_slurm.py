"""The LibriSpeech job under a SLURM of two scripts: saves when warned, queues itself again, or does not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.tiny import CONFIG, make_corpus

ROOT = Path(__file__).resolve().parents[1]
JOB = ROOT / "recipes" / "librispeech" / "slurm.sbatch"
# srun hands its signals to the task, which takes its place here; scontrol writes down what it is asked.
TOOLS = {
    "srun": '#!/bin/bash\necho "srun $*" >>"$SEEN"\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
    "scontrol": '#!/bin/bash\necho "scontrol $*" >>"$SEEN"\n[[ $1 != show ]] || printf "node7\\nnode8\\n"\n',
}
# Saves when it is told to, and says so.
TRAINING = (
    "trap 'echo saved; : >$EMAPL_STOPPED; exit 0' USR1\n"
    "echo ready\nfor ((i = 0; i < 600; i++)); do sleep 0.1; done\n"
)


class Job:
    """The job script in the background."""

    def __init__(self, folder: Path, root: Path, *arguments: str, **variables: str) -> None:
        folder.mkdir(exist_ok=True)
        self.seen, self.log = folder / "seen", folder / "log"
        self.seen.write_text("")
        for name, text in TOOLS.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        path = f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        slurm = {"SLURM_SUBMIT_DIR": str(root), "SLURM_JOB_ID": "41", "SLURM_JOB_NUM_NODES": "1"}
        slurm |= {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_GPUS_ON_NODE": "2", "SEEN": str(self.seen)}
        environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                ["bash", str(JOB), *arguments], env=environment | slurm | variables, stdout=log, stderr=log
            )

    def until(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + 120
        while not what() and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert what(), self.log.read_text()

    def end(self) -> tuple[int, str, str]:
        try:
            status = self.process.wait(timeout=120)
        finally:
            self.process.kill()
        return status, self.seen.read_text(), self.log.read_text()


@pytest.fixture
def checkout(tmp_path):
    """A repository root with a training of our own; returns it and a function that sets its text."""
    recipe = tmp_path / "checkout" / "recipes" / "librispeech" / "run.sh"
    recipe.parent.mkdir(parents=True)

    def training(text: str) -> Path:
        recipe.write_text(text)
        return tmp_path / "checkout"

    return training


def test_bash_reads_them_and_slurm_finds_what_it_looks_for():
    for script in (JOB, JOB.with_name("run.sh")):
        subprocess.run(["bash", "-n", str(script)], check=True)
    head, _, rest = JOB.read_text().partition("set -euo pipefail")
    options = re.findall(r"^#SBATCH --([a-z-]+)", head, re.MULTILINE)
    assert {"requeue", "signal", "open-mode", "ntasks-per-node"} <= set(options)
    assert "#SBATCH --signal=B:USR1@" in head
    # SLURM stops reading options at the first command.
    assert "#SBATCH" not in rest
    assert all(line.startswith("#") for line in head.splitlines())


def test_a_warned_job_saves_and_is_queued_again(tmp_path, checkout):
    job = Job(tmp_path / "job", checkout(TRAINING))
    job.until(lambda: "ready" in job.log.read_text())
    job.process.send_signal(signal.SIGUSR1)
    status, seen, log = job.end()
    assert (status, log.count("saved")) == (0, 2)  # by the training and by the job
    assert seen.splitlines()[1:] == ["scontrol requeue 41"]


def test_a_preempted_job_saves_and_leaves_the_queue_to_slurm(tmp_path, checkout):
    job = Job(tmp_path / "job", checkout(TRAINING))
    job.until(lambda: "ready" in job.log.read_text())
    job.process.send_signal(signal.SIGTERM)
    job.until(lambda: "waits to be preempted" in job.log.read_text())
    job.process.send_signal(signal.SIGTERM)  # its grace time is over
    status, seen, log = job.end()
    assert (status == 0, log.count("saved")) == (False, 2)  # by the training and by the job
    assert "requeue" not in seen


@pytest.mark.parametrize("status", [0, 3])
def test_a_job_that_ends_by_itself_is_not_queued_again(tmp_path, checkout, status):
    job = Job(tmp_path / "job", checkout(f"exit {status}\n"), "--config", "a.yaml", "--", "seed=3")
    got, seen, log = job.end()
    assert got == status
    assert "requeue" not in seen
    assert ("error: training ended with status 3" in log) == (status == 3)
    (call,) = seen.splitlines()
    assert call.endswith("run.sh --stage 3 --stop-stage 3 --nproc 2 --config a.yaml -- seed=3")


def test_several_nodes_meet_at_the_first(tmp_path, checkout):
    _, seen, _ = Job(tmp_path / "job", checkout("exit 0\n"), SLURM_JOB_NUM_NODES="2").end()
    assert "--nproc 2 --nnodes 2 --rdzv node7:20041" in seen


def test_a_job_of_two_processes_saves_once_and_goes_on(tmp_path):
    """The whole way: job, srun, recipe, torchrun, training."""
    make_corpus(tmp_path)
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG.format(root=tmp_path), encoding="utf-8")
    common = ("--config", str(config), "--exp", str(tmp_path / "exp"), "--", "validation.every_hours=null")
    log = tmp_path / "run" / "log.jsonl"
    job = Job(tmp_path / "job", ROOT, *common, "hours=100", "checkpoint.every_hours=null")
    job.until(lambda: log.exists() and log.stat().st_size > 0)
    job.process.send_signal(signal.SIGUSR1)
    status, seen, text = job.end()
    assert status == 0, text
    assert text.count("stopped as requested") == 1
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    assert "scontrol requeue 41" in seen
    assert "Traceback" not in text
    again = Job(tmp_path / "job", ROOT, *common, "hours=0.0001")
    status, seen, text = again.end()
    assert status == 0, text
    assert "nothing to do" in text
    assert "requeue" not in seen

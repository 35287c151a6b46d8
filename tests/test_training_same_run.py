"""The same run on any hardware: one process or several, whole or sharded, on one host or two."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import CLI, IN_FLOAT64, finish, launch, losses, read_log
from support.tiny import tiny_config

from asr_emapl.checkpoints import files as checkpoint
from asr_emapl.checkpoints.recognizer import load_recognizer
from asr_emapl.data.batch_plan import BatchPlan
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.micro_batches import micro_batches
from asr_emapl.planning import build_batches, nominal_step_audio
from asr_emapl.training.trainer import train

# Layers are dropped, frames masked, and half of the steps learn from pseudo-labels.
RUN = (
    "batch.seconds=12",
    "batch.reference_seconds=12",
    "device.max_seconds=12",
    "model.options.layerdrop=0.2",
    "pseudo_labels.strategy=ema",
    "optimizer.lr=1e-3",
    "checkpoint.every_hours=null",
    "validation.every_hours=null",
)
SHORT = (*RUN, "hours=0.06", "pseudo_labels.start_hours=0.02")
# A hundred steps of nine seconds or so, and some more.
LONG = (*RUN, "hours=0.26", "pseudo_labels.start_hours=0.05")


def test_a_sharded_run_is_the_run_of_one_process(corpus, tmp_path):
    """One process, then two from its checkpoint with unequally many micro-batches; one reads their last."""
    overrides = (*SHORT, "checkpoint.running_mean=true", "checkpoint.bias_corrected=true")
    first_half = tiny_config(corpus, f"run_dir={tmp_path / 'two'}", *overrides, "hours=0.03")
    train(first_half)
    here = ("device.sharding=full", "device.max_seconds=4")
    several = launch(corpus, tmp_path / "two", *overrides, *here, processes=2)
    whole = train(tiny_config(corpus, f"run_dir={tmp_path / 'one'}", *overrides))
    told = finish(several)
    assert "2 x cpu" in told
    assert "from 0.000 h" not in told
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) >= 20
    assert two == pytest.approx(one, rel=1e-5)
    path = tmp_path / "two" / "checkpoints" / whole.name
    _require_alike(checkpoint.load(path), checkpoint.load(whole))
    recognizer = load_recognizer(path, device="cpu")
    assert len(list(recognizer(read_manifest(corpus / "dev.jsonl")))) == 4


@pytest.mark.gpu
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_all_gpus_make_the_run_of_one_cpu(corpus, tmp_path, sharding):
    """By NCCL between GPUs and gloo between their hosts; within what their arithmetic differs by."""
    processes = torch.cuda.device_count()
    if processes < 2 and sharding == "full":
        pytest.skip("needs two CUDA devices: one process has nothing to share out")
    # Augmentation and layerdrop are drawn on the CPU; TF32 would round more than the runs may differ.
    here = ("device.name=cuda", f"device.sharding={sharding}", "device.max_seconds=6")
    exact = {"NVIDIA_TF32_OVERRIDE": "0"}
    several = launch(corpus, tmp_path / "gpus", *SHORT, *here, processes=processes, environment=exact)
    train(tiny_config(corpus, f"run_dir={tmp_path / 'cpu'}", *SHORT))
    assert f"{processes} x cuda" in finish(several)
    assert losses(tmp_path / "gpus") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-2)


def _require_alike(one: dict, other: dict) -> None:
    """Whole tensors under the same keys, the same but for rounding; the rest is equal."""
    for name in ("student", "teacher", "optimizer", "running_mean", "bias_corrected"):
        left, right = dict(_leaves(one[name], name)), dict(_leaves(other[name], name))
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert type(value) is type(right[key])
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(value, right[key], rtol=1e-3, atol=1e-4)
    for name in ("clock", "position", "step", "kappa"):
        assert one[name] == other[name]


def _leaves(state, path: str):
    if isinstance(state, dict):
        for key, value in state.items():
            yield from _leaves(value, f"{path}/{key}")
    else:
        yield path, state


@pytest.mark.slow
def test_a_sharded_run_goes_on_at_another_world_size(corpus, tmp_path):
    """From the checkpoint of one process, on three, of which some have nothing to do now and then."""
    overrides = (*SHORT, "checkpoint.running_mean=true", "checkpoint.every_hours=0.03")
    small = ("batch.seconds=4", "batch.reference_seconds=4", "device.max_seconds=2")
    finish(launch(corpus, tmp_path / "three", *overrides, *small, "hours=0.03", program=IN_FLOAT64))
    here = ("device.sharding=full",)
    several = launch(corpus, tmp_path / "three", *overrides, *small, *here, processes=3, program=IN_FLOAT64)
    finish(launch(corpus, tmp_path / "one", *overrides, *small, program=IN_FLOAT64))
    assert "from 0.000 h" not in finish(several)
    assert losses(tmp_path / "three") == pytest.approx(losses(tmp_path / "one"), rel=1e-9)
    rates = [_last_rates(tmp_path / name) for name in ("one", "three")]
    assert rates[0] == rates[1]


def _last_rates(run: Path) -> dict[str, float]:
    return [line["wer"] for line in read_log(run) if line["event"] == "validation"][-1]


@pytest.mark.slow
def test_sharded_weights_travel_in_bf16(corpus, tmp_path):
    overrides = ("hours=0.02", "optimizer.lr=0.01", "device.precision=bf16", "validation.every_hours=null")
    finish(launch(corpus, tmp_path / "run", *overrides, "device.sharding=full", processes=2))
    trace = losses(tmp_path / "run")
    assert trace[-1] < 0.8 * trace[0]
    path = max((tmp_path / "run" / "checkpoints").glob("step-*.pt"))
    weights = checkpoint.load(path)["student"].values()
    assert {w.dtype for w in weights} == {torch.float32}
    assert any(not torch.equal(w, w.bfloat16().float()) for w in weights)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "max_seconds", "sharding"),
    [(1, 6, "none"), (1, 3, "none"), (2, 12, "none"), (4, 12, "none"), (4, 2, "none"), (4, 2, "full")],
)
@pytest.mark.parametrize(
    ("program", "schedule", "tolerance"),
    [(CLI, ("schedule.warmup_hours=0.1",), 1e-5), (IN_FLOAT64, ("optimizer.lr=5e-3",), 1e-9)],
    ids=["fp32", "fp64"],
)
def test_a_hundred_steps(corpus, tmp_path, program, schedule, tolerance, processes, max_seconds, sharding):
    """In float32 where training does not magnify rounding: at 5e-3 without warm-up, what is 1e-7 after ten
    steps is 5e-4 after a hundred. In float64 it is 1e-11 then: rounding, and nothing else.
    """
    overrides = (*LONG, *schedule)
    here = (f"device.max_seconds={max_seconds}", f"device.sharding={sharding}")
    several = launch(corpus, tmp_path / "n", *overrides, *here, processes=processes, program=program)
    finish(launch(corpus, tmp_path / "one", *overrides, program=program))
    finish(several)
    one, other = losses(tmp_path / "one"), losses(tmp_path / "n")
    assert len(one) == len(other) >= 100
    assert other[:100] == pytest.approx(one[:100], rel=tolerance)
    kinds = [line["kind"] for line in read_log(tmp_path / "n") if line["event"] == "step"]
    assert kinds[:100].count("unlabelled") >= 30


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
def test_an_auto_batch_and_kappa_grow_with_the_world(corpus, world_size):
    """And each device has what it holds; the teacher's memory and the learning rate's schedule stay."""
    config = tiny_config(corpus, "batch.seconds=auto", "device.max_seconds=30", "batch.reference_seconds=120")
    assert nominal_step_audio(config, world_size).kappa() == world_size / 4
    seconds = build_batches(config, world_size).first
    assert seconds == 30 * world_size
    group, _ = config.optimizer.reference().at(nominal_step_audio(config, world_size).kappa())
    assert group["lr"] == pytest.approx(config.optimizer.lr * (world_size / 4) ** 0.5)
    assert group["betas"][1] == pytest.approx(config.optimizer.betas[1] ** (world_size / 4))
    assert config.teacher.half_life_seconds(config.batch.reference_seconds) == 0.005 * 3600
    samples = np.random.default_rng(0).integers(16_000, 16_000 * 15, 2000)
    batches = BatchPlan(samples, round(16_000 * seconds)).epoch(0)
    audio = np.mean([samples[batch].sum() for batch in batches]) / 16_000
    assert 0.8 * seconds < audio <= seconds
    passes = []
    for batch in batches:
        for rank in range(world_size):
            mine = micro_batches(samples[batch], 30 * 16_000, world_size=world_size, rank=rank)
            passes.append(len(mine))
    # Utterances of 15 s cannot be divided: now and then a rank has a second pass to make.
    assert max(passes) <= 2


@pytest.fixture
def two_hosts() -> Iterator[list[str]]:
    """Two network namespaces joined by a cable; the names of the namespaces, whose interface is `cable`."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    names = [f"emapl-{os.getpid()}-{i}" for i in range(2)]
    try:
        for name in names:
            made = _ip("netns", "add", name)
            if made.returncode != 0:
                pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
        ends = [("cable", "netns", name) for name in names]
        made = _ip("link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
        if made.returncode != 0:
            pytest.skip(f"no veth here: {made.stderr.strip()}")
        for i, name in enumerate(names):
            for what in (
                ("addr", "add", f"10.71.0.{i + 1}/24", "dev", "cable"),
                ("link", "set", "cable", "up"),
                ("link", "set", "lo", "up"),
            ):
                assert _ip("-n", name, *what).returncode == 0
        yield names
    finally:
        for name in names:
            _ip("netns", "delete", name)  # its end of the cable goes with it


def _ip(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no `ip` (iproute2) here")


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_hosts_give_the_trace_of_one(corpus, tmp_path, two_hosts, sharding):
    """Two processes on either; torchrun's rendezvous and the gradients go over the cable between them."""
    overrides = (*SHORT, f"device.sharding={sharding}")
    hosts = []
    try:
        for i, name in enumerate(two_hosts):
            torchrun = (
                "--nnodes=2",
                "--rdzv-backend=c10d",
                "--rdzv-endpoint=10.71.0.1:29400",
                "--rdzv-id=emapl",
                # The hosts share a name, by which torchrun would look for its own address.
                f"--rdzv-conf=is_host={'false' if i else 'true'}",
                f"--local-addr=10.71.0.{i + 1}",
            )
            hosts.append(
                launch(
                    corpus,
                    tmp_path / "hosts",
                    *overrides,
                    processes=2,
                    torchrun=torchrun,
                    prefix=("ip", "netns", "exec", name),
                    environment={"GLOO_SOCKET_IFNAME": "cable"},
                )
            )
        train(tiny_config(corpus, f"run_dir={tmp_path / 'one'}", *overrides))
        told = [finish(host) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert "4 x cpu" in "".join(told)
    one, other = losses(tmp_path / "one"), losses(tmp_path / "hosts")
    assert len(one) == len(other) >= 20
    assert other == pytest.approx(one, rel=1e-5)

"""Devices by name; collective operations of one process and of two."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from asr_emapl.distributed import process_group as world_module
from asr_emapl.distributed.process_group import DeviceConfig, ProcessGroup, choose_device
from asr_emapl.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    """Have torch say that there are so many CUDA devices."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.fixture(autouse=True)
def outside_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_auto_is_cuda_where_there_is_one(gpus):
    gpus(0)
    assert choose_device("auto") == CPU
    gpus(2)
    assert choose_device("auto") == torch.device("cuda")


def test_devices_that_are_there(gpus):
    gpus(2)
    assert choose_device("cpu") == CPU
    assert choose_device("cuda") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")


def test_no_attention_kernel_plans_anew_for_each_shape():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        choose_device("cpu")
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "tpu",
        "CPU",
        "gpu",
        "cuda:",
        "cuda:x",
        "cuda:-1",
        "cuda:99999999999999999999",
        "cuda:0,1",
        "mps",
        "cpu:0",
    ],
)
def test_what_is_no_device(name):
    with pytest.raises(UserError) as caught:
        choose_device(name)
    assert repr(name) in str(caught.value)
    assert "cuda:N" in str(caught.value)


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2), ("cuda:10", 2)])
def test_devices_that_are_not_there(gpus, name, count):
    gpus(count)
    with pytest.raises(UserError, match=f"device {name}: there are {count} CUDA devices"):
        choose_device(name)


def test_one_process_has_nothing_to_shard():
    world = ProcessGroup.join(DeviceConfig(name="cpu", sharding="full"))
    model = nn.Linear(2, 2)
    assert world.data_parallel(world.to_device(model)) is model
    assert type(model.weight.data) is torch.Tensor
    assert world.forward_passes(5) == 1


def test_threads_are_set_if_given(monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    ProcessGroup.join(DeviceConfig(name="cpu"))
    assert asked == []
    ProcessGroup.join(DeviceConfig(name="cpu", threads=3))
    assert asked == [3]


def test_more_processes_than_gpus_are_a_line_of_text(gpus, monkeypatch):
    gpus(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(world_module.dist, "init_process_group", lambda backend: pytest.fail("joined"))
    with pytest.raises(UserError, match="1 CUDA device"):
        ProcessGroup.join(DeviceConfig(name="cuda"))


def test_a_gpu_that_was_named_is_the_current_one(gpus, monkeypatch):
    gpus(2)
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert ProcessGroup.join(DeviceConfig(name="cuda:1")).device == torch.device("cuda:1")
    ProcessGroup.join(DeviceConfig(name="auto"))
    assert current == [torch.device("cuda:1")]


def test_gpus_meet_by_nccl_and_their_hosts_by_gloo(gpus, monkeypatch):
    gpus(2)
    asked = {}
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(world_module, "rendezvous_store", lambda name, timeout: None)
    monkeypatch.setattr(
        world_module.dist, "init_process_group", lambda name, timeout, **_: asked.update({name: timeout})
    )
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    world = ProcessGroup.join(DeviceConfig(name="cuda", timeout_seconds=0.0))
    assert world.device == torch.device("cuda:1")
    ((backend, timeout),) = asked.items()
    assert backend == "cpu:gloo,cuda:nccl"
    assert timeout.days > 300


@pytest.mark.parametrize(("on_this_node", "warned"), [("1", True), ("2", False)])
def test_restarts_over_several_nodes_need_another_rendezvous(monkeypatch, caplog, on_this_node, warned):
    monkeypatch.setattr(world_module, "rendezvous_store", lambda name, timeout: None)
    monkeypatch.setattr(world_module.dist, "init_process_group", lambda *_, **__: None)
    environment = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": on_this_node}
    environment |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_MAX_RESTARTS": "3"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ProcessGroup.join(DeviceConfig(name="cpu"))
    assert ("--rdzv-backend c10d --rdzv-endpoint HOST:PORT" in caplog.text) == warned


def test_alone_under_torchrun_the_group_is_left(monkeypatch):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in {**meeting, "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    world = ProcessGroup.join(DeviceConfig(name="cpu"))
    assert (world.size, world.all_reduce_sum([2.0])) == (1, [2.0])
    world.close()
    assert not dist.is_initialized()


def test_alone_everything_is_what_it_was():
    world = ProcessGroup.join(DeviceConfig(name="cpu"))
    assert (world.rank, world.size, world.device, world.is_first) == (0, 1, CPU, True)
    values = [1.5, 2, -0.1]
    assert world.all_reduce_sum(values) == values
    assert world.all_reduce_sum(()) == []
    thing = object()
    assert world.gather(thing) == [thing]
    model = nn.Linear(2, 2)
    assert world.data_parallel(model) is model
    world.close()


def _broken() -> Iterator[int]:
    raise UserError("decoding process 7 was killed")
    yield 0


def _failure(world: ProcessGroup, items: Iterator[int]) -> str:
    try:
        return f"nothing, but {world.next_item(items)}"
    except UserError as error:
        return str(error)


def test_alone_the_next_item_or_its_own_error():
    world = ProcessGroup(0, 1, CPU)
    assert world.next_item(iter([4, 5])) == 4
    assert _failure(world, _broken()) == "decoding process 7 was killed"


def _process(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    world = ProcessGroup.join(DeviceConfig(name="cpu", threads=1))
    seen = {
        "rank": world.rank,
        "size": world.size,
        "first": world.is_first,
        # In float32 the one would vanish beside 2 ** 40.
        "sum": world.all_reduce_sum([2.0**40 * rank, 1.0, 0.1, rank]),
        "nothing": world.all_reduce_sum([]),
        "next": [world.next_item(iter([rank])), _failure(world, iter([rank]) if rank else _broken())],
        "gather": world.gather({f"utterance {rank}": "A" * (1 + 5000 * rank)}),
    }
    world.close()
    seen["left"] = not dist.is_initialized()
    (folder / f"{rank}.json").write_text(json.dumps(seen))


def test_two_processes_sum_and_gather(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_process, (port, tmp_path), nprocs=2)
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [s.pop("rank") for s in seen] == [0, 1]
    assert [s.pop("first") for s in seen] == [True, False]
    assert [s["next"].pop(0) for s in seen] == [0, 1]
    assert seen[0] == seen[1]
    both = seen[0]
    assert both["size"] == 2
    # Both leave, with the reason of the one that had none.
    assert both["next"] == ["process 0: decoding process 7 was killed"]
    assert both["sum"] == [2.0**40, 2.0, 0.2, 1.0]
    assert both["nothing"] == []
    assert both["gather"] == [{"utterance 0": "A"}, {"utterance 1": "A" * 5001}]
    assert both["left"]

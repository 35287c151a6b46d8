"""Test whether a strategy and its filters implement the interface: `asr-emapl check-strategy --config C`."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from asr_emapl.checks.check import Check, CheckResult, Passed, run_checks
from asr_emapl.checks.rehearsal import STEPS_OF_A_PASS, UTTERANCES, Rehearsal, StepTrace
from asr_emapl.checks.waits import Waits
from asr_emapl.config import RunConfig
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError, listing
from asr_emapl.models.failure import described
from asr_emapl.processes import kill

MOST_BYTES = 4096
"""State per utterance above which the memory check fails: 41 GB for 10 M utterances."""

_RESUMED_AT = 5  # the step before which the run is interrupted, within the second pass
_PROCESSES, _TIMEOUT_S = 2, 300.0
_ALONE = ProcessGroup(0, 1, torch.device("cpu"))
_Result = tuple[list[StepTrace], bytes]  # and the state after the last step


@dataclass(frozen=True)
class Subject:
    """The strategy under test: that of a config for the CPU."""

    config: RunConfig

    def rehearsal(self, world: ProcessGroup = _ALONE) -> Rehearsal:
        """A new strategy at the first step."""
        return Rehearsal(self.config, world)

    @property
    def module(self) -> str:
        """Dotted name of the module of the strategy."""
        return type(self.rehearsal().strategy).__module__

    @cached_property
    def traces(self) -> list[StepTrace]:
        """All steps of an uninterrupted run."""
        return self.rehearsal().run()


def check(config: RunConfig) -> list[CheckResult]:
    """Build the strategy and the filters of a config and run all checks on them, on the CPU.

    Raises:
        UserError: the config has no strategy, or model, strategy or filters cannot be built.
    """
    if not config.pseudo_labels.uses_unlabelled:
        raise UserError("pseudo_labels.strategy is none; set the strategy to check")
    device = replace(config.device, name="cpu", precision="fp32", sharding="none")
    labels = replace(config.pseudo_labels, search_workers=0)
    subject = Subject(replace(config, device=device, pseudo_labels=labels))
    with torch.random.fork_rng(devices=[]):
        return run_checks(CHECKS, subject, subject.module)


def _labels(subject: Subject) -> str:
    rehearsal = subject.rehearsal()
    rehearsal.label_first()
    request = rehearsal.request()
    labels = rehearsal.strategy.labels(request).result()
    batch, tokens_BS, lengths_B = len(request.ids), labels.tokens_BS, labels.lengths_B
    for name, tensor, dims in (("tokens_BS", tokens_BS, 2), ("lengths_B", lengths_B, 1)):
        if tensor.dtype != torch.long or tensor.dim() != dims or len(tensor) != batch:
            expected = f"[{batch}, S]" if dims == 2 else f"[{batch}]"
            return f"{name} is {tensor.dtype} {list(tensor.shape)} instead of long {expected}"
    if not bool(((lengths_B >= 0) & (lengths_B <= tokens_BS.shape[1])).all()):
        return f"lengths_B has {lengths_B.tolist()}, and tokens_BS has {tokens_BS.shape[1]} columns"
    if labels.confidence_B.shape != (batch,):
        return f"confidence_B has shape {list(labels.confidence_B.shape)} instead of [{batch}]"
    return _invalid_label(subject.traces, rehearsal.vocabulary_size)


def _invalid_label(traces: Sequence[StepTrace], vocabulary_size: int) -> str:
    for trace in traces:
        for row, label in trace.labels.items():
            wrong = [token for token in label.tokens if not 1 <= token < vocabulary_size]
            if wrong:
                what = "the blank, 0" if wrong[0] == 0 else f"token {wrong[0]}"
                return f"the label of utterance {row} has {what}; tokens are 1 to {vocabulary_size - 1}"
            for name in ("confidence", "agreement"):
                if not 0.0 <= getattr(label, name) <= 1.0:
                    return f"the {name} of utterance {row} is {getattr(label, name)}, not from 0 to 1"
    return ""


def _deterministic(subject: Subject) -> str:
    return _difference(subject.traces, subject.rehearsal().run(), "in a second run")


def _resume(subject: Subject) -> str:
    before, after = subject.rehearsal(), subject.rehearsal()
    for _ in range(_RESUMED_AT):
        before.step()
        after.advance()
    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    try:
        state = torch.load(file, weights_only=True)
    except pickle.UnpicklingError:
        return "the state has objects that a checkpoint cannot hold"
    after.load_state_dict(state)
    return _difference(subject.traces[_RESUMED_AT:], after.run(), "after a resume", _RESUMED_AT)


def _world_size(subject: Subject) -> str:
    with tempfile.TemporaryDirectory() as folder:
        (traces, state), (_, other_state) = _on_processes(subject.config, Path(folder))
    wrong = _difference(subject.traces, traces, f"on {_PROCESSES} processes")
    if wrong:
        return wrong
    return "" if state == other_state else "the processes have different states after the last step"


def _on_processes(config: RunConfig, folder: Path) -> list[_Result]:
    """The result of each of two processes.

    Raises:
        UserError: a process failed, or waited for the other one in vain.
    """
    context = multiprocessing.get_context("spawn")
    arguments = (config, str(folder), torch.get_num_threads())
    processes = [context.Process(target=_rehearse, args=(rank, *arguments)) for rank in range(_PROCESSES)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + _TIMEOUT_S
    while any(p.is_alive() for p in processes) and not any(p.exitcode for p in processes):
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    statuses = [process.exitcode for process in processes]
    kill(processes)
    for rank, status in enumerate(statuses):
        error = folder / f"{rank}.error"
        if status:
            told = error.read_text() if error.exists() else f"ended with status {status}"
            raise UserError(f"process {rank} of {_PROCESSES}: {told}")
    if None in statuses:
        raise UserError(f"the processes have not ended after {_TIMEOUT_S:g} s")
    return [pickle.loads((folder / f"{rank}.result").read_bytes()) for rank in range(_PROCESSES)]


def _rehearse(rank: int, config: RunConfig, folder: str, threads: int) -> None:
    """Write the result of one of the processes, a `_Result`, or its error."""
    torch.set_num_threads(threads)
    store = dist.FileStore(str(Path(folder, "store")), _PROCESSES)
    timeout = timedelta(seconds=_TIMEOUT_S)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=_PROCESSES, timeout=timeout)
    module = __name__
    try:
        rehearsal = Rehearsal(config, ProcessGroup(rank, _PROCESSES, torch.device("cpu")))
        module = type(rehearsal.strategy).__module__
        traces, file = rehearsal.run(), io.BytesIO()
        torch.save(rehearsal.state_dict(), file)
    except (Exception, SystemExit) as error:
        Path(folder, f"{rank}.error").write_text(described(error, module))
        sys.exit(1)
    Path(folder, f"{rank}.result").write_bytes(pickle.dumps((traces, file.getvalue())))
    dist.barrier()
    dist.destroy_process_group()


def _memory(subject: Subject) -> str | Passed:
    rehearsal = subject.rehearsal()
    rehearsal.step()
    first = _bytes(rehearsal.strategy.state_dict())
    for _ in range(1, STEPS_OF_A_PASS):
        rehearsal.step()
    more = UTTERANCES - UTTERANCES // STEPS_OF_A_PASS
    each = max(0.0, (_bytes(rehearsal.strategy.state_dict()) - first) / more)
    told = f"{each:,.0f} bytes per utterance of 1 s, {each * 1e7 / 1e9:,.1f} GB for 10 million"
    return f"the state has {told}" if each > MOST_BYTES else Passed(told)


def _bytes(value: Any) -> int:
    """Memory of a state: tensors, and objects in nested containers."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    children: list[Any] = []
    if isinstance(value, Mapping):
        children = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set):
        children = list(value)
    return sys.getsizeof(value) + sum(map(_bytes, children))


def _waiting(subject: Subject) -> str | Passed:
    rehearsal = subject.rehearsal()
    rehearsal.label_first()
    request = rehearsal.request()
    with Waits((subject.module, "asr_emapl.pseudo_labels")) as waits:
        rehearsal.strategy.labels(request).result()
    if not waits.places:
        return ""
    return Passed(f"labels() waits for the device, which makes a GPU slower: {listing(waits.places, 3)}")


def _difference(expected: Sequence[StepTrace], found: Sequence[StepTrace], where: str, first: int = 0) -> str:
    for number, (one, other) in enumerate(zip(expected, found, strict=True), start=first + 1):
        what = one.difference(other)
        if what:
            return f"{where}, {what} differs in step {number}"
    return ""


CHECKS: tuple[Check[Subject], ...] = (
    Check(
        "labels",
        _labels,
        "return Labels with one row per utterance in their order; Labels.of makes them from lists",
    ),
    Check(
        "deterministic",
        _deterministic,
        "draw from a generator seeded by options, row and epoch, and do not depend on time or on sets",
        needs=("labels",),
    ),
    Check(
        "resume",
        _resume,
        "return all that labels depend on from state_dict, as tensors, numbers, texts, lists and dicts, and "
        "restore it in load_state_dict",
        needs=("labels", "deterministic"),
    ),
    Check(
        "world size",
        _world_size,
        "keep labels in keep(), which gets those of all processes if the strategy has previous()",
        needs=("labels", "deterministic"),
    ),
    Check(
        "memory",
        _memory,
        "keep labels alone, in tensors (asr_emapl.pseudo_labels.label_table.LabelTable does)",
        needs=("labels",),
    ),
    # It never fails: some labels need the host, such as those of a beam search.
    Check("no waiting", _waiting, "", needs=("labels",)),
)

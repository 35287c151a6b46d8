"""Cases run in forked children of a process that has imported everything: a fraction of a second each."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import io
import json
import os
import pickle
import pkgutil
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from . import mutations
from .inputs import make_inputs
from .templates import TEMPLATES, Template

TIMEOUT_S = 60.0
_MEMORY_BYTES = 12 << 30
_FILE_BYTES = 512 << 20
# What the package imports within functions, as far as it takes long.
_LATE_IMPORTS = (
    *("torch.utils.tensorboard", "torchaudio.functional"),
    *("matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "rich.console", "rich.table"),
)
_FULL_DISK_SHARE = 0.08
_LEFTOVERS = (".partial", ".part", ".tmp")


@dataclass
class Case:
    """A command line, and how its input was broken."""

    number: int
    arguments: list[str] = field(default_factory=list)
    broken: str = ""
    status: int | str = ""
    said: str = ""
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        line = " ".join(word if len(word) < 60 else word[:57] + "..." for word in self.arguments)
        return f"case {self.number}: asr-emapl {line!r} [{self.broken}] -> {self.status}"


def run_cases(
    numbers: Sequence[int], seed: int, *, keep: Path | None = None, jobs: int = 2
) -> Iterator[Case]:
    """Run cases, each in a folder of its own; in the order in which they end.

    Args:
        numbers: from 0 on, broken; -1 and so on: the commands one after another with good input.
        keep: where the folders of cases stay; None: nowhere.
    """
    import_everything()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        made = Path(folder, "good", "in")
        _in_child(lambda: make_inputs(made))
        running: dict[int, tuple[int, int]] = {}
        pending = list(reversed(numbers))
        while pending or running:
            while pending and len(running) < jobs:
                number = pending.pop()
                reader, pid = _start(
                    number, seed, made, (keep or Path(folder)) / f"case-{number}", keep is None
                )
                running[reader] = (number, pid)
            for reader in select.select(list(running), [], [])[0]:
                number, pid = running.pop(reader)
                with os.fdopen(reader, "rb") as file:
                    content = file.read()
                os.waitpid(pid, 0)
                yield pickle.loads(content) if content else Case(number, faults=["the fuzz itself failed"])


def import_everything() -> None:
    """Import what any command imports, so that children need not."""
    import torch

    import asr_emapl
    import data_prep

    for package in (asr_emapl, data_prep):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    for name in _LATE_IMPORTS:
        importlib.import_module(name)
    torch.set_num_threads(1)
    gc.freeze()


def _in_child(action: Callable[[], object]) -> None:
    """In a process of its own: training starts threads, which a later fork would not have."""
    pid = os.fork()
    if pid == 0:
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise RuntimeError("the good inputs could not be made")


def _start(number: int, seed: int, made: Path, folder: Path, remove: bool) -> tuple[int, int]:
    """Fork a process that runs a case in `folder`; the pipe on which it will tell of it, and its id."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return reader, pid
    try:
        os.close(reader)
        case = _run(number, seed, made, folder)
        with os.fdopen(writer, "wb") as file:
            pickle.dump(case, file)
        if remove:
            shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _run(number: int, seed: int, made: Path, folder: Path) -> Case:
    random = Random(f"{seed} {number}")
    template = TEMPLATES[number % len(TEMPLATES)]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copytree(made, folder / "in")
    os.chdir(folder)
    Path("out").mkdir()
    case = Case(number, template.arguments)
    disk = _FILE_BYTES
    if number >= 0 and random.random() < _FULL_DISK_SHARE:
        disk = random.choice((0, 1, 100, 3000, 100_000))
        case.broken = f"files of more than {disk} bytes cannot be written"
    elif number >= 0:
        case.arguments, case.broken = _broken(template, random)
    before = _checksums(Path("in"))
    case.status, case.said = _call(case.arguments, disk)
    case.faults = list(_faults(case, template, before))
    if number < 0 and case.status != 0:
        case.faults.append("good input is refused")
    return case


def _broken(template: Template, random: Random) -> tuple[list[str], str]:
    """Arguments and what is wrong with them, or with a file that they name."""
    arguments, kind = template.arguments, random.random()
    if arguments[0] in ("train", "scale") and kind < 0.4:
        import yaml

        override = mutations.broken_override(yaml.safe_load(Path("in/run/config.yaml").read_text()), random)
        return [*arguments, override], f"override {override[:60]}"
    if kind < 0.3 or not template.reads:
        return mutations.broken_arguments(arguments, random)
    path = Path(random.choice(template.reads))
    if random.random() < 0.1:
        return arguments, f"{path}: {mutations.replaced_by_another_kind(path, random)}"
    change = mutations.broken_bytes
    if random.random() < 0.6:
        named = {".yaml": mutations.broken_yaml, ".pt": mutations.broken_checkpoint}
        named |= dict.fromkeys((".json", ".jsonl", ".gz"), mutations.broken_json)
        change = named.get(path.suffix, change) if path.name != "text.txt.gz" else change
    return arguments, f"{path}: {change(path, random)}"


def _call(arguments: list[str], disk_bytes: int) -> tuple[int | str, str]:
    """Exit status of the command, run in a child, or how else it ended; and what it said."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(arguments, writer, disk_bytes)
    os.close(writer)
    process, said, deadline = os.pidfd_open(pid), b"", time.monotonic() + TIMEOUT_S
    watched = [process, reader]
    ended = False
    while not ended and (left := deadline - time.monotonic()) > 0.0:
        ready = select.select(watched, [], [], left)[0]
        if reader in ready:
            piece = os.read(reader, 1 << 20)
            said += piece
            watched = watched if piece else [process]
        else:
            # Nothing is left to read; what children of its own may still say is no part of it.
            ended = process in ready
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    for number in (process, reader):
        os.close(number)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    text = said.decode("utf-8", "replace")
    if not ended:
        return f"hangs for {TIMEOUT_S:g} s", text
    return (status if status >= 0 else signal.Signals(-status).name), text


def _become(arguments: list[str], output: int, disk_bytes: int) -> None:
    """Be the command, from here to the end of the process."""
    from asr_emapl.cli import main

    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    # Whoever ignores the signal gets an error as from a disk that is full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (disk_bytes, disk_bytes))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for number, opened in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(opened, number)
    os.close(output)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(n, "w"), "utf-8", write_through=True) for n in (1, 2)
    )
    sys.argv = ["asr-emapl", *arguments]
    status = 99
    try:
        main()
        status = 0
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _faults(case: Case, template: Template, before: dict[str, str]) -> Iterator[str]:
    if case.status not in (0, 1, 2, 130):
        yield f"ends with {case.status}"
    if "Traceback (most recent call last)" in case.said:
        yield "a traceback"
    if "not enough memory" in case.said:
        yield "fills the memory"
    after = _checksums(Path("in"))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name) and not (
            template.changes and name.startswith(template.changes)
        ):
            yield f"changes its input {name}"
    written = [path for path in sorted(Path().rglob("*")) if path.is_file() and path.parts[0] != "in"]
    for path in written:
        if path.name.endswith(_LEFTOVERS):
            yield f"leaves {path}"
        elif (
            path.name not in _GROWING and path.suffix in _WHOLE and not _WHOLE[path.suffix](path.read_bytes())
        ):
            yield f"leaves half of {path}"
    if case.status == 2 and not template.resumes:
        yield from (f"writes {path}, and fails" for path in written if path.parts[0] == "out")


def _is_json(content: bytes) -> bool:
    try:
        for line in content.splitlines():
            json.loads(line)
    except ValueError:
        try:
            json.loads(content)
        except ValueError:
            return False
    return True


# Logs of runs: a reader passes over a line that is not whole yet.
_GROWING = ("log.jsonl", "speed.jsonl", "skipped.jsonl")
# How each kind of file ends if it is whole.
_WHOLE: dict[str, Callable[[bytes], bool]] = {
    ".json": _is_json,
    ".jsonl": lambda content: content.endswith(b"\n") and _is_json(content),
    ".html": lambda content: content.rstrip().endswith(b"</html>"),
    ".svg": lambda content: content.rstrip().endswith(b"</svg>"),
    ".png": lambda content: content.endswith(b"IEND\xaeB`\x82"),
    ".pt": lambda content: b"PK\x05\x06" in content[-100:],
    ".arpa": lambda content: content.rstrip().endswith(b"\\end\\"),
}


def _checksums(folder: Path) -> dict[str, str]:
    """Of each file, by its name; what is no file is told by its kind."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            found[str(path)] = oct(path.lstat().st_mode)
        else:
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found

"""Time and memory of opening a manifest of millions of utterances, planning batches, and resuming.

    python benchmarks/manifests.py --millions 10 --folder DIR    # writes 1.6 GB to DIR

A manifest is written first, with paths and lengths like those of Libri-Light. Each line of the output is for
a new process: one indexes the manifest, one opens it, two plan batches of 290 s (in the first pass, and in
the middle of the tenth, as in a resume), and one does everything that a run does before its first batch. The
last column is the peak memory of the process, including imports and mapped pages, which the processes of a
host share.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path

SECONDS = 290.0


def write(path: Path, count: int) -> None:
    """A manifest of `count` unlabelled utterances."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            audio = f"/corpora/libri-light/{i % 9000}/{i // 100:06d}/{i:08d}.flac"
            record = {"id": f"{i % 9000:04d}-{i:08d}", "audio": audio, "speaker": str(i % 9000)}
            file.write(json.dumps(record | {"duration": round(rng.uniform(1.4, 24.5), 3)}) + "\n")


def imports(path: Path) -> str:
    """Import all modules that a run imports, mainly torch."""
    import asr_emapl.training.trainer

    return f"{asr_emapl.training.trainer.__name__:33s}"


def open_it(path: Path) -> str:
    """Open the manifest, through its index if there is one."""
    from asr_emapl.data.manifest import open_manifest

    start = time.perf_counter()
    count = len(open_manifest(path))
    return f"{time.perf_counter() - start:8.2f} s  ({count:,} utterances)"


def plan(path: Path, epoch: int) -> str:
    """Open the manifest and plan some batches in the middle of a pass."""
    from asr_emapl.data.batch_plan import BatchConfig
    from asr_emapl.data.manifest import open_manifest

    manifest = open_manifest(path)
    start = time.perf_counter()
    batches = BatchConfig().plan(manifest.samples, round(SECONDS * 16_000))
    chunk = batches.chunk(epoch, batches.chunks // 2)
    return f"{time.perf_counter() - start:8.2f} s  ({len(chunk.batches)} batches)"


def train(path: Path) -> str:
    """Everything that a run does before its first batch: limits, hashes for a resume, kappa."""
    from asr_emapl.config import RunConfig
    from asr_emapl.corpora.selection import TrainingAudio
    from asr_emapl.data.mixture import DataCursor

    config = RunConfig()
    config.data.labelled = [str(path)]
    start = time.perf_counter()
    audio = TrainingAudio.select(config, world_size=1)
    audio.step_audio(config, world_size=1)
    audio.plan(config, SECONDS).next(DataCursor())
    return f"{time.perf_counter() - start:8.2f} s"


def measured(action: Callable[..., str], path: Path, *arguments: int) -> str:
    """The output of an action, and the peak memory of its process."""
    said = action(path, *arguments)
    return f"{said}  {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024:6d} MB"


def main() -> None:
    """Print one line per action; each action runs in a separate process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, required=True)
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    path = chosen.folder / "manifest.jsonl"
    write(path, round(chosen.millions * 1e6))
    actions = {
        "index": (open_it,),
        "open": (open_it,),
        "plan": (plan, 0),
        "resume": (plan, 9),
        "run": (train,),
        "imports": (imports,),
    }
    for name, (action, *arguments) in actions.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(f"{name:8s} {pool.apply(measured, (action, path, *arguments))}", flush=True)


if __name__ == "__main__":
    main()

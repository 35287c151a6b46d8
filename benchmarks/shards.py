"""Random access to audio: byte ranges in shards, compared with one file per utterance.

    python benchmarks/shards.py data/dev-clean.jsonl

Packs the manifest's files unchanged into a temporary folder. Then reads the same utterances in the same
random order from the shards and from the original files, alternately, in one process. The table shows medians
over the rounds. All files are in the page cache, so the time is that of the access, not of the disk.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import soundfile
import torch
from timing import seconds_of

from asr_emapl import storage
from asr_emapl.audio.decode import read_audio
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.shards import ShardConfig, pack
from asr_emapl.data.utterance import Utterance

CPU = torch.device("cpu")
# Name -> function that reads an utterance, and the utterances.
Contestants = dict[str, tuple[Callable[[Utterance], object], list[Utterance]]]


def opened_each_time(utterance: Utterance) -> bytes:
    """Read bytes from a shard, without a cache of open files and without the checksum."""
    assert utterance.byte_range is not None
    with Path(utterance.audio).open("rb", buffering=0) as file:
        file.seek(utterance.byte_range.start)
        return file.read(utterance.byte_range.length)


def by_fsspec(utterance: Utterance) -> bytes:
    """Read bytes from a shard through fsspec, as for URLs."""
    assert utterance.byte_range is not None
    part = utterance.byte_range
    return storage.read(f"file://{utterance.audio}", part.start, part.length)


def decoded(utterance: Utterance) -> torch.Tensor:
    """Decode the waveform, as in training."""
    return read_audio(utterance.source, offset=utterance.offset, duration=utterance.duration)


def read_all(read: Callable[[Utterance], object], utterances: list[Utterance]) -> None:
    """Read each utterance once."""
    for utterance in utterances:
        read(utterance)


def measure(contestants: Contestants, rounds: int) -> dict[str, float]:
    """Median reads per second of each action."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, (read, utterances) in contestants.items():
            # Use the same order for all actions.
            chosen = random.Random(turn).sample(utterances, len(utterances))
            taken = seconds_of(partial(read_all, read, chosen), CPU)
            if turn > 0:  # the first one fills the cache
                times[name].append(taken)
    return {name: len(contestants[name][1]) / statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print reads per second, and ratios to separate files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest")
    parser.add_argument("--utterances", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    every = read_manifest(chosen.manifest)
    at = sorted(random.Random(0).sample(range(len(every)), min(chosen.utterances, len(every))))
    with tempfile.TemporaryDirectory() as folder:
        packed = pack(chosen.manifest, folder, ShardConfig())
        inside = read_manifest(packed.manifest)
        files, ranges = [every[i] for i in at], [inside[i] for i in at]
        raw: Contestants = {
            "bytes: separate files": (lambda u: u.source.content(), files),
            "bytes: shards, checked": (lambda u: u.source.content(), ranges),
            "bytes: shards, opened each time": (opened_each_time, ranges),
            "bytes: shards, by fsspec": (by_fsspec, ranges),
        }
        waveforms: Contestants = {
            "waveforms: separate files": (decoded, files),
            "waveforms: shards, checked": (decoded, ranges),
        }
        mean = sum(u.byte_range.length for u in ranges if u.byte_range) / len(ranges)
        print(
            f"soundfile {soundfile.__version__}, CPU, 1 thread: {len(at)} utterances of {mean / 1024:.0f} "
            f"KiB, {len(packed.shards)} shard(s), median of {chosen.rounds}"
        )
        for contestants in (raw, waveforms):
            rates = measure(contestants, chosen.rounds)
            for name, rate in rates.items():
                print(f"  {name:34s} {rate:9.0f} per second  {rate / next(iter(rates.values())):5.2f}")


if __name__ == "__main__":
    main()

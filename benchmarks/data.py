"""Speed of the data pipeline on one core: decoding, features, batch plan, and the complete loader.

    pip install lhotse speechbrain                     # packages that are not installed are skipped
    python benchmarks/data.py --manifest dev-clean.jsonl
    python benchmarks/data.py --manifest dev-clean.jsonl --against 200   # speed of a model, x real time

All implementations in a table are run alternately in one process, so that other work on the machine slows all
of them. The tables show medians in seconds of audio per second of wall-clock time, and the ratio to this
toolkit. Features are computed for 16 utterances of 15 s of noise, with 80 mel bands and a hop of 10 ms. Plans
are for 28,539 utterances with lengths as in LibriSpeech's train-clean-100, with 200 s per batch. The loaders
read and shuffle the manifest's audio and return padded waveforms, with 200 s per batch. The loader of this
toolkit also draws the masks of SpecAugment.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from timing import seconds_of

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.augment import AugmentConfig, SpecAugment
from asr_emapl.audio.decode import read_audio
from asr_emapl.audio.features import FrameCount, LogMel
from asr_emapl.audio.perturb import Noise, NoiseConfig, Perturbation, Speed, SpeedConfig
from asr_emapl.data.batch_plan import BatchConfig
from asr_emapl.data.corpus import Corpus
from asr_emapl.data.loader import StepDataset, steps
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.mixture import DataCursor, DataPlan, Mixture
from asr_emapl.data.utterance import Utterance

CPU = torch.device("cpu")
BATCH_SECONDS = 200.0
Action = Callable[[], object]


def librispeech_like(count: int) -> list[float]:
    """Lengths in seconds as in train-clean-*: most are about 14.5, the others uniform; the mean is 12.5."""
    rng = np.random.default_rng(0)
    long, short = rng.normal(14.5, 1.2, count), rng.uniform(1.4, 14.5, count)
    return list(np.where(rng.uniform(size=count) < 0.7, long, short).clip(1.4, 24.5))


def lhotse_cuts(seconds: Iterable[float], paths: Iterable[str]) -> Any:
    """A lhotse CutSet, which reads the audio only on request."""
    import lhotse

    def cut(i: int, duration: float, path: str) -> Any:
        samples = round(duration * SAMPLE_RATE_HZ)
        source = lhotse.AudioSource("file", [0], path)
        recording = lhotse.Recording(str(i), [source], SAMPLE_RATE_HZ, samples, samples / SAMPLE_RATE_HZ)
        return recording.to_cut()

    return lhotse.CutSet.from_cuts(cut(i, *both) for i, both in enumerate(zip(seconds, paths, strict=False)))


def lhotse_sampler(cuts: Any) -> Any:
    """lhotse's sampler, with the number of buckets used in lhotse's examples."""
    from lhotse.dataset import DynamicBucketingSampler

    return DynamicBucketingSampler(cuts, max_duration=BATCH_SECONDS, num_buckets=30, shuffle=True)


def speechbrain_sampler(seconds: list[float]) -> Any:
    """SpeechBrain's sampler, with its default bucket boundaries."""
    from speechbrain.dataio.sampler import DynamicBatchSampler

    return DynamicBatchSampler(
        list(range(len(seconds))), BATCH_SECONDS, num_buckets=30, lengths_list=seconds, shuffle=True
    )


# These functions map a name to a function that builds the timed action. It is skipped after an ImportError.


def decoders(utterances: list[Utterance]) -> dict[str, Callable[[], Action]]:
    """Decoders of files to waveforms."""

    def lhotse() -> Action:
        cuts = list(lhotse_cuts([u.duration for u in utterances], [u.audio for u in utterances]))
        return lambda: [cut.load_audio() for cut in cuts]

    def speechbrain() -> Action:
        from speechbrain.dataio.dataio import read_audio as read

        return lambda: [read(u.audio) for u in utterances]

    return {
        "asr_emapl read_audio": lambda: lambda: [read_audio(u.audio) for u in utterances],
        "soundfile alone": lambda: lambda: [soundfile.read(u.audio, dtype="float32") for u in utterances],
        "lhotse": lhotse,
        "speechbrain": speechbrain,
    }


def features(waveforms_BN: torch.Tensor) -> dict[str, Callable[[], Action]]:
    """Log-mel features of waveforms."""
    samples_B = torch.full((len(waveforms_BN),), waveforms_BN.shape[1])

    def mel_spectrogram() -> Action:
        from torchaudio.transforms import MelSpectrogram

        mel = MelSpectrogram(SAMPLE_RATE_HZ, n_fft=400, hop_length=160, n_mels=80)
        return lambda: torch.log(mel(waveforms_BN) + 1e-8)

    def kaldi() -> Action:
        from torchaudio.compliance.kaldi import fbank

        return lambda: [fbank(wave[None], num_mel_bins=80) for wave in waveforms_BN]

    def speechbrain() -> Action:
        from speechbrain.lobes.features import Fbank

        fbank = Fbank(n_mels=80)
        return lambda: fbank(waveforms_BN)

    def lhotse() -> Action:
        from lhotse import Fbank

        fbank, waves = Fbank(), list(waveforms_BN)
        return lambda: fbank.extract_batch(waves, SAMPLE_RATE_HZ)

    log_mel = LogMel()
    return {
        "asr_emapl LogMel": lambda: lambda: log_mel(waveforms_BN, samples_B),
        "torchaudio MelSpectrogram": mel_spectrogram,
        "torchaudio kaldi.fbank": kaldi,
        "speechbrain Fbank": speechbrain,
        "lhotse Fbank": lhotse,
    }


def loaders(utterances: list[Utterance], count: int) -> dict[str, Callable[[], Action]]:
    """Loaders of shuffled batches of padded waveforms. Each call loads `count` batches in this process."""
    seconds = [u.duration for u in utterances]

    def own(perturb: Perturbation | None) -> Action:
        corpus = Corpus(utterances, [[1]] * len(utterances))
        limit = round(BATCH_SECONDS * SAMPLE_RATE_HZ)
        dataset = StepDataset(
            corpus,
            None,
            frames=FrameCount(400, 160),
            augment=SpecAugment(AugmentConfig(), 80),
            perturb=perturb,
            max_samples=limit,
            seed=0,
            rank=0,
            world_size=1,
        )
        endless = steps(
            dataset,
            DataPlan(Mixture([BatchConfig().plan(corpus.samples, limit)])),
            DataCursor(),
            workers=0,
            pin_memory=False,
        )
        return lambda: sum(step.samples for step in islice(endless, count)) / SAMPLE_RATE_HZ

    def perturbed() -> Action:
        return own(Perturbation(Speed(SpeedConfig()), None, Noise(NoiseConfig(), utterances)))

    def lhotse() -> Action:
        from lhotse.dataset.collation import collate_audio

        class Waveforms(torch.utils.data.Dataset[Any]):
            def __getitem__(self, cuts: Any) -> Any:
                return collate_audio(cuts)

        sampler = lhotse_sampler(lhotse_cuts(seconds, [u.audio for u in utterances]))
        endless = cycle_of(torch.utils.data.DataLoader(Waveforms(), batch_size=None, sampler=sampler))
        return lambda: sum(float(lengths.sum()) for _, lengths in islice(endless, count)) / SAMPLE_RATE_HZ

    def speechbrain() -> Action:
        from speechbrain.dataio.batch import PaddedBatch
        from speechbrain.dataio.dataio import read_audio as read
        from speechbrain.dataio.dataloader import SaveableDataLoader
        from speechbrain.dataio.dataset import DynamicItemDataset

        provided = [{"func": read, "takes": "wav", "provides": "signal"}]
        items = {u.id: {"wav": u.audio, "duration": u.duration} for u in utterances}
        dataset = DynamicItemDataset(items, provided, ["signal"])
        sampler = speechbrain_sampler(seconds)
        loader = SaveableDataLoader(dataset, batch_sampler=sampler, collate_fn=PaddedBatch)
        endless = cycle_of(loader)

        def take() -> float:
            signals = (batch.signal for batch in islice(endless, count))
            return sum(float((s.lengths * s.data.shape[1]).sum()) for s in signals) / SAMPLE_RATE_HZ

        return take

    return {
        "asr_emapl steps": lambda: own(None),
        "asr_emapl, speed and noise": perturbed,
        "lhotse": lhotse,
        "speechbrain": speechbrain,
    }


def cycle_of(epochs: Iterable[Any]) -> Iterator[Any]:
    """Repeat the epochs forever."""
    for _ in cycle([None]):
        yield from epochs


def race(title: str, contestants: dict[str, Callable[[], Action]], audio: float | None, rounds: int) -> float:
    """Time all implementations alternately and print a table.

    Args:
        audio: seconds of audio that each call processes; None: each call returns them.

    Returns:
        The speed of the first implementation, as a multiple of real time.
    """
    print(f"\n{title}")
    actions: dict[str, Action] = {}
    for name, build in contestants.items():
        try:
            actions[name] = build()
        except ImportError as error:
            print(f"  {name}: skipped ({error})")
    speeds: dict[str, list[float]] = {name: [] for name in actions}
    order = list(actions)
    for turn in range(rounds + 1):
        random.shuffle(order)
        for name in order:
            said: list[Any] = []
            taken = seconds_of(lambda name=name, said=said: said.append(actions[name]()), CPU)  # type: ignore[misc]
            if turn:  # the first one allocates and warms up
                speeds[name].append((said[0] if audio is None else audio) / taken)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    first = medians[next(iter(actions))]
    for name, median in sorted(medians.items(), key=lambda item: -item[1]):
        print(f"  {name:28s} {median:9,.0f} x real time  {median / first:6.2f}")
    return first


def plans() -> None:
    """Padding of an epoch's batches, and the time to plan them."""
    seconds = librispeech_like(28_539)
    samples = np.array([round(s * SAMPLE_RATE_HZ) for s in seconds], dtype=np.int64)
    limit = round(BATCH_SECONDS * SAMPLE_RATE_HZ)

    def own() -> list[list[float]]:
        epoch = BatchConfig().plan(samples, limit).epoch(0)
        return [[float(samples[i]) / SAMPLE_RATE_HZ for i in batch] for batch in epoch]

    def lhotse() -> list[list[float]]:
        cuts = lhotse_cuts(seconds, cycle(["none"]))
        return [[cut.duration for cut in batch] for batch in lhotse_sampler(cuts)]

    def speechbrain() -> list[list[float]]:
        return [[seconds[i] for i in batch] for batch in speechbrain_sampler(seconds)]

    print(
        f"\nplan of {len(seconds):,} utterances, {sum(seconds) / 3600:.1f} h, {BATCH_SECONDS:g} s per batch"
    )
    for name, plan in {"asr_emapl": own, "lhotse": lhotse, "speechbrain": speechbrain}.items():
        made: list[list[list[float]]] = []
        try:
            taken = seconds_of(lambda plan=plan, made=made: made.append(plan()), CPU)  # type: ignore[misc]
        except ImportError as error:
            print(f"  {name}: skipped ({error})")
            continue
        padded = [len(batch) * max(batch) for batch in made[0]]
        padding = 1.0 - sum(map(sum, made[0])) / sum(padded)
        print(
            f"  {name:12s} {len(padded):5,} batches, {100 * padding:5.2f} % padding, "
            f"at most {max(padded):6.1f} s, {taken:6.3f} s"
        )


def main() -> None:
    """Print a table for each stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--manifest", type=Path, required=True, help="manifest of 16 kHz audio, one file per utterance"
    )
    parser.add_argument(
        "--utterances", type=int, default=400, help="maximum number of utterances (default 400)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--against", type=float, help="speed of a model on one core, x real time")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    utterances = read_manifest(chosen.manifest)[: chosen.utterances]
    print(
        f"torch {torch.__version__}, CPU, {chosen.threads} thread(s), median of {chosen.rounds} "
        f"alternating rounds; last column: ratio to asr_emapl"
    )
    some = utterances[:20]
    race("decoding", decoders(some), sum(u.duration for u in some), chosen.rounds)
    waveforms_BN = 0.1 * torch.randn(16, 15 * SAMPLE_RATE_HZ)
    race("features", features(waveforms_BN), 16 * 15.0, chosen.rounds)
    plans()
    speed = race("loader", loaders(utterances, 2), None, chosen.rounds)
    if chosen.against:
        print(f"  {speed / chosen.against:.1f} times the speed of a model at {chosen.against:g} x real time")


if __name__ == "__main__":
    main()

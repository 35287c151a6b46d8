"""Throughput of `asr-emapl label` (greedy), compared with the encoder alone on the same batches.

    python benchmarks/label.py --model paper --precision bf16          # on a GPU if there is one
    python benchmarks/label.py --model mini --manifest data/dev-clean.jsonl

The encoder alone is the model's forward pass on features in the device's memory. Labelling also includes
everything else except loading the model: reading and decoding files, computing features, and writing labels
in parts. Both are run alternately in one process. The last line shows the median of the ratios of each pair
of rounds. Without a manifest, the audio is random noise in 16-bit FLAC files with lengths as in LibriSpeech.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from data import librispeech_like
from step import MODELS
from timing import in_turns, seconds_of
from torch import Tensor

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.features import LogMel
from asr_emapl.data.loader import collate
from asr_emapl.data.manifest import Manifest, open_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.decoding.labellers import LabellingConfig, ModelLabeller
from asr_emapl.decoding.transcribe import Recognizer, length_batches
from asr_emapl.distributed.process_group import ProcessGroup, available_cpus, leave_out_cudnn_attention
from asr_emapl.models.transformer import TransformerCtc
from asr_emapl.pseudo_labels.label_parts import LabelParts
from asr_emapl.pseudo_labels.labelling import label_manifest
from asr_emapl.text.tokenizer import CharacterTokenizer

Features = list[tuple[Tensor, Tensor]]


def random_manifest(folder: Path, minutes: float) -> Path:
    """A manifest of random audio at a level at which FLAC halves the size, as it does for speech."""
    rng = np.random.default_rng(0)
    utterances, total = [], 0.0
    for number, seconds in enumerate(librispeech_like(round(10 * minutes))):
        path = folder / f"{number}.flac"
        samples = round(seconds * SAMPLE_RATE_HZ)
        soundfile.write(path, 0.003 * rng.standard_normal(samples), SAMPLE_RATE_HZ, subtype="PCM_16")
        utterances.append(Utterance(str(number), str(path), samples / SAMPLE_RATE_HZ))
        total += seconds
        if total >= 60.0 * minutes:
            break
    write_manifest(folder / "random.jsonl", utterances)
    return folder / "random.jsonl"


def prepared(manifest: Manifest, parts: LabelParts, recognizer: Recognizer, max_seconds: float) -> Features:
    """Features of the batches that `label` makes, on the device."""
    batches = (
        batch
        for number in range(len(parts))
        for batch in length_batches(manifest[parts.rows(number)], max_seconds)
    )
    audio = (collate(batch).to(recognizer.device) for batch in batches)
    return [recognizer.features(micro.waveforms_BN, micro.samples_B) for micro in audio]


def encoder_alone(recognizer: Recognizer, inputs: Features, bf16: bool) -> Callable[[], object]:
    """Forward passes."""

    @torch.no_grad()
    def action() -> None:
        with torch.autocast(recognizer.device.type, torch.bfloat16, enabled=bf16):
            for features_BTF, lengths_B in inputs:
                recognizer.model(features_BTF, lengths_B)

    return action


def main() -> None:
    """Print medians and the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="mini")
    parser.add_argument("--manifest", help="audio to label (default: random)")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of random audio")
    parser.add_argument("--part-minutes", type=float, default=60.0)
    parser.add_argument("--max-seconds", type=float, default=120.0, help="padded seconds of audio in a batch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model (default 1)")
    parser.add_argument("--workers", type=int, default=available_cpus(), help="threads that decode audio")
    parser.add_argument("--times", action="store_true", help="write the times of words")
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    leave_out_cudnn_attention()
    device, bf16 = torch.device(chosen.device), chosen.precision == "bf16"
    tokenizer = CharacterTokenizer()
    model = TransformerCtc(tokenizer.vocabulary_size, **MODELS[chosen.model][0]).to(device).eval()
    recognizer = Recognizer(model, LogMel().to(device), tokenizer, device)
    config = LabellingConfig(
        times=chosen.times, max_seconds=chosen.max_seconds, bf16=bf16, threads=chosen.workers
    )
    with tempfile.TemporaryDirectory() as name:
        manifest = open_manifest(chosen.manifest or random_manifest(Path(name), chosen.minutes))
        parts = LabelParts.of(manifest.samples, chosen.part_minutes / 60.0)
        labeller, world = ModelLabeller([recognizer], None, config, {}), ProcessGroup(0, 1, device)
        folders = (Path(name, f"labels-{number}") for number in itertools.count())
        actions = {
            "encoder alone": encoder_alone(
                recognizer, prepared(manifest, parts, recognizer, chosen.max_seconds), bf16
            ),
            "label": lambda: label_manifest(manifest, parts, next(folders), labeller, world),
        }
        times = in_turns(actions, lambda action: seconds_of(action, device), chosen.rounds)
    report(chosen, float(manifest.seconds.sum()), len(parts), times)


def report(chosen: argparse.Namespace, seconds: float, parts: int, times: dict[str, list[float]]) -> None:
    """Print the measurements."""
    is_gpu = torch.device(chosen.device).type == "cuda"
    where = torch.cuda.get_device_name() if is_gpu else f"CPU, {chosen.threads} thread(s)"
    print(
        f"torch {torch.__version__}, {where}, {chosen.workers} threads decode; {chosen.model}, "
        f"{chosen.precision}, {seconds / 60:.1f} min of audio in {parts} parts, {chosen.rounds} rounds"
    )
    for name, taken in times.items():
        speed = seconds / statistics.median(taken)
        print(f"  {name:14s} {statistics.median(taken):8.3f} s  {speed:8,.0f} hours of audio per hour")
    pairs = zip(times["encoder alone"], times["label"], strict=True)
    ratio = statistics.median(alone / whole for alone, whole in pairs)
    print(f"  label has {ratio:.3f} of the throughput of the encoder alone")


if __name__ == "__main__":
    main()

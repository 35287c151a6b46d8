"""Time of training with labels of a beam search, by where and when the search runs.

    python benchmarks/search.py --checkpoint runs/seed --lm-config lm.json \\
        --labelled data/train-labelled.jsonl --unlabelled data/train-unlabelled.jsonl

Measures a labelled and an unlabelled step together, as they alternate in training: with greedy labels, with
the search in the training process, in processes, and in processes with the labels made ahead
(`pseudo_labels.label_ahead`). All take turns on the same batches and the same weights, which do not change.
The ratios are medians over rounds. The search needs a CPU core of its own to run beside the training; without
a GPU, `--busy S` adds S seconds to each of the student's passes in which the CPU is free, as with a GPU.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from timing import in_turns, seconds_of

from asr_emapl.checkpoints.recognizer import load_recognizer
from asr_emapl.data.loader import collate
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.mixture import DataCursor
from asr_emapl.data.step_batch import StepBatch
from asr_emapl.decoding.beam import BeamSearch
from asr_emapl.decoding.transcribe import Recognizer, length_batches
from asr_emapl.decoding.tuning import read_config
from asr_emapl.distributed.process_group import ProcessGroup, leave_out_cudnn_attention
from asr_emapl.ema import EmaTeacher
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.filters import LabelFilters
from asr_emapl.pseudo_labels.labeller import Labeller
from asr_emapl.pseudo_labels.search_pool import SearchPool
from asr_emapl.pseudo_labels.strategies.ema import FreshLabels
from asr_emapl.training.build import build_step
from asr_emapl.training.step import TrainStep

_BATCHES = 8


def batches(recognizer: Recognizer, manifest: Path, seconds: float, *, labelled: bool) -> Iterator[StepBatch]:
    """Batches of `seconds` of audio, of all lengths, in turns."""
    found = length_batches(read_manifest(str(manifest))[:2000], seconds)
    made, rows = [], itertools.count()
    for utterances in found[:: max(1, len(found) // _BATCHES)][:_BATCHES]:
        micro = collate(utterances)
        micro.rows = list(itertools.islice(rows, len(micro.ids)))
        if labelled:
            texts = {u.id: u.text or "" for u in utterances}
            micro.targets = [recognizer.tokenizer.encode(texts[name]) for name in micro.ids]
        samples = sum(u.samples for u in utterances)
        batch = StepBatch(labelled, [micro], samples, DataCursor())
        made.append(batch.pin_memory() if recognizer.device.type == "cuda" else batch)
    return itertools.cycle(made)


def build(recognizer: Recognizer, searches: SearchPool | None, *, bf16: bool, busy: float) -> TrainStep:
    """The train step of a copy of the model, which does not change its weights.

    Args:
        busy: seconds that are added to each of the student's forward passes.
    """
    student = copy.deepcopy(recognizer.model).train()
    teacher = EmaTeacher(student, half_life=3600.0)
    if busy:
        student.register_forward_pre_hook(lambda *_: time.sleep(busy))
    return build_step(
        ProcessGroup(0, 1, recognizer.device),
        recognizer.features,
        student,
        teacher,
        torch.optim.AdamW(student.parameters(), lr=0.0, weight_decay=0.0),
        FreshLabels(Labeller(teacher, searches=searches, bf16=bf16)),
        LabelFilters(PseudoLabelConfig()),
        clip_norm=1.0,
        bf16=bf16,
    )


def two_steps(
    step: TrainStep, labelled: Iterator[StepBatch], unlabelled: Iterator[StepBatch], *, ahead: bool
) -> Callable[[], None]:
    """A function that takes a labelled and an unlabelled step on the next batches."""

    def action() -> None:
        batch = next(unlabelled)
        if ahead:
            step.begin_labels(batch)
        step(next(labelled))
        step(batch)

    return action


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("checkpoint", "lm-config", "labelled", "unlabelled"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=12.0, help="audio per batch (default 12)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--busy", type=float, default=0.0, metavar="S")
    parser.add_argument("--rounds", type=int, default=40)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    leave_out_cudnn_attention()
    recognizer = load_recognizer(chosen.checkpoint, "teacher", chosen.device)
    search = BeamSearch(recognizer.tokenizer, read_config(chosen.lm_config))
    variants = {"greedy": (None, False), "search in the training process": (0, False)}
    for workers in chosen.workers:
        variants[f"search in {workers} process(es)"] = (workers, False)
        variants[f"search in {workers} process(es), ahead"] = (workers, True)
    actions = {}
    with ExitStack() as pools:
        for name, (workers, ahead) in variants.items():
            searches = None
            if workers is not None:
                searches = pools.enter_context(closing(SearchPool(search, workers)))
            step = build(recognizer, searches, bf16=chosen.bf16, busy=chosen.busy)
            kinds = ((chosen.labelled, True), (chosen.unlabelled, False))
            both = (batches(recognizer, path, chosen.seconds, labelled=kind) for path, kind in kinds)
            actions[name] = two_steps(step, *both, ahead=ahead)
        times = in_turns(actions, lambda action: seconds_of(action, recognizer.device), chosen.rounds)
    print(
        f"torch {torch.__version__}, {recognizer.device.type}, beam {search.config.beam}, "
        f"{chosen.seconds:g} s of audio per step, median of {chosen.rounds} pairs of steps"
    )
    for name, taken in times.items():
        ratio = statistics.median(mine / greedy for mine, greedy in zip(taken, times["greedy"], strict=True))
        print(f"  {name:34s} {1e3 * statistics.median(taken):8.1f} ms  {ratio:6.3f} of greedy labels")


if __name__ == "__main__":
    main()

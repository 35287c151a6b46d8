"""Time of a step on untranscribed audio, compared with one on transcribed audio, and of its parts.

    python benchmarks/step.py --model quickstart       # on a GPU if there is one
    python benchmarks/step.py --model paper --bf16     # 36 layers, 255 M parameters, 290 s of audio

In the unlabelled step, the teacher decodes the batch, then the student trains on labels of the same length as
in the labelled step. It needs 4/3 of the operations of the labelled step, because a forward pass is a third
of forward and backward pass. Both steps are run alternately in one process; the table shows medians. Audio
and texts are random, which does not change the time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from timing import seconds_of

from asr_emapl.audio.features import LogMel
from asr_emapl.checks.trial_step import SameLength, random_batch
from asr_emapl.data.step_batch import StepBatch
from asr_emapl.distributed.process_group import ProcessGroup, leave_out_cudnn_attention
from asr_emapl.ema import EmaTeacher
from asr_emapl.models.blocks import compile_blocks, recompute_blocks
from asr_emapl.models.transformer import TransformerCtc
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.filters import LabelFilters
from asr_emapl.pseudo_labels.labeller import Labeller
from asr_emapl.training.build import build_step
from asr_emapl.training.step import TrainStep

# Options of the transformer; seconds of audio per batch; seconds per utterance.
MODELS: dict[str, tuple[dict[str, Any], float, float]] = {
    "quickstart": ({"dim": 144, "layers": 3, "norm": "pre", "convolution": 15}, 12.0, 3.0),
    "mini": ({"dim": 192, "layers": 4, "norm": "pre", "convolution": 31}, 40.0, 13.0),
    "paper": ({"dim": 768, "layers": 36, "heads": 4}, 290.0, 14.5),
}
VOCABULARY = 29


def batch(seconds: float, each: float, labelled: bool) -> StepBatch:
    """Random audio and texts, in page-locked memory if there is a GPU."""
    made = random_batch(seconds, each, labelled, VOCABULARY)
    return made.pin_memory() if torch.cuda.is_available() else made


def build(
    options: dict[str, Any], device: torch.device, bf16: bool, compiled: bool, recompute: bool
) -> TrainStep:
    """Student, teacher, optimizer and step."""
    student, twin = (TransformerCtc(VOCABULARY, **options).to(device).train() for _ in range(2))
    if recompute:
        recompute_blocks(student)
    if compiled:
        compile_blocks(student)
        compile_blocks(twin)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, betas=(0.9, 0.98), fused=True)
    teacher = EmaTeacher(student, 3600.0, twin)
    return build_step(
        ProcessGroup(0, 1, device),
        LogMel().to(device),
        student,
        teacher,
        optimizer,
        SameLength(Labeller(teacher, bf16=bf16)),
        LabelFilters(PseudoLabelConfig()),
        clip_norm=1.0,
        bf16=bf16,
    )


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="quickstart")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true", help="as device.compile=blocks")
    parser.add_argument("--recompute", action="store_true", help="as device.recompute=blocks")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--rounds", type=int, default=20)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    device = torch.device(chosen.device)
    leave_out_cudnn_attention()
    options, seconds, each = MODELS[chosen.model]
    step = build(options, device, chosen.bf16, chosen.compile, chosen.recompute)
    labelled, unlabelled = batch(seconds, each, True), batch(seconds, each, False)
    actions: dict[str, Callable[[], object]] = {
        "labelled step": lambda: step(labelled),
        "unlabelled step": lambda: step(unlabelled),
        "of this: teacher's update": lambda: step.teacher.update(seconds),
    }
    times: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(chosen.rounds + 3):
        for name, action in actions.items():
            taken = seconds_of(action, device)
            if turn >= 3:  # the first rounds allocate
                times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    parameters = sum(p.numel() for p in step.student.parameters())
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {chosen.threads} thread(s)"
    print(
        f"torch {torch.__version__}, {where}, {chosen.model}: {parameters / 1e6:.1f} M parameters, "
        f"{seconds:g} s of audio per step, {'bf16' if chosen.bf16 else 'fp32'}, median of {chosen.rounds}"
        f"{', compiled' if chosen.compile else ''}{', recomputed' if chosen.recompute else ''}"
    )
    for name, median in medians.items():
        ratio = median / medians["labelled step"]
        print(f"  {name:28s} {1e3 * median:9.2f} ms  {ratio:5.3f} of a labelled step")
    print(f"  {seconds / medians['unlabelled step']:.0f} x real time on untranscribed audio")
    if device.type == "cuda":
        print(f"  {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of peak GPU memory")


if __name__ == "__main__":
    main()

"""Time of one update of the average: this teacher, other packages, and the memory bandwidth bound.

    pip install ema-pytorch torch-ema timm    # packages that are not installed are skipped
    python benchmarks/ema.py                  # on a GPU if there is one
    python benchmarks/ema.py --threads 1 --millions 38

All implementations are run alternately in one process, so that other work on the machine slows all of them.
The table shows medians, the ratio to the bound, and the memory traffic of the bound: one `lerp_` over one
flat tensor of the same size, which reads two streams and writes one. On a GPU, it also shows the GPU time
alone, which is the time that an update adds to a step whose work is queued in advance.
"""

from __future__ import annotations

import argparse
import importlib
import math
import statistics
from collections.abc import Callable

import torch
from timing import gpu_seconds_of, in_turns, seconds_of
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from asr_emapl.ema import EmaTeacher
from asr_emapl.models.transformer import TransformerCtc

# Far enough from 1 that this teacher is updated in every call.
RHO = 0.99
# Millions of parameters -> options of the transformer.
SIZES = {38: {"dim": 512, "heads": 8, "layers": 12}, 255: {"dim": 768, "heads": 4, "layers": 36}}

Update = Callable[[], object]


def flat(model: nn.Module) -> Update:
    """The bound."""
    count = sum(p.numel() for p in model.parameters())
    device = next(model.parameters()).device
    student, teacher = torch.randn(count, device=device), torch.randn(count, device=device)
    return lambda: teacher.lerp_(student, 1.0 - RHO)


def this_teacher(model: nn.Module) -> Update:
    """`asr_emapl.ema.EmaTeacher`."""
    teacher = EmaTeacher(model, half_life=math.log(2.0) / -math.log(RHO))
    return lambda: teacher.update(1.0)


def averaged_model(model: nn.Module) -> Update:
    """torch's AveragedModel, in its multi-tensor form."""
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(RHO))
    return lambda: average.update_parameters(model)


def ema_pytorch(model: nn.Module) -> Update:
    """ema-pytorch, every step, foreach."""
    library = importlib.import_module("ema_pytorch")
    average = library.EMA(model, beta=RHO, update_after_step=0, update_every=1, use_foreach=True)
    return lambda: average.update()


def timm_v3(model: nn.Module) -> Update:
    """timm's ModelEmaV3."""
    average = importlib.import_module("timm.utils").ModelEmaV3(model, decay=RHO, foreach=True)
    return lambda: average.update(model)


def torch_ema(model: nn.Module) -> Update:
    """torch_ema."""
    library = importlib.import_module("torch_ema")
    average = library.ExponentialMovingAverage(model.parameters(), decay=RHO, use_num_updates=False)
    return lambda: average.update()


CONTESTANTS: dict[str, Callable[[nn.Module], Update]] = {
    "flat lerp_ (bound)": flat,
    "asr_emapl EmaTeacher": this_teacher,
    "torch AveragedModel": averaged_model,
    "ema-pytorch": ema_pytorch,
    "timm ModelEmaV3": timm_v3,
    "torch_ema": torch_ema,
}


def measure(options: dict[str, int], device: torch.device, rounds: int) -> tuple[int, dict[str, list[float]]]:
    """Number of parameters, and for each implementation the median seconds per update: total and GPU."""
    model = TransformerCtc(29, **options).to(device)  # type: ignore[arg-type]
    updates: dict[str, Update] = {}
    for name, build in CONTESTANTS.items():
        try:
            updates[name] = build(model)
        except ImportError as error:
            print(f"{name}: skipped ({error})")

    def seconds(update: Update) -> tuple[float, float]:
        return seconds_of(update, device), gpu_seconds_of(update) if device.type == "cuda" else 0.0

    times = in_turns(updates, seconds, rounds)
    count = sum(p.numel() for p in model.parameters())
    medians = {
        name: [statistics.median(v) for v in zip(*pairs, strict=True)] for name, pairs in times.items()
    }
    return count, medians


def main() -> None:
    """Print a table per size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--millions", type=int, choices=SIZES, nargs="*", default=list(SIZES))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {chosen.threads} thread(s)"
    print(f"torch {torch.__version__}, {name}, median of {chosen.rounds} interleaved updates, fp32")
    for millions in chosen.millions:
        count, medians = measure(SIZES[millions], device, chosen.rounds)
        bound = medians["flat lerp_ (bound)"]
        print(f"\n{count / 1e6:.1f} M parameters, {12e-9 * count / bound[0]:.0f} GB/s at the bound")
        for contestant, (median, gpu) in sorted(medians.items(), key=lambda item: item[1]):
            line = f"  {contestant:22s} {1e3 * median:9.3f} ms  {median / bound[0]:6.2f} x the bound"
            if gpu:
                line += f"    GPU alone {1e3 * gpu:9.3f} ms  {gpu / bound[1]:6.2f}"
            print(line)


if __name__ == "__main__":
    main()

"""Whether averaging the weights inside the optimizer's own pass would pay: the best that it could do.

    python benchmarks/fused.py                            # on a GPU if there is one
    python benchmarks/fused.py --threads 1 --millions 38

AdamW reads four streams (weights, gradients, two moments) and writes three; the average reads two and writes
one. Fused, the new weights need not be read again: nine streams instead of ten. One flat tensor each, so that
nothing but memory traffic differs; the fused pass and, for a fair comparison, the separate one are compiled
by torch.compile; torch's own fused AdamW with `lerp_` after it stands beside them. In turns, medians.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from timing import in_turns, seconds_of
from torch import Tensor

LR, BETA1, BETA2, EPS, DECAY, RHO = 1e-3, 0.9, 0.98, 1e-8, 0.01, 0.9999


def adamw(p: Tensor, g: Tensor, m: Tensor, v: Tensor) -> None:
    """One step in place, far from the first one: bias corrections are 1."""
    m.lerp_(g, 1.0 - BETA1)
    v.mul_(BETA2).addcmul_(g, g, value=1.0 - BETA2)
    p.mul_(1.0 - LR * DECAY).addcdiv_(m, v.sqrt().add_(EPS), value=-LR)


def adamw_and_average(p: Tensor, g: Tensor, m: Tensor, v: Tensor, e: Tensor) -> None:
    """The same, and the average of the new weights."""
    adamw(p, g, m, v)
    e.lerp_(p, 1.0 - RHO)


def contestants(count: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """Each takes one step and averages; every one has tensors of its own."""

    def tensors() -> list[Tensor]:
        return [torch.rand(count, device=device) * 1e-2 for _ in range(5)]

    p, g, _, _, e = tensors()
    weight = torch.nn.Parameter(p)
    weight.grad = g
    optimizer = torch.optim.AdamW([weight], LR, (BETA1, BETA2), EPS, DECAY, fused=True)
    separate, fused = torch.compile(adamw), torch.compile(adamw_and_average)
    x, y = tensors(), tensors()

    def torchs_own() -> None:
        optimizer.step()
        e.lerp_(weight.detach(), 1.0 - RHO)

    def two_passes() -> None:
        separate(*x[:4])
        x[4].lerp_(x[0], 1.0 - RHO)

    return {
        "torch's fused AdamW, then lerp_": torchs_own,
        "compiled AdamW, then lerp_": two_passes,
        "compiled AdamW with the average": lambda: fused(*y),
        "lerp_ alone": lambda: e.lerp_(p, 1.0 - RHO),
    }


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--millions", type=int, nargs="*", default=[38, 255])
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {chosen.threads} thread(s)"
    print(f"torch {torch.__version__}, {name}, median of {chosen.rounds} interleaved steps, fp32")
    for millions in chosen.millions:
        actions = contestants(millions * 1_000_000, device)
        times = in_turns(actions, lambda action: seconds_of(action, device), chosen.rounds)
        print(f"\n{millions} M parameters")
        for name, values in times.items():
            print(f"  {name:32s} {1e3 * statistics.median(values):9.3f} ms")


if __name__ == "__main__":
    main()

"""The EMA Scaling Rule in a plain training loop: python docs/tutorials/own_loop.py [picture.png]"""

import sys

import torch
from torch import nn

from asr_emapl.ema import EmaTeacher
from asr_emapl.scaling import scale_hyperparameters

# The reference batch size, the length of the run, and the half-life of the average, in images.
BATCH, IMAGES, HALF_LIFE = 16, 24_576, 2_000.0
GROUP = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.01}


def images(count, seed):
    """Blurred random prototypes of 10 classes, shifted and noisy [count, 1, 16, 16], and labels [count]."""
    prototypes = nn.functional.avg_pool2d(torch.randn(10, 1, 20, 20, generator=torch.manual_seed(0)), 5, 1)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=generator)
    shifts = torch.randint(-2, 3, (count, 2), generator=generator).tolist()
    clean = torch.stack([prototypes[y].roll(s, (-2, -1)) for y, s in zip(labels, shifts, strict=True)])
    return clean + 0.25 * torch.randn(clean.shape, generator=generator), labels


def train(kappa, scale_optimizer, scale_average, seed=1):
    """Losses of the averaged model on held-out images, as (images seen, loss)."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    group = scale_hyperparameters("adamw", GROUP, kappa) if scale_optimizer else GROUP
    optimizer = torch.optim.AdamW(model.parameters(), **group)
    teacher = EmaTeacher(model, half_life=HALF_LIFE)
    inputs, labels = images(IMAGES, seed)
    held_out, truth = images(1_000, seed=99)
    curve = []
    for begin in range(0, IMAGES, BATCH * kappa):
        batch = slice(begin, begin + BATCH * kappa)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
        optimizer.step()
        # The momentum depends on the number of images. Without the rule, it is that of a batch of 16.
        teacher.update(BATCH * kappa if scale_average else BATCH)
        if (begin // BATCH) % 64 == 0:
            with torch.no_grad():
                curve.append((begin, nn.functional.cross_entropy(teacher.module(held_out), truth).item()))
    return curve


def main():
    torch.set_num_threads(1)
    runs = {
        "kappa 1": train(1, True, True),
        "kappa 8, full rule": train(8, True, True),
        "kappa 8, optimizer's rule alone": train(8, True, False),
        "kappa 8, nothing scaled": train(8, False, False),
    }
    reference = dict(runs["kappa 1"])
    for name, curve in runs.items():
        distance = max(abs(loss - reference[seen]) for seen, loss in curve)
        print(f"{name:32s} last loss {curve[-1][1]:.3f}, largest distance from kappa 1 {distance:.3f}")
    if len(sys.argv) > 1:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        for name, curve in runs.items():
            axes.plot(*zip(*curve, strict=True), label=name, linestyle="-" if "1" in name[:7] else "--")
        axes.set(xlabel="images", ylabel="loss of the average")
        axes.legend()
        figure.savefig(sys.argv[1], dpi=120)


if __name__ == "__main__":
    main()

"""Param groups of torch's optimizers, by family of rules."""

from __future__ import annotations

ADAM = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.01}
SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 1e-4, "nesterov": True}
GROUPS = {
    "sgd": SGD,
    "rmsprop": {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "momentum": 0.5, "weight_decay": 1e-4},
    "adam": ADAM,
    "adamw": ADAM,
    "nadam": ADAM | {"momentum_decay": 4e-3},
    # beta2 so large that RAdam stays in its range for all kappas of the tests and their products.
    "radam": ADAM | {"betas": (0.9, 0.99999)},
    "adagrad": {"lr": 0.1, "lr_decay": 1e-4, "eps": 1e-10, "initial_accumulator_value": 0.1},
    "lamb": ADAM,
    "lars": {"lr": 0.2, "momentum": 0.9, "weight_decay": 1e-6, "trust_coefficient": 1e-3},
}
FAMILIES = sorted(GROUPS)
WITH_BETAS = ["adam", "adamw", "lamb", "nadam", "radam", "rmsprop"]
WITH_HEAVY_BALL = ["rmsprop", "sgd"]
WITH_NOISE_SHARE = ["adagrad", "adam", "adamw", "lamb", "lars", "nadam", "radam", "rmsprop"]

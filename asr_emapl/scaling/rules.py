"""Batch rules: reference hyper-parameters and kappa in, hyper-parameters at the new batch out. All pure.

kappa = batch / reference batch, both in the same unit (here: seconds of audio over all ranks and
micro-batches of one optimizer step). Every rule is the identity at kappa = 1, composes
(scale by k1, then k2 == scale by k1 * k2) and is undone by 1 / kappa.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

Group = dict[str, Any]


def scale_momentum(rho: float, kappa: float) -> float:
    """The EMA Scaling Rule itself: rho -> rho ** kappa (Busbridge et al. 2023, Definition of the rule).

    Raises:
        ValueError: rho outside [0, 1] or kappa not positive.
    """
    _require_kappa(kappa)
    if not 0.0 <= rho <= 1.0:
        raise ValueError(f"momentum {rho} lies outside [0, 1]")
    return float(rho**kappa)


def half_life(rho: float, audio_per_step: float) -> float:
    """Audio (in the unit of `audio_per_step`) after which a weight counts half in the average.

    Infinite for rho = 1, zero for rho = 0.
    """
    if not 0.0 <= rho <= 1.0:
        raise ValueError(f"momentum {rho} lies outside [0, 1]")
    if rho == 0.0:
        return 0.0
    return math.inf if rho == 1.0 else audio_per_step * math.log(2.0) / -math.log(rho)


def momentum(half_life: float, audio: float) -> float:
    """rho of a step that consumes `audio`: 2 ** (-audio / half_life). Same unit for both.

    This *is* the rule: momentum(h, kappa * audio) == momentum(h, audio) ** kappa.

    Raises:
        ValueError: half_life not positive, or audio negative.
    """
    if not half_life > 0.0:
        raise ValueError(f"a half-life must be positive, not {half_life}")
    if audio < 0.0:
        raise ValueError(f"a step cannot consume {audio} of audio")
    return 2.0 ** (-audio / half_life)


def scale_clip_norm(clip_norm: float, kappa: float) -> float:
    """Gradient-clipping threshold at kappa: C / sqrt(kappa).

    The norm of a noise-dominated gradient shrinks by sqrt(kappa), so a threshold that stays where it was
    clips another share of the steps: it depends on the batch as much as rho does. Derived, not the paper's.
    """
    _require_kappa(kappa)
    return clip_norm / math.sqrt(kappa)


def scale_hyperparameters(
    optimizer: type[torch.optim.Optimizer] | torch.optim.Optimizer | str,
    group: Mapping[str, Any],
    kappa: float,
    *,
    beta_form: str = "power",
) -> Group:
    """A torch param group's hyper-parameters at `kappa` times the reference batch.

    Args:
        optimizer: a torch optimizer class, an instance, or its name ("adamw").
        group: what torch keeps in a param group ("lr", "betas", "eps", ...), at the *reference* batch.
            Keys that no rule touches are returned as they are; the mapping itself is left alone.
        kappa: batch / reference batch.
        beta_form: "power" (beta ** kappa) or "linear" (1 - kappa (1 - beta), Malladi et al. 2022).

    Raises:
        ValueError: no rule is known for the optimizer; or the linear form left its range
            (kappa must stay below 1 / (1 - beta)).
    """
    _require_kappa(kappa)
    family = _family(optimizer, group)
    return _RULES[family](dict(group), kappa, _beta_scaler(beta_form))


def _sgd(group: Group, kappa: float, beta: Callable[[float, float], float]) -> Group:
    """Linear rule (Goyal et al. 2017): lr * kappa, heavy-ball momentum kept.

    Weight decay is multiplied by lr inside torch's SGD, so it moves with lr by itself.
    """
    del beta
    return group | {"lr": group["lr"] * kappa}


def _rmsprop(group: Group, kappa: float, beta: Callable[[float, float], float]) -> Group:
    """Square-root rule (Malladi et al. 2022): lr sqrt(kappa), eps / sqrt(kappa), alpha as a beta."""
    scaled = group | {"lr": group["lr"] * math.sqrt(kappa)}
    if "eps" in group:
        scaled["eps"] = group["eps"] / math.sqrt(kappa)
    if "alpha" in group:
        scaled["alpha"] = beta(group["alpha"], kappa)
    return scaled


def _adam(group: Group, kappa: float, beta: Callable[[float, float], float]) -> Group:
    """Square-root rule for Adam (Malladi et al. 2022), L2 decay as it is."""
    scaled = group | {"lr": group["lr"] * math.sqrt(kappa)}
    if "eps" in group:
        scaled["eps"] = group["eps"] / math.sqrt(kappa)
    if "betas" in group:
        # The smallest first: it is the one that limits kappa, and an error should name that limit.
        by_beta = {b: beta(b, kappa) for b in sorted(group["betas"])}
        scaled["betas"] = tuple(by_beta[b] for b in group["betas"])
    return scaled


def _adamw(group: Group, kappa: float, beta: Callable[[float, float], float]) -> Group:
    """As Adam; torch decays by lr * weight_decay, which has to grow by kappa while lr grows by its root."""
    scaled = _adam(group, kappa, beta)
    if "weight_decay" in group:
        scaled["weight_decay"] = group["weight_decay"] * math.sqrt(kappa)
    return scaled


_RULES: dict[str, Callable[[Group, float, Callable[[float, float], float]], Group]] = {
    "sgd": _sgd,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "adamw": _adamw,
}


def _family(
    optimizer: type[torch.optim.Optimizer] | torch.optim.Optimizer | str, group: Mapping[str, Any]
) -> str:
    if isinstance(optimizer, str):
        name = optimizer.lower()
    else:
        cls = optimizer if isinstance(optimizer, type) else type(optimizer)
        name = cls.__name__.lower()
    # torch keeps AdamW's decay as a flag on Adam's groups as well; the flag, not the name, says what happens.
    defaults = getattr(optimizer, "defaults", {})
    if name == "adam" and group.get("decoupled_weight_decay", defaults.get("decoupled_weight_decay", False)):
        name = "adamw"
    if name not in _RULES:
        raise ValueError(f"no scaling rule is known for optimizer {name!r}; known: {', '.join(_RULES)}")
    return name


def _beta_scaler(form: str) -> Callable[[float, float], float]:
    if form == "power":
        return lambda beta, kappa: beta**kappa
    if form == "linear":
        return _linear_beta
    raise ValueError(f"beta form {form!r} is neither 'power' nor 'linear'")


def _linear_beta(beta: float, kappa: float) -> float:
    if kappa == 1.0:
        return beta
    scaled = 1.0 - kappa * (1.0 - beta)
    # Not <= 0: 1 - 0.9 is a little less than 0.1, and kappa = 10 is out of range all the same.
    if scaled <= 1e-12 * kappa:
        raise ValueError(
            f"the linear form takes beta {beta} out of (0, 1) at kappa {kappa}: "
            f"kappa must stay below {1.0 / (1.0 - beta):g}, or use the power form"
        )
    return scaled


def _require_kappa(kappa: float) -> None:
    if not (kappa > 0.0 and math.isfinite(kappa)):
        raise ValueError(f"kappa must be positive and finite, not {kappa}")

"""Scaling rules of optimizers: pure functions from hyper-parameters at the reference batch to those at kappa.

kappa = batch / reference batch, both in the same unit (seconds of audio, samples) and both for a whole
optimizer step over all ranks and micro-batches. The rules preserve training as a function of the data
consumed: one step at kappa replaces kappa reference steps. Every rule is the identity at kappa = 1, composes
(scale by k1, then k2 == scale by k1 * k2) and is inverted by 1 / kappa.

All rules follow from two requirements on the gradient g of a mean loss. A step must have kappa times the
drift of a reference step; and quantities compared with g (a second moment, eps, a clipping threshold) must
shrink as g does. The mean of g ** 2 falls by the gain, between 1 and kappa (`scaling.gradient_noise`). The
gain depends on the noise share, which changes with the batch: to compose rules, use `scale_noise_share`.

"Derived" marks rules that follow from these two requirements if steps are small and the gradient changes
little over kappa reference steps; tests compare them with simulations. Formulas from papers are cited from
memory, without the section.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from asr_emapl.scaling.averages import require_kappa
from asr_emapl.scaling.gradient_noise import gain

Group = dict[str, Any]

# Entries of a param group in the unit of the learning rate; schedulers add the last three.
_RATES = ("lr", "initial_lr", "max_lr", "min_lr")


def scale_hyperparameters(
    optimizer: type[torch.optim.Optimizer] | torch.optim.Optimizer | str,
    group: Mapping[str, Any],
    kappa: float,
    *,
    beta_form: str = "power",
    momentum_form: str = "constant",
    noise_share: float = 1.0,
) -> Group:
    """Scale the hyper-parameters of a torch param group to `kappa` times the reference batch.

    Supports SGD, RMSprop, Adam, AdamW, NAdam, RAdam, Adagrad, LAMB and LARS, with one function below for each
    rule. Warm-up, milestones and other numbers of steps are not scaled: divide them by kappa.

    Args:
        optimizer: a torch optimizer class, an instance, or its name ("adamw"). LAMB and LARS, which torch
            does not have, are recognised by the name of the class.
        group: a torch param group ("lr", "betas", "eps", ...) at the reference batch; not modified.
            Keys without a rule are returned unchanged, and absent keys stay absent. Values keep their types
            (tensors their dtype); an int becomes a float.
        kappa: batch / reference batch.
        beta_form: "power" (beta ** kappa) or "linear" (1 - kappa (1 - beta), Malladi et al. 2022); for LAMB
            also "constant" (betas unchanged), with another rule for lr (see `_lamb`).
        momentum_form: heavy-ball momentum mu of SGD and RMSprop: "constant" (mu unchanged) or "power"
            (mu ** kappa, with the same effective rate lr / (1 - mu) as in "constant").
        noise_share: share of noise in the mean of g ** 2 at the reference batch, from 0 (the true gradient
            dominates) to 1 (noise dominates). Determines how much second moments shrink when the batch grows.
            One value for all parameters and the whole run. SGD's rule does not depend on it.

    Raises:
        ValueError: there is no rule for the optimizer; an option does not apply to it; a value is out of
            range; the linear form is out of range (kappa must stay below 1 / (1 - beta)), or RAdam is (see
            `_radam`).
    """
    require_kappa(kappa)
    name = _name(optimizer)
    options = {"beta_form": beta_form, "momentum_form": momentum_form, "noise_share": noise_share}
    _require_options(name, options)
    # Adam, NAdam and RAdam can have AdamW's decay as a flag of the param group.
    settings = {"decoupled_weight_decay": name == "adamw", **getattr(optimizer, "defaults", {}), **group}
    decoupled = bool(settings["decoupled_weight_decay"])
    change = _Change(float(kappa), gain(noise_share, kappa), noise_share, beta_form, momentum_form, decoupled)
    scaled = dict(group)
    _RULES[name].scale(scaled, change)
    return scaled


@dataclass(frozen=True)
class _Change:
    """A change of batch, and the options of the rules."""

    kappa: float
    # Divisor of the mean of g ** 2.
    gain: float
    noise_share: float
    beta_form: str
    momentum_form: str
    # Whether weights decay by lr * weight_decay rather than through the gradient.
    decoupled: bool

    @property
    def adaptive_rate(self) -> float:
        """kappa / sqrt(gain): factor on lr if g is divided by the root of an average of g ** 2."""
        return math.sqrt(self.kappa * (self.kappa / self.gain))


# One rule per optimizer. Each modifies its group in place.


def _sgd(group: Group, change: _Change) -> None:
    """Linear rule (Goyal et al. 2017): lr * kappa; heavy-ball or Nesterov momentum and dampening unchanged.

    Follows from an SDE that both batches approximate (Li et al. 2017), for every noise share. Weight decay is
    part of the gradient and multiplied by lr, so it is unchanged. Limitations: with constant momentum mu, the
    buffer averages over kappa times the data. This matters if kappa / (1 - mu) reference steps are not short
    compared with the time over which training changes.

    momentum_form "power", derived: mu ** kappa, lr * kappa * (1 - mu ** kappa) / (1 - mu). The buffer then
    averages over the same data, and the effective rate lr / (1 - mu) grows by kappa. Dampening d becomes
    d ** kappa, and lr is also divided by (1 - d ** kappa) / (1 - d), because the effective rate is
    proportional to 1 - d. With d = mu, where the buffer is an average, lr is simply multiplied by kappa.
    """
    _times(group, _RATES, change.kappa)
    _heavy_ball(group, change)


def _rmsprop(group: Group, change: _Change) -> None:
    """Square-root rule (Malladi et al. 2022): lr * sqrt(kappa), eps / sqrt(kappa); alpha scales as a beta.

    L2 decay is part of the gradient and unchanged. Heavy-ball momentum follows the division and is scaled as
    SGD's (derived). Limitations: the SDE behind the rule assumes that noise dominates. For other noise shares
    (derived): lr * kappa / sqrt(gain), eps / sqrt(gain). `centered` subtracts the mean, so the denominator
    has only noise, and the square-root rule applies at every share.
    """
    if group.get("centered"):
        change = replace(change, gain=change.kappa)
    _times(group, _RATES, change.adaptive_rate)
    _times(group, ("eps",), 1.0 / math.sqrt(change.gain))
    if group.get("alpha") is not None:
        group["alpha"] = _betas([group["alpha"]], change)[0]
    _heavy_ball(group, change)


def _adam(group: Group, change: _Change) -> None:
    """Square-root rule (Malladi et al. 2022): lr * sqrt(kappa), eps / sqrt(kappa), each beta by `beta_form`.

    The power form agrees with the paper's linear form to first order in kappa (1 - beta) and stays in [0, 1);
    it is the EMA Scaling Rule for the two moments. For limitations and other noise shares (derived), see
    `_rmsprop`; if the true gradient dominates, it is the linear rule: lr * kappa, eps unchanged. There is no
    derivation for amsgrad.

    Weight decay, derived: L2 is part of the gradient and unchanged. With decoupled decay
    (p -= lr * weight_decay * p), a step must decay kappa times as much: weight_decay * sqrt(gain), by default
    sqrt(kappa).
    """
    _times(group, _RATES, change.adaptive_rate)
    _times(group, ("eps",), 1.0 / math.sqrt(change.gain))
    if change.decoupled:
        _times(group, ("weight_decay",), math.sqrt(change.gain))
    if group.get("betas") is not None:
        group["betas"] = type(group["betas"])(_betas(group["betas"], change))


def _nadam(group: Group, change: _Change) -> None:
    """Adam's rule and momentum_decay * kappa, because 0.96 ** (t * momentum_decay) counts steps t. Derived.

    Limitations: mu, the share of momentum in a step, is beta1 ** kappa times the same ramp over data
    consumed. It determines how early a gradient is applied, not its total weight.
    """
    _adam(group, change)
    _times(group, ("momentum_decay",), change.kappa)


def _radam(group: Group, change: _Change) -> None:
    """Adam's rule; the rectification depends on beta2 and steps, and scales with beta2 ** kappa. Derived.

    Limitations: torch's RAdam divides by the second moment only if rho > 5 in the notation of its paper (Liu
    et al. 2020). This never happens if 2 / (1 - beta2) - 1 <= 5, that is beta2 <= 2/3. RAdam is then SGD on
    an average of gradients, which has another rule, so such a beta2 is an error. At every batch size, at
    least the first 5 steps are SGD. They consume kappa times the data, which no rule can correct.
    """
    betas = group.get("betas")
    _adam(group, change)
    if betas is None or change.kappa == 1.0:
        return
    before, after = float(betas[-1]), float(group["betas"][-1])
    if before <= 2.0 / 3.0:
        raise ValueError(
            f"RAdam with beta2 {before} never adapts, and there is no rule for that; use beta2 above 2/3"
        )
    if after <= 2.0 / 3.0:
        linear = change.beta_form == "linear"
        largest = 1.0 / (3.0 - 3.0 * before) if linear else math.log(2.0 / 3.0) / math.log(before)
        raise ValueError(
            f"at kappa {change.kappa:g}, RAdam's beta2 {before} falls to 2/3 or less and it never adapts; "
            f"kappa must stay below {largest:g}"
        )


def _adagrad(group: Group, change: _Change) -> None:
    """Rule for a sum of squares, derived: lr unchanged, eps / kappa, initial_accumulator_value / kappa ** 2.

    Over the same data there are 1 / kappa as many squares, each 1 / kappa as large if noise dominates. The
    root of their sum falls by kappa, which gives kappa times the drift. If the true gradient dominates, the
    squares do not shrink: lr * sqrt(kappa), eps / sqrt(kappa), initial_accumulator_value / kappa. In general:
    lr * sqrt(kappa / gain), eps / sqrt(kappa gain), initial_accumulator_value / (kappa gain). lr_decay counts
    steps: lr_decay * kappa. L2 decay is part of the gradient and unchanged. Limitations: the sum does not
    decay, so a change of the noise share during training has a lasting effect. The current sum is state,
    which is not scaled here.
    """
    _times(group, _RATES, math.sqrt(change.kappa / change.gain))
    _times(group, ("eps",), 1.0 / math.sqrt(change.kappa * change.gain))
    _times(group, ("initial_accumulator_value",), 1.0 / (change.kappa * change.gain))
    _times(group, ("lr_decay",), change.kappa)


def _lamb(group: Group, change: _Change) -> None:
    """Betas by `beta_form`, lr * kappa, eps / sqrt(gain), weight_decay * sqrt(gain). Derived.

    The length of a step is lr times the norm of the layer's weights, independent of the gradient's norm. Only
    the share of drift in its direction, m / sqrt(v), can change. In the power form, m averages over the same
    data at every batch and the share is constant, so lr is multiplied by kappa.

    beta_form "constant": betas unchanged, and lr * sqrt(kappa) if noise dominates, as in You et al. 2020. m
    then averages over kappa times the data, and the share of drift is larger by sqrt(kappa). For other noise
    shares: lr * kappa / sqrt(gain of m), where m has (1 - beta1) / (1 + beta1) of the gradient's noise.

    Weight decay is added to m / sqrt(v), whose drift grows by sqrt(gain) in both forms. Limitations: a layer
    needs many weights, so that the norm of its step does not fluctuate.
    """
    rate = change.kappa
    if change.beta_form == "constant":
        beta1 = float(group["betas"][0]) if group.get("betas") is not None else 0.0
        share = _share_after_average(change.noise_share, beta1)
        rate = replace(change, gain=gain(share, change.kappa)).adaptive_rate
    _times(group, _RATES, rate)
    _times(group, ("eps",), 1.0 / math.sqrt(change.gain))
    _times(group, ("weight_decay",), math.sqrt(change.gain))
    if group.get("betas") is not None:
        group["betas"] = type(group["betas"])(_betas(group["betas"], change))


def _lars(group: Group, change: _Change) -> None:
    """lr * kappa / sqrt(gain), everything else unchanged. Derived.

    Each layer's gradient is divided by its norm, which falls by sqrt(gain): square-root rule if noise
    dominates the norm, linear rule if the true gradient does (noise_share 0). BYOL uses the linear rule
    (lr = 0.2 * batch / 256, Grill et al. 2020). Weight decay is part of the normalised vector and unchanged.
    Limitations: see `_sgd` for momentum, which follows the division, and `_lamb` for small layers.
    """
    _times(group, _RATES, change.adaptive_rate)


@dataclass(frozen=True)
class _Rule:
    scale: Callable[[Group, _Change], None]
    # Options that apply to the rule; any other is an error.
    options: tuple[str, ...] = ()
    # Allowed values of beta_form.
    beta_forms: tuple[str, ...] = ("power", "linear")


_RULES = {
    "sgd": _Rule(_sgd, ("momentum_form", "noise_share")),
    "rmsprop": _Rule(_rmsprop, ("beta_form", "momentum_form", "noise_share")),
    "adam": _Rule(_adam, ("beta_form", "noise_share")),
    "adamw": _Rule(_adam, ("beta_form", "noise_share")),
    "nadam": _Rule(_nadam, ("beta_form", "noise_share")),
    "radam": _Rule(_radam, ("beta_form", "noise_share")),
    "adagrad": _Rule(_adagrad, ("noise_share",)),
    "lamb": _Rule(_lamb, ("beta_form", "noise_share"), ("power", "linear", "constant")),
    "lars": _Rule(_lars, ("noise_share",)),
}
_DEFAULTS = {"beta_form": "power", "momentum_form": "constant", "noise_share": 1.0}


def _name(optimizer: type[torch.optim.Optimizer] | torch.optim.Optimizer | str) -> str:
    if not isinstance(optimizer, str):
        optimizer = (optimizer if isinstance(optimizer, type) else type(optimizer)).__name__
    name = optimizer.lower()
    if name not in _RULES:
        raise ValueError(f"there is no scaling rule for optimizer {name!r}; use one of {', '.join(_RULES)}")
    return name


def _require_options(name: str, options: Mapping[str, Any]) -> None:
    rule = _RULES[name]
    choices = {"beta_form": rule.beta_forms, "momentum_form": ("constant", "power")}
    for option, value in options.items():
        allowed = choices.get(option)
        if allowed and value not in allowed:
            *others, last = map(repr, allowed)
            raise ValueError(
                f"{option.replace('_', ' ')} {value!r} is neither {', '.join(others)} nor {last} for {name}"
            )
        if value != _DEFAULTS[option] and option not in rule.options:
            default = _DEFAULTS[option]
            raise ValueError(f"{option} {value!r} does not apply to {name}; use {default!r}")


# Helpers of the rules.


def _times(group: Group, keys: tuple[str, ...], factor: float) -> None:
    for key in keys:
        if group.get(key) is not None:
            group[key] = _like(group[key], group[key] * factor)


def _like(value: Any, scaled: Any) -> Any:
    # Tensors keep their dtype; NumPy scalars do not in all versions.
    return scaled if isinstance(value, (int, torch.Tensor)) else type(value)(scaled)


def _heavy_ball(group: Group, change: _Change) -> None:
    """Scale mu and dampening d in the power form, and rates so that lr (1 - d) / (1 - mu) does not change."""
    if change.momentum_form == "constant":
        return
    for key, power in (("momentum", 1.0), ("dampening", -1.0)):
        memory = group.get(key)
        if memory is None:
            continue
        if not 0.0 <= memory < 1.0:
            raise ValueError(f"{key} {memory} is outside [0, 1), the range of the power form")
        group[key] = _like(memory, memory**change.kappa)
        _times(group, _RATES, ((1.0 - float(memory) ** change.kappa) / (1.0 - float(memory))) ** power)


def _share_after_average(noise_share: float, beta: float) -> float:
    """Noise share of a moving average of gradients with decay beta."""
    noise = noise_share * (1.0 - beta) / (1.0 + beta)
    return 1.0 / (1.0 + (1.0 - noise_share) / noise) if noise > 0.0 else 0.0


def _betas(betas: list[Any] | tuple[Any, ...], change: _Change) -> list[Any]:
    # Smallest first, because it limits kappa and an error should name that limit.
    for beta in sorted(map(float, betas)):
        if not 0.0 <= beta <= 1.0:
            raise ValueError(f"beta {beta} is outside [0, 1]")
        if change.beta_form == "linear":
            _require_linear(beta, change.kappa)
    if change.beta_form == "constant":
        return list(betas)
    if change.beta_form == "power":
        return [_like(beta, beta**change.kappa) for beta in betas]
    # Unchanged at kappa 1, in spite of rounding.
    return [beta if change.kappa == 1.0 else _like(beta, 1.0 - change.kappa * (1.0 - beta)) for beta in betas]


def _require_linear(beta: float, kappa: float) -> None:
    # Not <= 0: 1 - 0.9 is slightly less than 0.1, but kappa = 10 is out of range.
    if kappa != 1.0 and 1.0 - kappa * (1.0 - beta) <= 1e-12 * kappa:
        raise ValueError(
            f"the linear form of beta {beta} is outside (0, 1) at kappa {kappa}; "
            f"kappa must stay below {1.0 / (1.0 - beta):g}, or use the power form"
        )

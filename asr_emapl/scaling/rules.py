"""The batch rules of optimizers: hyper-parameters at the reference batch in, those at kappa out. All pure.

kappa = batch / reference batch, both in the same unit (seconds of audio, samples) and both of a whole
optimizer step, over all ranks and micro-batches. What is kept is the course over *data consumed*: one step at
kappa stands for kappa reference steps. Every rule is the identity at kappa = 1, composes
(scale by k1, then k2 == scale by k1 * k2) and is undone by 1 / kappa.

All of them follow from two demands on the gradient g of a mean loss. A step has to carry kappa times the
drift of a reference step; and what g is compared with (a second moment, eps, a clipping threshold) has to
shrink as g does. The mean of g ** 2 falls by the gain, between 1 and kappa (`scaling.gradient_noise`); it
depends on the share of noise, which the batch changes: to compose rules, restate it (`scale_noise_share`).

"Derived" marks what was worked out from these two demands, for steps that are small and a gradient that
changes little over kappa reference steps; the tests hold it against simulation. What comes from a paper is
given from memory of its formula, so the section is not named.
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

# All that a param group may hold in the unit of the learning rate; the last three are left by schedulers.
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
    """A torch param group's hyper-parameters at `kappa` times the reference batch.

    SGD, RMSprop, Adam, AdamW, NAdam, RAdam, Adagrad, LAMB and LARS. The rules are the functions below, one
    for each optimizer. Warm-up, milestones and other things counted in steps are the caller's: divide them by
    kappa.

    Args:
        optimizer: a torch optimizer class, an instance, or its name ("adamw"). LAMB and LARS are not torch's
            own: any class of that name.
        group: what torch keeps in a param group ("lr", "betas", "eps", ...), at the *reference* batch.
            Keys that no rule touches are returned as they are, absent ones stay absent, the mapping itself is
            left alone. Values keep their types (tensors their dtype); an int becomes a float.
        kappa: batch / reference batch.
        beta_form: "power" (beta ** kappa) or "linear" (1 - kappa (1 - beta), Malladi et al. 2022); for LAMB
            also "constant" (betas as they are), which goes with another learning rate (see its rule).
        momentum_form: heavy-ball momentum mu of SGD and RMSprop: "constant" (mu as it is) or "power"
            (mu ** kappa, and lr such that the effective rate, lr / (1 - mu), is what "constant" makes it).
        noise_share: share of the gradient noise's variance in the mean of g ** 2 at the reference batch, from
            0 (the gradient dominates) to 1 (noise does): how far a second moment falls when the batch grows.
            One number for all coordinates, and for the whole run. SGD's rule is the same for every share.

    Raises:
        ValueError: no rule is known for the optimizer; an option is set that its rule has no use for; a value
            out of range; the linear form left its range (kappa must stay below 1 / (1 - beta)), or RAdam its
            own (see its rule).
    """
    require_kappa(kappa)
    name = _name(optimizer)
    options = {"beta_form": beta_form, "momentum_form": momentum_form, "noise_share": noise_share}
    _require_options(name, options)
    # torch has AdamW's decay as a flag on the groups of its relatives: it says what happens, not the name.
    settings = {"decoupled_weight_decay": name == "adamw", **getattr(optimizer, "defaults", {}), **group}
    decoupled = bool(settings["decoupled_weight_decay"])
    change = _Change(float(kappa), gain(noise_share, kappa), noise_share, beta_form, momentum_form, decoupled)
    scaled = dict(group)
    _RULES[name].scale(scaled, change)
    return scaled


@dataclass(frozen=True)
class _Change:
    """A change of batch, as far as rules have to know it."""

    kappa: float
    # What the mean of g ** 2 is divided by.
    gain: float
    noise_share: float
    beta_form: str
    momentum_form: str
    # Whether weights decay by lr * weight_decay rather than through the gradient.
    decoupled: bool

    @property
    def adaptive_rate(self) -> float:
        """kappa / sqrt(gain): of g over the root of an average of g ** 2, to carry kappa times the drift."""
        return math.sqrt(self.kappa * (self.kappa / self.gain))


# One rule an optimizer. Each changes the copy of the group that it is given.


def _sgd(group: Group, change: _Change) -> None:
    """Linear rule: lr * kappa, heavy-ball or Nesterov momentum mu and dampening kept (Goyal et al. 2017).

    Follows from an SDE that both batches approximate (Li et al. 2017), whatever the share of noise. Weight
    decay enters by way of the gradient and is multiplied by lr: it moves with lr by itself. Limits: with mu
    kept, the buffer averages over kappa times the data, which shows once kappa / (1 - mu) steps are no longer
    few beside the time over which training changes.

    momentum_form "power", derived: mu ** kappa, lr * kappa * (1 - mu ** kappa) / (1 - mu). The buffer then
    averages over the same data, while the effective rate lr / (1 - mu) grows by kappa. Dampening d is what
    the first gradient of all is spared: d ** kappa, and lr over (1 - d ** kappa) / (1 - d) besides, since the
    effective rate has 1 - d as a factor. With d = mu, where the buffer is an average, lr is just lr * kappa.
    """
    _times(group, _RATES, change.kappa)
    _heavy_ball(group, change)


def _rmsprop(group: Group, change: _Change) -> None:
    """Square-root rule (Malladi et al. 2022): lr * sqrt(kappa), eps / sqrt(kappa), alpha as a beta.

    L2 decay is a part of the gradient, which is divided by a root that shrinks by sqrt(kappa): unchanged.
    Momentum is a heavy ball behind the division, and goes as SGD's (derived). Limits: the SDE behind the rule
    assumes that noise dominates. Other shares, derived: lr * kappa / sqrt(gain), eps / sqrt(gain). `centered`
    subtracts the mean, so that noise alone is left to divide by: the square-root rule at every share.
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

    Powers agree with the paper's linear form to first order in kappa (1 - beta) and never leave [0, 1); they
    are the EMA Scaling Rule for the two moments. Limits: as for RMSprop, and other shares as there (derived):
    the linear rule, lr * kappa with eps kept, where the gradient dominates. amsgrad: no derivation.

    Weight decay, derived: L2 is a part of the gradient, unchanged. Decoupled, as torch does it
    (p -= lr * weight_decay * p), a step has to decay kappa times as much: weight_decay * sqrt(gain), which is
    sqrt(kappa) by default.
    """
    _times(group, _RATES, change.adaptive_rate)
    _times(group, ("eps",), 1.0 / math.sqrt(change.gain))
    if change.decoupled:
        _times(group, ("weight_decay",), math.sqrt(change.gain))
    if group.get("betas") is not None:
        group["betas"] = type(group["betas"])(_betas(group["betas"], change))


def _nadam(group: Group, change: _Change) -> None:
    """As Adam, derived; and momentum_decay * kappa, since 0.96 ** (t * momentum_decay) counts steps t.

    Limits: mu, the share of momentum in a step, is beta1 ** kappa times the same ramp over data consumed. It
    says how early a gradient counts, not how much.
    """
    _adam(group, change)
    _times(group, ("momentum_decay",), change.kappa)


def _radam(group: Group, change: _Change) -> None:
    """As Adam, derived: the rectification depends on beta2 and steps, and moves with beta2 ** kappa.

    Limits: torch's RAdam divides by the second moment only once rho > 5 in the terms of its paper (Liu et al.
    2020), which never happens where 2 / (1 - beta2) - 1 <= 5, that is beta2 <= 2/3. It is then SGD on an
    average of gradients, which has another rule: leaving the range raises. So are its first 5 steps or
    more at every batch, which no rule can mend: they are kappa times the data.
    """
    betas = group.get("betas")
    _adam(group, change)
    if betas is None or change.kappa == 1.0:
        return
    before, after = float(betas[-1]), float(group["betas"][-1])
    if before <= 2.0 / 3.0:
        raise ValueError(
            f"RAdam with beta2 {before} never adapts, which no rule covers; it takes beta2 above 2/3"
        )
    if after <= 2.0 / 3.0:
        linear = change.beta_form == "linear"
        largest = 1.0 / (3.0 - 3.0 * before) if linear else math.log(2.0 / 3.0) / math.log(before)
        raise ValueError(
            f"at kappa {change.kappa:g} RAdam's beta2 {before} falls to 2/3 or less and it never adapts: "
            f"kappa must stay below {largest:g}"
        )


def _adagrad(group: Group, change: _Change) -> None:
    """Sum of squares, derived: lr unchanged, eps / kappa, initial_accumulator_value / kappa ** 2.

    Over the same data there are 1 / kappa as many squares, each 1 / kappa as large where noise dominates: the
    root of their sum falls by kappa, which carries all of the drift. Where the gradient dominates they are
    as large as they were: lr * sqrt(kappa), eps / sqrt(kappa), initial_accumulator_value / kappa. Between:
    lr * sqrt(kappa / gain), eps / sqrt(kappa gain), initial_accumulator_value / (kappa gain). lr_decay counts
    steps: * kappa. L2 decay is a part of the gradient: unchanged. Limits: the sum never forgets, so a share
    that moves during training leaves its trace; a sum that has begun is state, which is not scaled here.
    """
    _times(group, _RATES, math.sqrt(change.kappa / change.gain))
    _times(group, ("eps",), 1.0 / math.sqrt(change.kappa * change.gain))
    _times(group, ("initial_accumulator_value",), 1.0 / (change.kappa * change.gain))
    _times(group, ("lr_decay",), change.kappa)


def _lamb(group: Group, change: _Change) -> None:
    """Betas by `beta_form`, lr * kappa, eps / sqrt(gain), weight_decay * sqrt(gain). Derived.

    The length of a step is lr times the norm of the layer's weights, whatever the gradient's is. What counts
    is the share of the drift in its direction, m / sqrt(v). With betas as powers, m averages over the same
    data at every batch and keeps that share: the length has to carry all of kappa.

    beta_form "constant": betas as they are, and lr * sqrt(kappa) where noise dominates, as You et al. 2020
    scale it (from memory). m then averages over kappa times the data, in which the drift's share is larger by
    sqrt(kappa). At other shares of noise lr * kappa / sqrt(gain of m), where m has (1 - beta1) / (1 + beta1)
    of the gradient's noise.

    Decay is added to m / sqrt(v), whose drift grows by sqrt(gain) in either form. Limits: one layer's weights
    have to be many, so that the norm of its step does not fluctuate.
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
    """lr * kappa / sqrt(gain), all else kept. Derived.

    Each layer's gradient is divided by its own norm, which falls by sqrt(gain): square root where noise
    dominates that norm, linear where the gradient does (noise_share 0). The latter is what BYOL does
    (lr = 0.2 * batch / 256, Grill et al. 2020). Decay is a part of what is normalised: unchanged. Limits: as
    for SGD's momentum, which comes after the division, and as for LAMB's layers.
    """
    _times(group, _RATES, change.adaptive_rate)


@dataclass(frozen=True)
class _Rule:
    scale: Callable[[Group, _Change], None]
    # The options that the rule has an answer to; another one would be ignored, and is an error.
    options: tuple[str, ...] = ()
    # What beta_form can be.
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
        raise ValueError(f"no scaling rule is known for optimizer {name!r}; known: {', '.join(_RULES)}")
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
            raise ValueError(f"{option} {value!r} has no meaning for {name}: leave it at {default!r}")


# What the rules are made of.


def _times(group: Group, keys: tuple[str, ...], factor: float) -> None:
    for key in keys:
        if group.get(key) is not None:
            group[key] = _like(group[key], group[key] * factor)


def _like(value: Any, scaled: Any) -> Any:
    # Tensors keep their dtype by themselves; numpy's scalars do not with every version.
    return scaled if isinstance(value, (int, torch.Tensor)) else type(value)(scaled)


def _heavy_ball(group: Group, change: _Change) -> None:
    """In power form mu ** kappa, dampening d ** kappa, and rates that keep lr (1 - d) / (1 - mu)."""
    if change.momentum_form == "constant":
        return
    for key, power in (("momentum", 1.0), ("dampening", -1.0)):
        memory = group.get(key)
        if memory is None:
            continue
        if not 0.0 <= memory < 1.0:
            raise ValueError(f"{key} {memory} is outside [0, 1), where it has no power form")
        group[key] = _like(memory, memory**change.kappa)
        _times(group, _RATES, ((1.0 - float(memory) ** change.kappa) / (1.0 - float(memory))) ** power)


def _share_after_average(noise_share: float, beta: float) -> float:
    """The noise's share in the mean square of an average of gradients, of memory beta."""
    noise = noise_share * (1.0 - beta) / (1.0 + beta)
    return 1.0 / (1.0 + (1.0 - noise_share) / noise) if noise > 0.0 else 0.0


def _betas(betas: list[Any] | tuple[Any, ...], change: _Change) -> list[Any]:
    # The smallest first: it is the one that limits kappa, and an error should name that limit.
    for beta in sorted(map(float, betas)):
        if not 0.0 <= beta <= 1.0:
            raise ValueError(f"beta {beta} is outside [0, 1]")
        if change.beta_form == "linear":
            _require_linear(beta, change.kappa)
    if change.beta_form == "constant":
        return list(betas)
    if change.beta_form == "power":
        return [_like(beta, beta**change.kappa) for beta in betas]
    # At 1 as it is, which rounding would not leave it.
    return [beta if change.kappa == 1.0 else _like(beta, 1.0 - change.kappa * (1.0 - beta)) for beta in betas]


def _require_linear(beta: float, kappa: float) -> None:
    # Not <= 0: 1 - 0.9 is a little less than 0.1, and kappa = 10 is out of range all the same.
    if kappa != 1.0 and 1.0 - kappa * (1.0 - beta) <= 1e-12 * kappa:
        raise ValueError(
            f"the linear form takes beta {beta} out of (0, 1) at kappa {kappa}: "
            f"kappa must stay below {1.0 / (1.0 - beta):g}, or use the power form"
        )

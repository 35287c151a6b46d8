"""Messages at the start of a run, and when its batch changes."""

from __future__ import annotations

from asr_emapl.config import RunConfig
from asr_emapl.scaling import ScalingPlan
from asr_emapl.scaling.range import warnings


def describe_batch(plan: ScalingPlan, hours: float) -> str:
    """The batch at `hours` of audio, and its kappa."""
    seconds, audio = plan.steps.batches.seconds(hours), plan.steps.seconds(hours)
    return f"batch {seconds:g} s ({audio:.4g} s of audio on average), kappa {plan.steps.kappa(hours):.4g}"


def batch_change(plan: ScalingPlan, config: RunConfig, hours: float) -> list[str]:
    """The lines when the batch changes; if it has grown by need, with the setting that repeats the run."""
    lines = [f"from {hours:.3f} h on: {describe_batch(plan, hours)}", *range_warnings(plan, config, hours)]
    batches = plan.steps.batches
    if batches.growth is not None:
        stages = ",".join(f"[{start!r},{seconds!r}]" for start, seconds in batches.changes)
        lines.append(f"to repeat this schedule, set batch.growth=none batch.progressive=[{stages}]")
    return lines


def range_warnings(plan: ScalingPlan, config: RunConfig, hours: float) -> list[str]:
    """Warnings if the rule is outside its range; at the reference batch, nothing is scaled."""
    if plan.steps.kappa(hours) == 1.0 or plan.optimizer.rule == "none":
        return []
    learns_from_teacher = config.pseudo_labels.learns_from_itself
    return [f"warning: {text}" for text in warnings(plan, hours, learns_from_teacher=learns_from_teacher)]


def announcement(
    config: RunConfig,
    plan: ScalingPlan,
    hours: float,
    *,
    parameters: int,
    devices: str,
    half_life_seconds: float,
    batch_norms: int,
) -> list[str]:
    """The lines at the start of a run.

    Args:
        hours: hours of audio consumed before.
        devices: number and type of the devices, for example "2 x cuda".
        batch_norms: number of batch normalisation layers.
    """
    objective, labels = config.self_supervised.objective, config.pseudo_labels
    source = f"pseudo-labels: {labels.strategy}" if objective == "none" else f"self-supervised: {objective}"
    lines = [
        f"{config.run_dir}: {parameters / 1e6:.2f} M parameters, {devices}, {describe_batch(plan, hours)}, "
        f"{source}, teacher half-life {half_life_seconds / 3600:g} h, "
        f"from {hours:.3f} h of audio"
    ]
    if batch_norms and config.optimizer.rule != "none":
        lines.append(
            f"batch norm: the momentum of {batch_norms} layers is that of a reference step, and is scaled "
            "like the teacher's"
        )
    if labels.uses_unlabelled and config.hours <= labels.start_hours:
        lines.append(
            f"warning: the run ends before pseudo-labels start: hours={config.hours:g}, "
            f"pseudo_labels.start_hours={labels.start_hours:g}; raise hours, lower start_hours, or for a "
            "supervised run set pseudo_labels.strategy=none and data.unlabelled=[]"
        )
    return lines + range_warnings(plan, config, hours)

"""The run config for tests of `asr-emapl scale`."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from asr_emapl.config import RunConfig
from asr_emapl.data.batch_plan import BatchConfig
from asr_emapl.hyperparameters import OptimizerConfig, ScheduleConfig, TeacherConfig
from asr_emapl.pseudo_labels.config import PseudoLabelConfig

BATCH = st.floats(0.5, 50_000.0)


def run_config(**changes):
    """100 s per step, rho 0.9999: well inside the range of every rule at moderate kappa."""
    config = RunConfig(
        hours=1000.0,
        # The tests do not use batch.seconds.
        batch=BatchConfig(seconds=7.0, reference_seconds=100.0),
        optimizer=OptimizerConfig(weight_decay=0.01, betas=[0.99, 0.999]),
        schedule=ScheduleConfig(warmup_hours=20.0),
        teacher=TeacherConfig(rho=0.9999),
        pseudo_labels=PseudoLabelConfig(strategy="ema", start_hours=50.0),
    )
    return replace(config, **changes)

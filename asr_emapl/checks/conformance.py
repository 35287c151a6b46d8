"""Test whether a model implements the required interface: `asr-emapl check-model my_pkg.my_module:MyModel`.

Axes: B utterances, T feature frames, F features, T' output frames, V tokens (blank 0).
"""

from __future__ import annotations

import torch
from torch import nn

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.features import FeatureConfig
from asr_emapl.checks.check import CheckResult, run_checks
from asr_emapl.checks.model_checks import CHECKS
from asr_emapl.checks.model_subject import LONG_FRAMES, SEED, SHORT_FRAMES, Subject
from asr_emapl.models.contract import ModelConfig, build_model
from asr_emapl.models.inputs import input_size
from asr_emapl.models.target import USERS_OWN

# Samples of 10 ms, in place of a frame, for models whose input is the waveform.
_SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // 100


def check(
    config: ModelConfig, features: FeatureConfig | None = None, *, vocabulary_size: int = 29
) -> list[CheckResult]:
    """Build the model of a config and run all checks on it, on the CPU.

    Checks that depend on a failed check are skipped; the result of the failed check lists them.

    Raises:
        UserError: the model or the extractor of its features cannot be built (see `build_model`).
    """
    size = input_size(features or FeatureConfig(), config, USERS_OWN)

    def build() -> nn.Module:
        return build_model(config, vocabulary_size=vocabulary_size, input_size=size, trust=USERS_OWN)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = build()
        _stir(model)
        unit = _SAMPLES_PER_FRAME if size is None else 1
        lengths_B = torch.tensor([LONG_FRAMES, SHORT_FRAMES]) * unit
        features_BTF = torch.randn(2, LONG_FRAMES * unit, *([] if size is None else [size]))
        features_BTF[1, SHORT_FRAMES * unit :] = 0.0
        subject = Subject(model, build, vocabulary_size, features_BTF, lengths_B, unit)
        return run_checks(CHECKS, subject, type(model).__module__)


@torch.no_grad()
def _stir(model: nn.Module) -> None:
    """Perturb all weights, because zero-initialised layers (outputs, residual branches) would hide errors."""
    for parameter in model.parameters():
        if not nn.parameter.is_lazy(parameter):
            parameter.add_(0.01 * torch.randn_like(parameter))

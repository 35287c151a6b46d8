"""Test whether a model implements the required interface: `asr-emapl check-model my_pkg.my_module:MyModel`.

Axes: B utterances, T feature frames, F mel bands, T' output frames, V tokens (blank 0).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from asr_emapl.checks.check import CheckResult, run_checks
from asr_emapl.checks.model_checks import CHECKS, LONG_FRAMES, SEED, SHORT_FRAMES, Subject
from asr_emapl.models.contract import ModelConfig, build_model
from asr_emapl.models.target import USERS_OWN


def check(
    target: str, options: dict[str, Any], *, vocabulary_size: int = 29, mel_bands: int = 80
) -> list[CheckResult]:
    """Build the model at "package.module:Class" and run all checks on it, on the CPU.

    Checks that depend on a failed check are skipped; the result of the failed check lists them.

    Raises:
        UserError: the model cannot be built (see `build_model`).
    """
    config = ModelConfig(target, dict(options))

    def build() -> nn.Module:
        return build_model(config, vocabulary_size=vocabulary_size, mel_bands=mel_bands, trust=USERS_OWN)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = build()
        _stir(model)
        features_BTF = torch.randn(2, LONG_FRAMES, mel_bands)
        features_BTF[1, SHORT_FRAMES:] = 0.0
        lengths_B = torch.tensor([LONG_FRAMES, SHORT_FRAMES])
        subject = Subject(model, build, vocabulary_size, features_BTF, lengths_B)
        return run_checks(CHECKS, subject, type(model).__module__)


@torch.no_grad()
def _stir(model: nn.Module) -> None:
    """Perturb all weights, because zero-initialised layers (outputs, residual branches) would hide errors."""
    for parameter in model.parameters():
        if not nn.parameter.is_lazy(parameter):
            parameter.add_(0.01 * torch.randn_like(parameter))

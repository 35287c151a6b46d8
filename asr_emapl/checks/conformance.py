"""Test whether a model implements the required interface: `asr-emapl check-model my_pkg.my_module:MyModel`.

Axes: B utterances, T feature frames, F mel bands, T' output frames, V tokens (blank 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from asr_emapl.checks.model_checks import CHECKS, LONG_FRAMES, SEED, SHORT_FRAMES, ModelCheck, Subject
from asr_emapl.errors import UserError
from asr_emapl.models.contract import ModelConfig, build_model
from asr_emapl.models.failure import described
from asr_emapl.models.target import USERS_OWN


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check.

    If the check failed, `detail` states the problem and the remedy in one line.
    """

    name: str
    passed: bool
    detail: str


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
        return _run(Subject(model, build, vocabulary_size, features_BTF, lengths_B))


@torch.no_grad()
def _stir(model: nn.Module) -> None:
    """Perturb all weights, because zero-initialised layers (outputs, residual branches) would hide errors."""
    for parameter in model.parameters():
        if not nn.parameter.is_lazy(parameter):
            parameter.add_(0.01 * torch.randn_like(parameter))


def _run(subject: Subject) -> list[CheckResult]:
    findings: list[CheckResult] = []
    blocked: dict[str, list[str]] = {}
    for check in CHECKS:
        culprits = [name for name in check.needs if name in blocked]
        for name in culprits:
            blocked[name].append(check.name)
        if culprits:
            continue
        finding = _find(check, subject)
        findings.append(finding)
        if not finding.passed:
            blocked[check.name] = []
    return [_with_blocked(finding, blocked.get(finding.name, [])) for finding in findings]


def _find(check: ModelCheck, subject: Subject) -> CheckResult:
    if check.method and not hasattr(subject.model, check.method):
        return CheckResult(check.name, True, "the model does not define it; it is optional")
    try:
        wrong = check.run(subject)
    except UserError as error:
        wrong = str(error)
    except (Exception, SystemExit) as error:
        wrong = described(error, type(subject.model).__module__)
    return CheckResult(check.name, not wrong, f"{wrong}; {check.remedy}" if wrong else "")


def _with_blocked(finding: CheckResult, blocked: list[str]) -> CheckResult:
    if not blocked:
        return finding
    return CheckResult(
        finding.name,
        finding.passed,
        f"{finding.detail} (not checked until this is fixed: {', '.join(blocked)})",
    )

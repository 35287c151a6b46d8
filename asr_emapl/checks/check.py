"""Checks of a user's class: each tests one thing, has a remedy, and may need others to pass first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from asr_emapl.errors import UserError
from asr_emapl.models.failure import described

S = TypeVar("S")


@dataclass(frozen=True)
class Passed:
    """The outcome of a check that passed, with a remark."""

    remark: str


@dataclass(frozen=True)
class Failed:
    """The outcome of a check that failed, with a remedy that fits better than that of the check."""

    problem: str
    remedy: str


@dataclass(frozen=True)
class Check(Generic[S]):
    """A check of a subject.

    Attributes:
        run: returns an error message, an empty string, `Passed`, or `Failed`.
        remedy: what to do if the check fails.
        needs: names of the checks that must pass first.
    """

    name: str
    run: Callable[[S], str | Passed | Failed]
    remedy: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check.

    If the check failed, `detail` states the problem and the remedy in one line.
    """

    name: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        """One line for the terminal."""
        verdict = "ok  " if self.passed else "FAIL"
        return f"{verdict} {self.name}" + (self.detail and f": {self.detail}")


def run_checks(checks: Sequence[Check[S]], subject: S, module: str) -> list[CheckResult]:
    """Run checks in order. The result of a failed check lists those that were skipped because of it.

    Args:
        module: dotted name of the user's module, to locate errors.
    """
    results: list[CheckResult] = []
    blocked: dict[str, list[str]] = {}
    for check in checks:
        culprits = [name for name in check.needs if name in blocked]
        for name in culprits:
            blocked[name].append(check.name)
        if culprits:
            continue
        result = _run(check, subject, module)
        results.append(result)
        if not result.passed:
            blocked[check.name] = []
    return [_with_blocked(result, blocked.get(result.name, [])) for result in results]


def _run(check: Check[S], subject: S, module: str) -> CheckResult:
    try:
        found = check.run(subject)
    except UserError as error:
        found = str(error)
    except (Exception, SystemExit) as error:
        found = described(error, module)
    if isinstance(found, Passed):
        return CheckResult(check.name, True, found.remark)
    if not found:
        return CheckResult(check.name, True, "")
    failed = found if isinstance(found, Failed) else Failed(found, check.remedy)
    return CheckResult(check.name, False, f"{failed.problem}; {failed.remedy}")


def _with_blocked(result: CheckResult, blocked: list[str]) -> CheckResult:
    if not blocked:
        return result
    return CheckResult(
        result.name, result.passed, f"{result.detail} (not checked until this is fixed: {', '.join(blocked)})"
    )

"""Makes checks, and tells how each went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from spender_core.testing.checks import CHECKS, Check
from spender_core.testing.faults import ContractError, NotApplicable
from spender_core.testing.subject import Subject


@dataclass(frozen=True)
class Result:
    """How a check went.

    Attributes:
        name: Of the check.
        group: What it is about.
        outcome: How it went.
        error: What is wrong, if it failed.
        reason: What is lacking, if it was skipped.
    """

    name: str
    group: str
    outcome: Literal["passed", "failed", "skipped"]
    error: ContractError | None = None
    reason: str = ""


def apply(check: Check, subject: Subject) -> None:
    """Make a check.

    Raises:
        ContractError: The rule is broken, or the plugin's own code raised.
        NotApplicable: There is nothing to look at.
    """
    try:
        check.function(subject)
    except (ContractError, NotApplicable):
        raise
    except Exception as error:
        raise ContractError(
            check.rule,
            f"{type(error).__name__}: {error}",
            "look at the traceback: the plugin's code, or what it gave to core, raised this",
        ) from error


def run(
    subject: Subject,
    progress: Callable[[Result], None] | None = None,
    checks: Sequence[Check] = CHECKS,
) -> list[Result]:
    """Make checks, and return how each went, in their order.

    Args:
        subject: What is checked.
        progress: Called with each result.
        checks: Which; all by default.
    """
    results = []
    for check in checks:
        result = _result(check, subject)
        results.append(result)
        if progress is not None:
            progress(result)
    return results


def _result(check: Check, subject: Subject) -> Result:
    try:
        apply(check, subject)
    except ContractError as error:
        return Result(check.name, check.group, "failed", error)
    except NotApplicable as nothing:
        return Result(check.name, check.group, "skipped", reason=str(nothing))
    return Result(check.name, check.group, "passed")

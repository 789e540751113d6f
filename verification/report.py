"""Named checks, and what they add up to."""

from dataclasses import dataclass
from typing import Literal

from protocol.errors import ProofInconclusive, ProofRejected

CheckResult = Literal["ok", "rejected", "inconclusive"]

Extent = Literal["sampled", "first", "all"]
"""Which drawn units an audit executes again: those whose files are at hand, the first of these, or every opened one."""


@dataclass(frozen=True)
class Check:
    """Say what one check found."""

    name: str
    result: CheckResult
    detail: str = ""
    count: int = 1  # how many things were compared
    rule: str = ""  # what must hold, in a sentence

    @property
    def ok(self) -> bool:
        """Tell whether the check holds."""
        return self.result == "ok"

    def to_json(self) -> dict[str, object]:
        """Return the check as plain JSON data."""
        return {
            "name": self.name,
            "ok": self.ok,
            "result": self.result,
            "count": self.count,
            "detail": self.detail,
            "rule": self.rule,
        }


def exit_code(checks: tuple[Check, ...]) -> int:
    """Return 6 if a check is rejected, else 7 if one is inconclusive, else 0."""
    results = {check.result for check in checks}
    if "rejected" in results:
        return ProofRejected.exit_code
    return ProofInconclusive.exit_code if "inconclusive" in results else 0


def first_failure(checks: tuple[Check, ...]) -> Check | None:
    """Return the check that decides the exit code: the first rejected, else the first inconclusive."""
    for result in ("rejected", "inconclusive"):
        for check in checks:
            if check.result == result:
                return check
    return None

"""Dishonest verifiers for demonstrations and tests: the same daemon with only its dishonest part replaced."""

import random
from enum import StrEnum

from protocol.canonical import tagged_digest
from protocol.messages import PASSED, PROVEN_FALSE, Opening, Signed
from verification.honesty import Begun, Bench, Honesty
from verification.unit import DrawnUnit, ReplayReport

VALUES = 16  # of a fingerprint (`verification.fingerprint`, which loads torch)


class VerifierCheat(StrEnum):
    """Name the ways to cheat."""

    LAZY = "lazy-verifier"
    ACCUSER = "false-accuser"


class LazyVerifier(Honesty):
    """Say that everything passes and compute nothing, under a fingerprint that looks like one."""

    async def begin(self, bench: Bench, unit: DrawnUnit, opening: Signed[Opening]) -> Begun:
        """Invent a fingerprint: values of the variance that honest ones have."""
        source = random.Random(tagged_digest("murmur/lazy-verifier", opening.id))
        return tuple(round(source.gauss(0.0, 1.0), 9) for _ in range(VALUES)), None

    async def compare(
        self, bench: Bench, unit: DrawnUnit, opening: Signed[Opening], fingerprint: tuple[float, ...]
    ) -> ReplayReport:
        """Say that the unit passes, at no distance, without having looked at it."""
        return ReplayReport(PASSED, fingerprint=fingerprint)


class FalseAccuser(Honesty):
    """Call every unit proven false, for a reason that needs no replay."""

    async def begin(self, bench: Bench, unit: DrawnUnit, opening: Signed[Opening]) -> Begun:
        """Accuse."""
        return (), ReplayReport(PROVEN_FALSE, "opened a negative second moment")

    async def compare(
        self, bench: Bench, unit: DrawnUnit, opening: Signed[Opening], fingerprint: tuple[float, ...]
    ) -> ReplayReport:
        """Accuse again; an honest seal may have been left by an earlier process."""
        return ReplayReport(PROVEN_FALSE, "opened a negative second moment")


def honesty_of(cheat: str | None) -> Honesty:
    """Return how the daemon behaves.

    Raises:
        ValueError: no such cheat.
    """
    match None if cheat is None else VerifierCheat(cheat):
        case VerifierCheat.LAZY:
            return LazyVerifier()
        case VerifierCheat.ACCUSER:
            return FalseAccuser()
        case None:
            return Honesty()

"""The chances that a plan's attacks live on: what verifiers and juries with colluders among them say, and what who
refuses to open gets out of an epoch.
"""

from functools import cache
from math import comb
from typing import Literal

from protocol.canonical import ZERO_DIGEST
from protocol.manifest import RunManifest
from protocol.messages import PASSED, Commitment, Verdict
from verification.judge import refused
from verification.ruling import rule
from verification.sample import Draw


def convictions(
    manifest: RunManifest, verifiers: int, collusion: float, honest: Literal[1, 2, 3], *, opened: bool = True
) -> dict[str, float]:
    """Return how a drawn dishonest unit ends: the chances of "false", "refused", "void", "passed" and "unjudged".

    Args:
        honest: what an honest verifier finds: PROVEN_FALSE, REJECTED or PASSED.
        opened: the unit was opened to it.
    """
    draw = Draw(1, 0, tuple(range(1, verifiers + 1)))
    found: dict[str, float] = {}

    def judge(said: dict[int, Verdict], chance: float) -> None:
        if not chance:
            return
        closed = len(said) == verifiers
        ruling = rule(manifest, _COMMITMENT, draw, said, closed=closed)
        if ruling is None:
            rank = len(said) + 1
            judge({**said, rank: _verdict(rank, honest, opened)}, chance * (1 - collusion))
            judge({**said, rank: _verdict(rank, PASSED, True)}, chance * collusion)
            return
        ended: str = ruling.outcome
        if ended == "void" and refused(manifest, (said[one] for one in ruling.right)):
            ended = "refused"
        found[ended] = found.get(ended, 0.0) + chance

    judge({}, 1.0)
    return found


_COMMITMENT = Commitment(
    number=1,
    profile="any",
    segments=(ZERO_DIGEST,) * 2,
    parameters=ZERO_DIGEST,
    assignment=ZERO_DIGEST,
    moments_before=ZERO_DIGEST,
    moments_after=ZERO_DIGEST,
    residual_before=ZERO_DIGEST,
    residual_after=ZERO_DIGEST,
    update=ZERO_DIGEST,
)
"""Stands for any unit: those who replayed it and those who agreed beforehand have one fingerprint each."""


def _verdict(verifier: int, found: Literal[1, 2, 3], opened: bool) -> Verdict:
    """Return what the judge reads of a verdict."""
    return Verdict(
        number=1,
        verifier=verifier,
        outcome=found,
        commitment=ZERO_DIGEST,
        opening=ZERO_DIGEST if opened else None,
        segment=0,
        profile="any",
        reason="",
        distance=0.0,
        tensor="",
        replay_cpu_s=0.0,
    )


def majority(seats: int, share: float) -> float:
    """Return the chance that more than half of so many seats are of a group that holds a share of all slots."""
    return sum(
        comb(seats, one) * share**one * (1 - share) ** (seats - one)
        for one in range(seats // 2 + 1, seats + 1)
    )


def refuser_value(
    units: int,
    cost: float,
    forfeit: float,
    lost: float,
    share: float,
    slashed: float = 0.0,
    stake: float = 0.0,
) -> float:
    """Return the most that an epoch can bring to who may work, do nothing for it, or idle at each unit.

    Units that nothing was done for are committed like any other, and never opened. The best policy is found by
    dynamic programming over (units left, units paid, refusals).

    Args:
        units: of the epoch.
        cost: of an honest unit.
        forfeit: chance that such a unit is drawn and found unopened by enough verifiers.
        lost: chance that it is drawn and merely void.
        share: of the epoch's pay that a refusal forfeits.
        slashed: chance that it is drawn and a jury confirms the refusal, which ends the epoch without pay.
        stake: that this costs.
    """
    most = 0 if share <= 0 else min(units, round(1 / share + 0.499999))

    @cache
    def best(left: int, paid: int, refusals: int) -> float:
        kept = max(0.0, 1 - share * refusals)
        if not left:
            return kept * paid
        if not kept:
            return 0.0
        work = best(left - 1, paid + 1, refusals) - cost
        skip = (
            forfeit * best(left - 1, paid, min(most, refusals + 1))
            + lost * best(left - 1, paid, refusals)
            - slashed * stake
            + (1 - forfeit - lost - slashed) * best(left - 1, paid + 1, refusals)
        )
        return max(work, skip, best(left - 1, paid, refusals))

    return best(units, 0, 0)

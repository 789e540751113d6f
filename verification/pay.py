"""One peer's pay in one epoch, term by term: the same rule as `verification.settle`, opened up for whom it concerns."""

from dataclasses import dataclass

from protocol.errors import OwnFault
from protocol.manifest import RunManifest
from verification.audit_money import SettledEpoch
from verification.settle import SettledRound, earned_in_epoch


@dataclass(frozen=True)
class RoundPay:
    """Say what one round counts for a peer, before anything is taken off."""

    round: int
    units: int  # 0 or 1
    reason: str  # why the unit counts or not; empty for a verifier
    right: int  # verdicts that were right
    wrong: int


@dataclass(frozen=True)
class EpochPay:
    """Say what a peer earned in an epoch, and how it comes about."""

    epoch: int
    rounds: tuple[RoundPay, ...]
    unit_wei: int
    verdict_wei: int
    fine_wei: int  # for a wrong verdict
    lost_percent: int
    lost_why: str

    @property
    def units(self) -> int:
        """Return how many units are paid."""
        return sum(one.units for one in self.rounds)

    @property
    def right(self) -> int:
        """Return how many verdicts are paid."""
        return sum(one.right for one in self.rounds)

    @property
    def wrong(self) -> int:
        """Return how many verdicts are fined."""
        return sum(one.wrong for one in self.rounds)

    @property
    def gross_wei(self) -> int:
        """Return the pay before a share of it is lost."""
        earned = self.units * self.unit_wei + self.right * self.verdict_wei
        return max(0, earned - self.wrong * self.fine_wei)

    @property
    def net_wei(self) -> int:
        """Return the epoch's pay."""
        return self.gross_wei * (100 - self.lost_percent) // 100


def epoch_pay(manifest: RunManifest, epoch: SettledEpoch, number: int) -> EpochPay:
    """Return one peer's pay in an epoch, term by term.

    Raises:
        OwnFault: the terms do not give what `earned_in_epoch` gives.
    """
    pay = manifest.pay
    lost, why = 0, ""
    for settled in epoch.rounds:
        outcome = settled.outcomes.get(number)
        if outcome == "false":
            lost, why = 100, f"its unit of round {settled.round} was proven false"
        elif outcome == "void" and number in settled.refused and lost < 100:
            lost = min(100, lost + pay.refusal_percent)
            why = (
                f"{why}, and of round {settled.round}"
                if why
                else f"it did not open its unit of round {settled.round}"
            )
    found = EpochPay(
        epoch.epoch,
        tuple(_round_pay(settled, epoch, number) for settled in epoch.rounds),
        pay.unit_wei,
        pay.verdict_wei,
        pay.verdict_wei * pay.wrong_percent // 100,
        lost,
        why,
    )
    ruled = earned_in_epoch(manifest, epoch.rounds, epoch.unpaid).get(number, 0)
    if found.net_wei != ruled:
        raise OwnFault(f"the terms of epoch {epoch.epoch} give {found.net_wei} wei, the rule gives {ruled}")
    return found


def _round_pay(settled: SettledRound, epoch: SettledEpoch, number: int) -> RoundPay:
    unit = next((one for one in settled.record.units if one.number == number), None)
    outcome = settled.outcomes.get(number, "passed")
    drawn = number in settled.outcomes
    if unit is None:
        counts, reason = 0, "no unit was listed"
    elif not unit.merged:
        counts, reason = 0, f"it was not merged: {unit.reason}"
    elif (settled.round, number) in epoch.unpaid:
        counts, reason = 0, "it carried a residual that was proven forged"
    elif outcome != "passed":
        meaning = {"void": "it was judged void", "false": "it was proven false"}
        counts, reason = 0, meaning.get(outcome, "it was drawn and nobody judged it in time")
    else:
        counts, reason = 1, "it was merged and passed" if drawn else "it was merged and not drawn"
    right = sum(judge == number for judge in settled.judges)
    wrong = sum(judge == number for judge in settled.wrong)
    return RoundPay(settled.round, counts, reason, right, wrong)

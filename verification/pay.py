"""One peer's pay in one epoch, term by term: the same rule as `verification.settle`, opened up for whom it concerns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from protocol.errors import OwnFault
from protocol.manifest import RunManifest
from verification.audit_money import SettledEpoch
from verification.settle import EpochEarnings, SettledRound, earned_in_epoch, forfeited_in, vests_in


@dataclass(frozen=True)
class RoundPay:
    """Say what one round counts for a peer, before anything is taken off."""

    round: int
    units: int  # 0 or 1
    unit_wei: int  # what a unit of its tier earns
    reason: str  # why the unit counts or not; empty for a verifier
    right: int  # verdicts that were right
    wrong: int


@dataclass(frozen=True)
class EpochPay:
    """Say what a peer earned in an epoch, and how it comes about."""

    epoch: int
    rounds: tuple[RoundPay, ...]
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
        return max(0, sum(map(self.round_wei, self.rounds)))

    def round_wei(self, one: RoundPay) -> int:
        """Return what one of its rounds adds to the pay before a share is lost, or takes off."""
        return one.units * one.unit_wei + one.right * self.verdict_wei - one.wrong * self.fine_wei

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
        tuple(_round_pay(manifest, settled, epoch, number) for settled in epoch.rounds),
        pay.verdict_wei,
        pay.verdict_wei * pay.wrong_percent // 100,
        lost,
        why,
    )
    ruled = earned_in_epoch(manifest, epoch.rounds, epoch.unpaid).get(number, 0)
    if found.net_wei != ruled:
        raise OwnFault(f"the terms of epoch {epoch.epoch} give {found.net_wei} wei, the rule gives {ruled}")
    return found


@dataclass(frozen=True)
class Vesting:
    """Say what becomes of what a peer earned in an epoch."""

    epoch: int
    earned_wei: int
    due: int  # epoch whose reward table is the first that holds it
    state: Literal["vested", "unvested", "forfeited"]
    forfeited_in: int | None = None  # epoch of the unit that was proven false


def vesting(manifest: RunManifest, epochs: Sequence[EpochEarnings], number: int) -> tuple[Vesting, ...]:
    """Return what became of a peer's pay of each decided epoch.

    Args:
        epochs: those that are decided, from epoch 0 on.
    """
    found = []
    for epoch, one in enumerate(epochs):
        due, lost = vests_in(manifest, epoch), forfeited_in(manifest, epochs, epoch, number)
        state: Literal["vested", "unvested", "forfeited"] = "vested" if due < len(epochs) else "unvested"
        if lost is not None:
            state = "forfeited"
        found.append(Vesting(epoch, one.earned.get(number, 0), due, state, lost))
    return tuple(found)


def in_state(found: Sequence[Vesting], state: Literal["vested", "unvested", "forfeited"]) -> int:
    """Return what of a peer's pay is in one state, in wei."""
    return sum(one.earned_wei for one in found if one.state == state)


def _round_pay(manifest: RunManifest, settled: SettledRound, epoch: SettledEpoch, number: int) -> RoundPay:
    unit = next((one for one in settled.record.units if one.number == number), None)
    outcome = settled.outcomes.get(number, "passed")
    drawn = number in settled.outcomes
    if unit is None:
        counts, reason = 0, "no unit was listed"
    elif not unit.merged:
        counts, reason = 0, f"it was {unit.fate}"
    elif (settled.round, number) in epoch.unpaid:
        counts, reason = 0, "it carried a residual that was proven forged"
    elif outcome != "passed":
        meaning = {"void": "it was judged void", "false": "it was proven false"}
        counts, reason = 0, meaning.get(outcome, "it was drawn and nobody judged it in time")
    else:
        counts, reason = 1, "it was merged and passed" if drawn else "it was merged and not drawn"
    right = sum(judge == number for judge in settled.judges)
    wrong = sum(judge == number for judge in settled.wrong)
    tier = 0 if unit is None else unit.tier
    return RoundPay(settled.round, counts, manifest.unit_pay(tier), reason, right, wrong)

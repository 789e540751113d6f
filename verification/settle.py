"""What work earned, and when it vests: pure functions of records, outcomes and verdicts, recomputed by every auditor.

What an epoch earned enters the reward table of `pay.vest_epochs` epochs later, or the run's last one. Until then it is
unvested, and a number whose unit is proven false loses all of it. Nobody else gets it: it stays in the pot.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from protocol.manifest import RunManifest
from protocol.messages import Judgement, RewardEntry, RoundRecord
from verification.cases import combined, forges, standing
from verification.judge import Outcome
from verification.retract import Units


@dataclass(frozen=True)
class SettledRound:
    """Hold what pay depends on: the record, the outcome of each drawn number, and who judged them."""

    round: int
    record: RoundRecord
    outcomes: Mapping[int, Outcome]  # by contributor number
    judges: Iterable[int]  # verifier numbers, one for each verdict that was right
    refused: frozenset[int] = frozenset()  # contributor numbers that did not open their drawn unit
    forged: frozenset[int] = frozenset()  # contributor numbers whose residual was forged
    wrong: tuple[int, ...] = ()  # verifier numbers, one for each verdict that was wrong

    @property
    def forged_units(self) -> Units:
        """Return the units of this round whose residual was forged, by (round, number)."""
        return frozenset((self.round, number) for number in self.forged)


@dataclass(frozen=True)
class JudgedCase:
    """Add to a judgement what else pay depends on."""

    judgement: Judgement
    right: tuple[int, ...]  # verifiers that are paid for it
    refused: bool  # the unit was not opened


def settled_round(round_: int, record: RoundRecord, cases: Iterable[JudgedCase]) -> SettledRound:
    """Put together what pay depends on in a round whose cases are all decided.

    Args:
        record: what is in force of it.
        cases: what was judged of its units, by verifiers and by juries.
    """
    units: dict[int, list[JudgedCase]] = {}
    for one in sorted(cases, key=lambda one: (one.judgement.number, one.judgement.case)):
        units.setdefault(one.judgement.number, []).append(one)
    refused, forged = set(), set()
    for number, found in units.items():
        stands = {one.case for one in standing(one.judgement for one in found)}
        if any(one.refused for one in found if one.judgement.case in stands):
            refused.add(number)
        if forges(one.judgement for one in found):
            forged.add(number)
    return SettledRound(
        round=round_,
        record=record,
        outcomes={number: combined(one.judgement for one in found) for number, found in units.items()},
        judges=tuple(judge for found in units.values() for one in found for judge in one.right),
        refused=frozenset(refused),
        forged=frozenset(forged),
        wrong=tuple(judge for found in units.values() for one in found for judge in one.judgement.wrong),
    )


def earned_in_epoch(
    manifest: RunManifest, rounds: Iterable[SettledRound], unpaid: Units = frozenset()
) -> dict[int, int]:
    """Return what each registration number earned in one epoch, in wei.

    A merged unit that passed or was not drawn earns the unit's pay; one that nobody judged in time is not decided
    and earns nothing, and its pay stays in the pot. A number with a unit proven false in the epoch earns nothing in
    it; one that did not open a drawn unit loses a share of the epoch's pay for each, because otherwise hiding a fault
    would cost less than it saves. Each right verdict earns the verdict's pay; each wrong one loses a multiple of it,
    as far as the epoch's pay goes: otherwise a ring that agrees on a fingerprint would live on the draws it wins.

    Args:
        unpaid: units by (round, number) that carried a residual forged in this epoch or an earlier one
            (`verification.retract.chained`). What a later epoch finds comes too late for this one's pay.
    """
    earned: dict[int, int] = {}
    lost: dict[int, int] = {}  # percent of the epoch's pay
    fines: dict[int, int] = {}
    for settled in rounds:
        for number, outcome in settled.outcomes.items():
            if outcome == "false":
                lost[number] = 100
            elif outcome == "void" and number in settled.refused:
                lost[number] = min(100, lost.get(number, 0) + manifest.pay.refusal_percent)
        for unit in settled.record.units:
            if (settled.round, unit.number) in unpaid:
                continue
            if unit.merged and settled.outcomes.get(unit.number, "passed") == "passed":
                earned[unit.number] = earned.get(unit.number, 0) + manifest.unit_pay(unit.tier)
        for judge in settled.judges:
            earned[judge] = earned.get(judge, 0) + manifest.pay.verdict_wei
        for judge in settled.wrong:
            fines[judge] = fines.get(judge, 0) + manifest.pay.verdict_wei * manifest.pay.wrong_percent // 100
    earned = {number: max(0, amount - fines.get(number, 0)) for number, amount in earned.items()}
    kept = {number: amount * (100 - lost.get(number, 0)) // 100 for number, amount in earned.items()}
    return {number: amount for number, amount in kept.items() if amount}


@dataclass(frozen=True)
class EpochEarnings:
    """Hold what an epoch earned, and whom it cost what was not vested yet."""

    earned: Mapping[int, int]  # wei by registration number
    at_fault: frozenset[int] = frozenset()  # contributors with a unit proven false in it, or ruled so then


def epoch_earnings(
    manifest: RunManifest,
    rounds: Sequence[SettledRound],
    unpaid: Units = frozenset(),
    ruled: frozenset[int] = frozenset(),
) -> EpochEarnings:
    """Return what a decided epoch means for pay; further arguments as of `earned_in_epoch`.

    A unit is proven false by verdicts that stand, or by a jury: false, forged, or not opened. A void is no fault.

    Args:
        ruled: numbers that a jury found at fault while the epoch lasted (`verification.cases.confirmed_faults`).
    """
    at_fault = frozenset(
        number for one in rounds for number, outcome in one.outcomes.items() if outcome == "false"
    )
    return EpochEarnings(earned_in_epoch(manifest, rounds, unpaid), at_fault | ruled)


def vests_in(manifest: RunManifest, epoch: int) -> int:
    """Return the epoch whose table is the first that holds what an epoch earned."""
    return min(epoch + manifest.pay.vest_epochs, manifest.epochs - 1)


def forfeited_in(
    manifest: RunManifest, epochs: Sequence[EpochEarnings], epoch: int, number: int
) -> int | None:
    """Return the first epoch whose fault cost a number what an epoch earned, or None.

    Args:
        epochs: those that are decided, from epoch 0 on.
    """
    until = min(vests_in(manifest, epoch) + 1, len(epochs))
    return next((one for one in range(epoch, until) if number in epochs[one].at_fault), None)


def vested(manifest: RunManifest, epochs: Sequence[EpochEarnings]) -> tuple[dict[int, int], ...]:
    """Return what each decided epoch's table adds to the one before, in wei by registration number.

    Args:
        epochs: those that are decided, from epoch 0 on. What they add does not depend on later ones.
    """
    added: list[dict[int, int]] = [{} for _ in epochs]
    for epoch, found in enumerate(epochs):
        due = vests_in(manifest, epoch)
        if due >= len(epochs):
            continue
        for number, amount in found.earned.items():
            if forfeited_in(manifest, epochs, epoch, number) is None:
                added[due][number] = added[due].get(number, 0) + amount
    return tuple(added)


def reward_entries(
    epochs: Iterable[Mapping[int, int]], wallet_of: Mapping[int, str]
) -> tuple[RewardEntry, ...]:
    """Return the cumulative pay of each wallet over the epochs so far, sorted by address.

    Args:
        epochs: what each one's table adds (`vested`).
    """
    cumulative: dict[str, int] = {}
    for epoch in epochs:
        for number, amount in epoch.items():
            wallet = wallet_of[number]
            cumulative[wallet] = cumulative.get(wallet, 0) + amount
    return tuple(
        RewardEntry(account=wallet, cumulative_wei=cumulative[wallet])
        for wallet in sorted(cumulative, key=str.lower)
    )


def max_payout(manifest: RunManifest, contributors: int) -> int:
    """Return the most a run can pay with that many contributors: each unit paid, drawn and judged."""
    a_unit = manifest.pay.unit_wei + manifest.verification.verifiers * manifest.pay.verdict_wei
    return manifest.rounds * contributors * a_unit

"""Cases as people read them: what each is about, who said what, and who got what in the end."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.cases import OUTCOMES, CaseState
from contracts.events import (
    AppealCalled,
    BondForfeited,
    CaseOpened,
    Credited,
    Event,
    RewardsCancelled,
    Ruled,
    Slashed,
    SlotsChanged,
    StageEntered,
)
from contracts.run import ChainRun
from contracts.types import CaseKind, CaseOutcome, CaseStage, JuryTerms

SECOND = 3
"""A second jury's seats and bond, in those of the first."""
BPS = 10_000
FINDER_BPS = 3000  # of what a fault costs
GROUNDS = {1: "root", 2: "data"}
_REWARD_OUTCOMES: dict[int, str] = {CaseOutcome.VOID: "wrong", CaseOutcome.UNAVAILABLE: "cannot be fetched"}


@dataclass(frozen=True)
class Ending:
    """What closing a case moved, in wei."""

    block: int
    tx: str
    credited: dict[str, int]  # by account
    slashed_wei: int  # of the owner's stake
    root_cancelled: bool
    forfeited_wei: int  # to the run's pot
    silent: tuple[tuple[int, int], ...]  # (juror, what its silence cost), a seat each


def outcome_text(kind: CaseKind, outcome: int) -> str:
    """Name what a juror or a jury said."""
    names: dict[int, str] = dict(OUTCOMES)
    if kind is CaseKind.REWARDS:
        names |= _REWARD_OUTCOMES
    return names[outcome]


def about_text(case: CaseState) -> str:
    """Say what a case is about, for a table."""
    if case.kind is CaseKind.REWARDS:
        return f"reward root proposed in block {case.round}, {GROUNDS.get(case.segment, case.segment)}"
    return f"round {case.round}, number {case.number}, segment {case.segment}"


def stage_text(case: CaseState, height: int, terms: JuryTerms) -> str:
    """Say how far a case is, and until which block."""
    stage, _ = case.stage_at(height, terms)
    last = case.last_block(height, terms)
    until = "" if last is None else f" until block {last}" if height <= last else ", its time is over"
    names = {
        CaseStage.CALLED: "waits for its jury",
        CaseStage.VOTING: "votes are sealed",
        CaseStage.REVEALING: "votes are revealed",
        CaseStage.RULED: "ruled, to be closed" if case.second else "ruled, can be appealed",
        CaseStage.CLOSED: "closed",
    }
    second = "second jury: " if case.second and stage is not CaseStage.CLOSED else ""
    return second + names[stage] + ("" if case.second and stage is CaseStage.RULED else until)


def caller_of(events: Iterable[Event], case: int) -> str | None:
    """Return who called the second jury of a case."""
    called = (one.caller for one in events if isinstance(one, AppealCalled) and one.case == case)
    return next(called, None)


def bond_of(events: Iterable[Event], case: int) -> int:
    """Return what opened a case, in wei."""
    return next((one.bond for one in events if isinstance(one, CaseOpened) and one.case == case), 0)


def rulings(events: Iterable[Event], case: int) -> tuple[Ruled, ...]:
    """Return what each jury of a case ruled."""
    return tuple(one for one in events if isinstance(one, Ruled) and one.case == case)


def seat_duties(case: CaseState, juror: int, height: int, terms: JuryTerms) -> list[dict[str, Any]]:
    """Return a juror's seats in the present jury of an open case, and what is due of each until which block."""
    if case.closed:
        return []
    stage, _ = case.stage_at(height, terms)
    last = case.last_block(height, terms)
    found: list[dict[str, Any]] = []
    for seat in case.seats:
        if seat.juror != juror:
            continue
        due = None
        if last is not None and height < last:
            if stage is CaseStage.VOTING and not seat.sealed:
                due = "seal a vote"
            elif stage is CaseStage.REVEALING and seat.sealed and not seat.outcome:
                due = "reveal the vote"
        done = "revealed" if seat.outcome else "sealed" if seat.sealed else "silent"
        found.append(
            {
                "seat": seat.index,
                "second": case.second,
                "stage": stage.name.lower(),
                "vote": done,
                "due": due,
                "until": last if due else None,
            }
        )
    return found


def ending(events: Sequence[Event], case: int) -> Ending | None:
    """Read from a ledger's events what closing a case moved; None while it is open."""
    closing = [index for index, one in enumerate(events) if _closes(one, case)]
    if not closing:
        return None
    first = closing[0]
    entered = events[first]
    tail: list[Event] = []
    for one in events[first + 1 :]:
        if one.tx != entered.tx or _closes(one):
            break
        tail.append(one)
    credited: dict[str, int] = {}
    for one in tail:
        if isinstance(one, Credited):
            credited[one.account] = credited.get(one.account, 0) + one.amount
    bonded = {one.number: one.bonded for one in events[:first] if isinstance(one, SlotsChanged)}
    silent: list[tuple[int, int]] = []
    for one in tail:
        if isinstance(one, SlotsChanged):
            silent.append((one.number, bonded.get(one.number, one.bonded) - one.bonded))
            bonded[one.number] = one.bonded
    return Ending(
        block=entered.block,
        tx=entered.tx,
        credited=credited,
        slashed_wei=sum(one.amount for one in tail if isinstance(one, Slashed)),
        root_cancelled=any(isinstance(one, RewardsCancelled) for one in tail),
        forfeited_wei=sum(one.amount for one in tail if isinstance(one, BondForfeited)),
        silent=tuple(silent),
    )


def at_stake(chain: ChainRun, case: CaseState) -> int:
    """Return the wei that an open case can cost: the ladder's share of the owner's stake, or a proposal's bond.

    Raises:
        LedgerError: the chain does not answer.
    """
    if case.closed:
        return 0
    ledger = chain.ledger
    if case.kind is CaseKind.REWARDS:
        pending = ledger.pending_rewards(case.run)
        return ledger.proposal_bond if pending is not None and pending.proposed_at == case.round else 0
    penalties, owner = chain.penalties(), ledger.operator(case.number)
    if penalties is None or owner is None or ledger.jury.punished(case.run, case.round, case.number):
        return 0
    return (owner.stake_wei + owner.unbonding_wei) * penalties.fault_bps // BPS


def case_row(chain: ChainRun, case: CaseState) -> dict[str, Any]:
    """Return a case of a refreshed run as plain JSON data.

    Raises:
        LedgerError: the chain does not answer.
    """
    terms, height = chain.ledger.jury.terms, chain.height
    rewards = case.kind is CaseKind.REWARDS
    stage, _ = case.stage_at(height, terms)
    by = next((one.number for one in chain.operators() if one.wallet == case.appellant), None)
    return {
        "case": case.case,
        "kind": case.kind.name.lower(),
        "round": None if rewards else case.round,
        "number": None if rewards else case.number,
        "segment": None if rewards else case.segment,
        "ground": GROUNDS.get(case.segment) if rewards else None,
        "root_proposed_at": case.round if rewards else None,
        "appellant": case.appellant,
        "appellant_number": by,
        "opened_at": case.block,
        "stage": stage.name.lower(),
        "last_block": case.last_block(height, terms),
        "second": case.second,
        "seats": len(case.seats),
        "sealed": sum(seat.sealed for seat in case.seats),
        "revealed": sum(seat.outcome > 0 for seat in case.seats),
        "ruling": _ruling(chain, case),
        "bond_wei": str(bond_of(chain.events, case.case)),
        "at_stake_wei": str(at_stake(chain, case)),
    }


def _ruling(chain: ChainRun, case: CaseState) -> str | None:
    return outcome_text(case.kind, case.outcome) if rulings(chain.events, case.case) else None


def case_life(chain: ChainRun, case: CaseState, finder: str) -> dict[str, Any]:
    """Return everything that the chain says of a case of a refreshed run, as plain JSON data.

    Args:
        finder: account that is paid if a fault is proven.

    Raises:
        LedgerError: the chain does not answer.
    """
    events, ruled = chain.events, rulings(chain.events, case.case)
    juries = []
    for second, seats in enumerate(case.juries):
        said = next((one for one in ruled if one.second == bool(second)), None)
        if not seats:
            continue
        juries.append(
            {
                "second": bool(second),
                "seats": [
                    {
                        "seat": seat.index,
                        "juror": seat.juror,
                        "sealed": seat.sealed,
                        "vote": outcome_text(case.kind, seat.outcome) if seat.outcome else None,
                        "result": seat.result.hex() or None,
                    }
                    for seat in seats
                ],
                "ruling": None if said is None else outcome_text(case.kind, said.outcome),
                "ruled_at": None if said is None else said.block,
            }
        )
    return {
        **case_row(chain, case),
        "run": case.run,
        "finder": finder if int(finder, 16) else None,
        "evidence": case.evidence.hex(),
        "height": chain.height,
        "called_by": caller_of(events, case.case),
        "juries": juries,
        "ending": _ending_json(chain, case, finder),
    }


def _ending_json(chain: ChainRun, case: CaseState, finder: str) -> dict[str, Any] | None:
    found = ending(chain.events, case.case)
    if found is None:
        return None
    terms, ledger = chain.ledger.jury.terms, chain.ledger
    bonds = bond_of(chain.events, case.case)
    if caller_of(chain.events, case.case) is not None:
        bonds += SECOND * terms.case_bond
    seized = found.slashed_wei + (ledger.proposal_bond if found.root_cancelled else 0)
    paid = sum(found.credited.values())
    return {
        "block": found.block,
        "tx": found.tx,
        "slashed_wei": str(found.slashed_wei),
        "root_cancelled": found.root_cancelled,
        "credited": [
            {"account": account, "as": _roles(chain, case, finder, account), "wei": str(wei)}
            for account, wei in found.credited.items()
        ],
        "forfeited_wei": str(found.forfeited_wei),
        "silent": [{"juror": juror, "wei": str(wei)} for juror, wei in found.silent],
        "burned_wei": str(bonds + seized - paid - found.forfeited_wei + sum(wei for _, wei in found.silent)),
    }


def _roles(chain: ChainRun, case: CaseState, finder: str, account: str) -> list[str]:
    """Say what an account is in a case: it may be several things."""
    numbers = {seat.juror for seats in case.juries for seat in seats}
    jurors = [one.number for one in chain.operators() if one.wallet == account and one.number in numbers]
    owner = chain.operator(case.number)
    found = {
        "appellant": case.appellant == account,
        "finder": finder == account,
        "called the second jury": caller_of(chain.events, case.case) == account,
        "owner": owner is not None and owner.wallet == account,
    }
    return [name for name, holds in found.items() if holds] + [f"juror {number}" for number in jurors]


def _closes(event: Event, case: int | None = None) -> bool:
    if not isinstance(event, StageEntered) or event.stage != CaseStage.CLOSED:
        return False
    return case is None or event.case == case

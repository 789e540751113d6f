"""The audit of the jury: rulings, and the stake that was taken on them."""

from collections import Counter

from contracts.cases import CaseState
from contracts.jury import vote_digest
from contracts.types import CaseOutcome
from protocol.errors import ProofInconclusive, ProofRejected
from verification.audit_rounds import Found
from verification.public import PublicRun


def check_rulings(run: PublicRun) -> Found:
    """Every ruling is what more than half of the seats of its jury revealed."""
    closed = [case for case in run.chain.every_case() if case.closed]
    for case in closed:
        ruled = [_majority(case, second) for second in (False, True)]
        said = ruled[1] or ruled[0]
        if said != ((case.outcome, case.vote) if case.outcome else None):
            raise ProofRejected(f"case {case.case} was ruled otherwise than its jurors voted")
    return len(closed), f"rulings, {len(run.chain.every_case()) - len(closed)} cases still open"


def _majority(case: CaseState, second: bool) -> tuple[int, bytes] | None:
    seats = case.juries[second]
    votes = Counter((seat.outcome, vote_digest(seat.outcome, seat.result)) for seat in seats if seat.outcome)
    said = [vote for vote, count in votes.items() if 2 * count > len(seats)]
    return said[0] if said else None


def check_slashes(run: PublicRun) -> Found:
    """Stake was taken for what a jury proved, or for an equivocation, and what verifiers proved came before a jury."""
    guilty = {
        (one.round, one.number)
        for one in run.chain.every_case()
        if one.closed and one.outcome >= CaseOutcome.FALSE
    }
    twice = {(one.round, one.number) for one in run.chain.equivocations()}
    for event in run.chain.slashes():
        key = (event.round, event.number)
        if key not in guilty and key not in twice:
            raise ProofRejected(
                f"number {event.number} was slashed for round {event.round} without a ruling or a proof"
            )
    accused = {(one.round, one.number) for one in run.chain.every_case()}
    false = {key[:2] for key, one in run.declared.items() if one.outcome == "false" and key[0] in run.scope}
    spared = sorted(false - accused)
    if spared and run.chain.finished() is not None:
        gone = [key for key in spared if not _stake(run, key[1])]
        round_, number = next((key for key in spared if key not in gone), spared[0])
        why = f"number {number}'s unit of round {round_} was proven false, and nobody brought it before the jury"
        # A stake that was withdrawn before the verdicts came is beyond anybody's reach.
        raise ProofInconclusive(f"{why}; it has no stake") if spared == gone else ProofRejected(why)
    return len(run.chain.slashes()), f"slashes, {len(false)} units judged false"


def _stake(run: PublicRun, number: int) -> int:
    operator = run.chain.operator(number)
    return 0 if operator is None else operator.stake_wei

"""What the owner of a registration number has to hear at once: an open case can cost its stake.

`run_alerts` reads a run that is followed anyway, `open_alerts` asks a ledger about all runs.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from contracts.cases import CaseState
from contracts.chain import block_number
from contracts.client import Ledger
from contracts.docket import BPS
from contracts.events import Event, Slashed, UnbondingCancelled, UnbondingStarted, Withdrawn
from contracts.run import ChainRun
from contracts.types import CaseInfo, CaseKind, CaseStage, JuryTerms


@dataclass(frozen=True)
class Alert:
    """An open case about one's own unit."""

    case: int
    run: str
    kind: CaseKind
    round: int
    segment: int
    stage: CaseStage
    second: bool
    last_block: int | None  # of the stage
    open_by: int | None  # last block to open the segment in time; None once the votes are over
    at_stake_wei: int  # lost if the segment is found false, or cannot be fetched

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            **asdict(self),
            "kind": self.kind.name.lower(),
            "stage": self.stage.name.lower(),
            "at_stake_wei": str(self.at_stake_wei),
        }


def alerts_about(
    cases: Iterable[CaseState],
    number: int,
    *,
    height: int,
    terms: JuryTerms,
    fault_bps: int,
    slashable_wei: int,
) -> tuple[Alert, ...]:
    """Return the alerts for a number, oldest case first. Pure.

    Args:
        cases: of one run.
        height: newest block seen.
        fault_bps: of the run's ladder.
        slashable_wei: stake and unbonding funds of the number.
    """
    return tuple(
        _alert(case, height, terms, slashable_wei * fault_bps // BPS)
        for case in cases
        if case.number == number and case.kind is not CaseKind.REWARDS and not case.closed
    )


def open_by(case: CaseState, height: int, terms: JuryTerms) -> int | None:
    """Return the last block to open a case's segment in time; None once the votes of the present jury are over."""
    stage, _ = case.stage_at(height, terms)
    return case.open_by(terms) if stage in (CaseStage.CALLED, CaseStage.VOTING) else None


def run_alerts(chain: ChainRun, number: int) -> tuple[Alert, ...]:
    """Return the alerts for a number in a run that is followed, from what its last `refresh` brought.

    The jury's terms are read from the chain at the first call.
    """
    penalties, owner = chain.penalties(), chain.operator(number)
    if penalties is None or owner is None:
        return ()
    return alerts_about(
        chain.every_case(),
        number,
        height=chain.height,
        terms=chain.ledger.jury.terms,
        fault_bps=penalties.fault_bps,
        slashable_wei=owner.stake_wei + unbonding_of(chain.events, number),
    )


def open_alerts(ledger: Ledger, number: int) -> tuple[Alert, ...]:
    """Return the alerts for a number in all runs, by asking the chain: cheap where no case is open.

    Raises:
        LedgerError: the chain does not answer.
    """
    owner, jury = ledger.operator(number), ledger.jury
    if owner is None or owner.cases == 0:
        return ()
    height, found = block_number(ledger.w3), list[Alert]()
    for one in range(jury.case_count(), 0, -1):
        info = jury.case(one)
        if info is None or info.number != number or info.stage is CaseStage.CLOSED:
            continue
        run = ledger.run_info(info.run)
        found += alerts_about(
            [state_of(info)],
            number,
            height=height,
            terms=jury.terms,
            fault_bps=0 if run is None else run.ladder.fault_bps,
            slashable_wei=owner.stake_wei + owner.unbonding_wei,
        )
        if len(found) == owner.cases:
            break
    return tuple(reversed(found))


def state_of(info: CaseInfo) -> CaseState:
    """Return a case as the jury holds it in the form that events fold it into, without its seats."""
    return CaseState(
        case=info.case,
        run=info.run,
        kind=info.kind,
        round=info.round,
        number=info.number,
        segment=info.segment,
        appellant=info.appellant,
        evidence=info.evidence,
        block=info.opened_at,
        stage=info.stage,
        stage_block=info.stage_at,
        seed_round=info.seed_round,
        second=info.second,
        outcome=info.outcome,
        vote=info.vote,
    )


def unbonding_of(events: Iterable[Event], number: int) -> int:
    """Return what of a number is on its way out, in wei: it can still be slashed."""
    found = 0
    for event in events:
        match event:
            case UnbondingStarted() if event.number == number:
                found = event.unbonding
            case Slashed() if event.number == number:
                found = event.unbonding
            case UnbondingCancelled() | Withdrawn() if event.number == number:
                found = 0
    return found


def _alert(case: CaseState, height: int, terms: JuryTerms, at_stake_wei: int) -> Alert:
    stage, _ = case.stage_at(height, terms)
    return Alert(
        case=case.case,
        run=case.run,
        kind=case.kind,
        round=case.round,
        segment=case.segment,
        stage=stage,
        second=case.second,
        last_block=case.last_block(height, terms),
        open_by=open_by(case, height, terms),
        at_stake_wei=at_stake_wei,
    )

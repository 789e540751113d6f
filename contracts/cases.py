"""Cases as their events show them, and what anybody may do next to move one on."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from contracts.events import (
    AppealCalled,
    CaseOpened,
    Event,
    JuryCalled,
    Ruled,
    Seated,
    StageEntered,
    VoteRevealed,
    VoteSealed,
)
from contracts.types import CaseKind, CaseOutcome, CaseStage, JuryTerms

OUTCOMES: Final[dict[int, str]] = {
    0: "undecided",
    CaseOutcome.RIGHT: "right",
    CaseOutcome.VOID: "void",
    CaseOutcome.FALSE: "proven false",
    CaseOutcome.FORGED: "forged residual",
    CaseOutcome.UNAVAILABLE: "not opened",
}

Step = Literal["draw", "rule", "close"]


@dataclass(frozen=True)
class SeatState:
    """One seat of a jury."""

    index: int
    juror: int  # registration number
    sealed: bool = False
    outcome: int = 0  # revealed
    result: bytes = b""


@dataclass(frozen=True)
class CaseState:
    """A case of one run, as far as its events have been read."""

    case: int
    run: str
    kind: CaseKind
    round: int
    number: int
    segment: int
    appellant: str
    evidence: bytes
    block: int  # that opened it
    stage: CaseStage = CaseStage.CALLED
    stage_block: int = 0
    seed_round: int = 0
    second: bool = False  # the present jury is the second
    juries: tuple[tuple[SeatState, ...], tuple[SeatState, ...]] = ((), ())
    outcome: int = 0  # of the ruling that stands
    vote: bytes = b""  # digest of outcome and result of that ruling

    @property
    def seats(self) -> tuple[SeatState, ...]:
        """Return the seats of the present jury."""
        return self.juries[self.second]

    @property
    def closed(self) -> bool:
        """Tell whether nothing can change any more."""
        return self.stage is CaseStage.CLOSED

    def stage_at(self, height: int, terms: JuryTerms) -> tuple[CaseStage, int]:
        """Return the stage at a height, and the block at which it began.

        The time for sealed votes ends without any transaction.
        """
        end = self.stage_block + terms.vote_blocks
        if self.stage is CaseStage.VOTING and height > end:
            return CaseStage.REVEALING, end
        return self.stage, self.stage_block

    def last_block(self, height: int, terms: JuryTerms) -> int | None:
        """Return the last block of the present stage; None once it is closed."""
        stage, began = self.stage_at(height, terms)
        lengths = {
            CaseStage.CALLED: terms.draw_blocks,
            CaseStage.VOTING: terms.vote_blocks,
            CaseStage.REVEALING: terms.reveal_blocks,
            CaseStage.RULED: 0 if self.second else terms.appeal_blocks,
        }
        return None if stage is CaseStage.CLOSED else began + lengths[stage]

    def open_by(self, terms: JuryTerms) -> int:
        """Return the last block in which it is early enough to open the segment: then jurors count it as not opened.

        Before the jury is drawn: as early as that can be.
        """
        return self.stage_block + 2 * terms.vote_blocks // 3 - 1

    def next_step(self, height: int, terms: JuryTerms, *, drawable: bool) -> Step | None:
        """Return what anybody may do now to move the case on, or None.

        Args:
            drawable: the beacon that draws the jury is there.
        """
        stage, _ = self.stage_at(height, terms)
        last = self.last_block(height, terms)
        # Nodes estimate a transaction as if it stood in the newest block.
        over = last is not None and height > last
        if stage is CaseStage.CALLED:
            return "close" if over else "draw" if drawable else None
        if stage is CaseStage.REVEALING:
            sealed = sum(seat.sealed for seat in self.seats)
            return "rule" if over or sealed == sum(seat.outcome > 0 for seat in self.seats) else None
        if stage is CaseStage.RULED:
            return "close" if over else None
        return None


def fold(cases: dict[int, CaseState], event: Event, run: str) -> None:
    """Take one event into the cases of a run; events of other runs' cases say nothing here."""
    if isinstance(event, CaseOpened):
        if event.run == run:
            cases[event.case] = _opened(event)
        return
    case = cases.get(getattr(event, "case", 0))
    if case is None:
        return
    match event:
        case StageEntered(stage=stage):
            cases[event.case] = replace(case, stage=CaseStage(stage), stage_block=event.block)
        case JuryCalled():
            cases[event.case] = replace(case, seed_round=event.seed_round)
        case AppealCalled():
            cases[event.case] = replace(case, second=True)
        case Seated():
            cases[event.case] = _with(case, event.second, (SeatState(event.seat, event.juror),))
        case VoteSealed():
            cases[event.case] = _with(case, event.second, (SeatState(event.seat, event.juror, sealed=True),))
        case VoteRevealed():
            seat = SeatState(event.seat, event.juror, True, event.outcome, event.result)
            cases[event.case] = _with(case, event.second, (seat,))
        case Ruled() if event.outcome or not event.second:
            cases[event.case] = replace(case, outcome=event.outcome, vote=event.vote)


def _opened(event: CaseOpened) -> CaseState:
    return CaseState(
        case=event.case,
        run=event.run,
        kind=CaseKind(event.kind),
        round=event.round,
        number=event.number,
        segment=event.segment,
        appellant=event.appellant,
        evidence=event.evidence,
        block=event.block,
        stage_block=event.block,
    )


def _with(case: CaseState, second: bool, seats: Iterable[SeatState]) -> CaseState:
    found = {seat.index: seat for seat in case.juries[second]} | {seat.index: seat for seat in seats}
    ordered = tuple(found[index] for index in sorted(found))
    juries = (case.juries[0], ordered) if second else (ordered, case.juries[1])
    return replace(case, juries=juries)

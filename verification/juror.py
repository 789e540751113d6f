"""What a juror has to do now: a pure look at a run's cases, the height of the chain, and the votes on disk.

    seated -> find what to vote for -> write the vote down -> seal it -> (all sealed, or time over) -> reveal it

A vote is written down before it is sealed and never changed, so that a juror that starts again seals the same, and can
reveal what it sealed. Steps that anybody may take (draw, rule, close) a juror takes if nobody did for a while.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from contracts.cases import CaseState, SeatState, Step
from contracts.types import CaseOutcome, CaseStage, JuryTerms

SeatKey = tuple[int, bool, int]
"""Name a seat: (case, whether of the second jury, index)."""

Subject = tuple[int, int, int, int]
"""Name what a case is about: (kind, round, number, segment)."""

TURNS: Final = 4
"""In how many turns jurors take a step that nobody took."""


@dataclass(frozen=True)
class Vote:
    """The vote of one seat, and what opens it."""

    case: int
    second: bool
    seat: int
    subject: Subject
    outcome: CaseOutcome
    result: bytes  # 32 bytes
    salt: bytes  # 32 random bytes

    @property
    def key(self) -> SeatKey:
        """Return (case, second, seat)."""
        return self.case, self.second, self.seat


@dataclass(frozen=True)
class Find:
    """Find out what to vote for in a case; the seats lack a vote."""

    case: CaseState
    seats: tuple[int, ...]
    overdue: bool  # what cannot be fetched now counts as not opened


@dataclass(frozen=True)
class SealVote:
    """Seal a vote that is on disk."""

    case: CaseState
    vote: Vote


@dataclass(frozen=True)
class RevealVote:
    """Reveal a vote that was sealed."""

    case: CaseState
    vote: Vote


@dataclass(frozen=True)
class Chore:
    """Take a step that anybody may take."""

    case: CaseState
    step: Step


Task = Find | SealVote | RevealVote | Chore


def subject_of(case: CaseState) -> Subject:
    """Return what a case is about; a reorganisation may give its number to another subject."""
    return int(case.kind), case.round, case.number, case.segment


def task_key(task: Task) -> tuple[str, SeatKey]:
    """Return what tells tasks apart that are under way."""
    match task:
        case SealVote() | RevealVote():
            return type(task).__name__, task.vote.key
        case Find():
            return "Find", (task.case.case, task.case.second, 0)
        case Chore():
            return task.step, (task.case.case, task.case.second, 0)


def tasks(
    cases: Iterable[CaseState],
    height: int,
    terms: JuryTerms,
    me: int,
    votes: Mapping[SeatKey, Vote],
    *,
    holds_slots: bool,
) -> Iterator[Task]:
    """Yield what a juror should do now.

    Args:
        cases: of the run.
        height: the newest block.
        me: the juror's registration number.
        votes: that are on disk.
        holds_slots: whoever has none leaves the steps that anybody may take to others.
    """
    for case in cases:
        if case.closed:
            continue
        yield from _seat_tasks(case, height, terms, me, votes)
        step = case.next_step(height, terms, drawable=True)
        if holds_slots and step is not None and height >= _turn(case, height, terms, step, me):
            yield Chore(case, step)


def _seat_tasks(
    case: CaseState, height: int, terms: JuryTerms, me: int, votes: Mapping[SeatKey, Vote]
) -> Iterator[Task]:
    stage, _ = case.stage_at(height, terms)
    last = case.last_block(height, terms)
    # The next block is the first that can hold a transaction.
    if last is None or height >= last:
        return
    lacking = []
    for seat in own_seats(case, me):
        vote = vote_of(case, seat, votes)
        if stage is CaseStage.VOTING and not seat.sealed:
            if vote is None:
                lacking.append(seat.index)
            else:
                yield SealVote(case, vote)
        if stage is CaseStage.REVEALING and seat.sealed and not seat.outcome and vote is not None:
            yield RevealVote(case, vote)
    if lacking:
        yield Find(case, tuple(lacking), height > case.open_by(terms))


def own_seats(case: CaseState, me: int) -> tuple[SeatState, ...]:
    """Return a juror's seats on the present jury."""
    return tuple(seat for seat in case.seats if seat.juror == me)


def vote_of(case: CaseState, seat: SeatState, votes: Mapping[SeatKey, Vote]) -> Vote | None:
    """Return the vote of a seat that is on disk."""
    vote = votes.get((case.case, case.second, seat.index))
    return vote if vote is not None and vote.subject == subject_of(case) else None


def _turn(case: CaseState, height: int, terms: JuryTerms, step: Step, me: int) -> int:
    """Return the block from which a juror takes a step that was due before.

    A quarter of the stage's time is left to others; most numbers wait longer, so that not all send at once.
    """
    _, began = case.stage_at(height, terms)
    last = case.last_block(height, terms)
    due = began if step == "draw" or last is None or height <= last else last + 1
    length = {"draw": terms.draw_blocks, "rule": terms.reveal_blocks, "close": terms.appeal_blocks}[step]
    patience = max(1, length // 4)
    return due + patience + (me + case.case) % TURNS * max(1, patience // TURNS)

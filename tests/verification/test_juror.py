"""What jurors do when: each seat one vote, on disk before it is sealed, and steps that nobody else took."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from contracts.cases import CaseState, SeatState
from contracts.types import CaseKind, CaseOutcome, CaseStage, JuryTerms
from tests.verification.testbed import key
from verification.journal import VerdictJournal
from verification.juror import (
    TURNS,
    Chore,
    Find,
    RevealVote,
    SealVote,
    SeatKey,
    Task,
    Vote,
    subject_of,
    tasks,
)

ME, OTHER, RUN = 4, 5, "ab" * 32
TERMS = JuryTerms(
    slot_stake=20,
    silent_penalty=1,
    fee=1,
    case_bond=12,
    seats=3,
    draw_blocks=40,
    vote_blocks=60,
    reveal_blocks=40,
    appeal_blocks=20,
    unbonding_blocks=10,
)
BEGAN = 1000
CASE = CaseState(
    case=7,
    run=RUN,
    kind=CaseKind.ACCUSATION,
    round=3,
    number=1,
    segment=2,
    appellant="0x" + "11" * 20,
    evidence=bytes(32),
    block=BEGAN - 20,
    stage=CaseStage.VOTING,
    stage_block=BEGAN,
    juries=((SeatState(0, OTHER), SeatState(1, ME), SeatState(2, ME)), ()),
)


def vote(case: CaseState = CASE, seat: int = 1) -> Vote:
    subject = subject_of(case)
    return Vote(case.case, case.second, seat, subject, CaseOutcome.FALSE, bytes([9]) * 32, bytes([7]) * 32)


def due(
    case: CaseState, height: int, votes: tuple[Vote, ...] = (), *, me: int = ME, slots: bool = True
) -> list[Task]:
    held: dict[SeatKey, Vote] = {one.key: one for one in votes}
    return list(tasks([case], height, TERMS, me, held, holds_slots=slots))


def sealed(case: CaseState, *seats: int, revealed: tuple[int, ...] = ()) -> CaseState:
    """Return a case some of whose seats have sealed or revealed."""
    first = tuple(
        replace(
            seat, sealed=seat.index in seats, outcome=3 if seat.index in revealed else 0, result=bytes(32)
        )
        for seat in case.juries[0]
    )
    return replace(case, juries=(first, case.juries[1]))


def test_a_seated_juror_finds_out_once_for_all_its_seats() -> None:
    assert due(CASE, BEGAN) == [Find(CASE, (1, 2), overdue=False)]
    assert due(CASE, BEGAN, (vote(seat=1),)) == [
        SealVote(CASE, vote(seat=1)),
        Find(CASE, (2,), overdue=False),
    ]
    assert due(CASE, BEGAN, me=6) == []


def test_what_is_missing_counts_as_not_opened_after_two_thirds_of_the_time() -> None:
    for height, overdue in ((BEGAN + 39, False), (BEGAN + 40, True)):
        (task,) = due(CASE, height)
        assert isinstance(task, Find)
        assert task.overdue is overdue


def test_a_vote_is_sealed_while_a_block_is_left_for_it() -> None:
    votes = vote(seat=1), vote(seat=2)
    last = BEGAN + TERMS.vote_blocks
    assert due(CASE, last - 1, votes) == [SealVote(CASE, one) for one in votes]
    assert due(CASE, last, votes) == []
    assert due(CASE, last) == []
    assert due(sealed(CASE, 1, 2), BEGAN + 5, votes) == []


def test_a_sealed_vote_is_revealed_once_all_have_sealed_or_time_is_over() -> None:
    votes = vote(seat=1), vote(seat=2)
    case = sealed(CASE, 0, 1, revealed=(0,))
    after = BEGAN + TERMS.vote_blocks + 1
    assert due(case, after, votes) == [RevealVote(case, votes[0])]
    entered = replace(case, stage=CaseStage.REVEALING, stage_block=BEGAN + 9)
    assert due(entered, BEGAN + 10, votes) == [RevealVote(entered, votes[0])]
    assert due(entered, BEGAN + 9 + TERMS.reveal_blocks, votes, slots=False) == []
    assert due(sealed(entered, 0, 1, revealed=(0, 1)), BEGAN + 10, votes, slots=False) == []
    assert due(entered, BEGAN + 10) == [], "nobody can reveal what is not on disk"


def test_a_vote_about_another_subject_or_jury_is_no_vote_of_this_seat() -> None:
    elsewhere = replace(CASE, segment=0)
    assert due(CASE, BEGAN, (vote(elsewhere),))[0] == Find(CASE, (1, 2), overdue=False)
    second = replace(CASE, second=True, juries=(CASE.juries[0], (SeatState(1, ME),)))
    assert due(second, BEGAN, (vote(),)) == [Find(second, (1,), overdue=False)]


def test_a_closed_case_asks_nothing() -> None:
    assert due(replace(CASE, stage=CaseStage.CLOSED), BEGAN, (vote(),)) == []


@pytest.mark.parametrize(
    ("stage", "length", "step"),
    [
        (CaseStage.CALLED, 0, "draw"),
        (CaseStage.REVEALING, TERMS.reveal_blocks + 1, "rule"),
        (CaseStage.RULED, TERMS.appeal_blocks + 1, "close"),
    ],
)
def test_a_step_that_nobody_takes_is_taken_by_one_juror_after_the_other(
    stage: CaseStage, length: int, step: str
) -> None:
    case = replace(CASE, stage=stage, juries=((SeatState(0, OTHER, sealed=True),), ()))
    first = {}
    for me in range(10, 10 + TURNS):
        for height in range(BEGAN + length, BEGAN + length + 40):
            if due(case, height, me=me):
                first[me] = height
                break
        assert due(case, first[me], me=me) == [Chore(case, step)]
        assert due(case, first[me], me=me, slots=False) == []
    assert len(set(first.values())) == TURNS
    assert min(first.values()) > BEGAN + length


def test_a_vote_on_disk_stands_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    other = replace(vote(), outcome=CaseOutcome.RIGHT, salt=bytes(32))
    with VerdictJournal.open(path, key(ME).address) as journal:
        assert journal.votes(RUN) == ()
        assert journal.vote(RUN, vote()) == vote()
        assert journal.vote(RUN, other) == vote()
        assert journal.vote(RUN, vote(seat=2)) == vote(seat=2)
    assert path.stat().st_mode & 0o077 == 0
    with VerdictJournal.open(path, key(ME).address) as journal:
        assert journal.vote(RUN, other) == vote()
        assert journal.votes(RUN) == (vote(), vote(seat=2))
        assert journal.votes("cd" * 32) == ()
        elsewhere = replace(other, subject=(1, 9, 9, 9))
        assert journal.vote(RUN, elsewhere) == elsewhere, "a reorganised chain may number its cases anew"

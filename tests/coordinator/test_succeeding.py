"""A run outlives its coordinator: others carry it on, and who comes back falls in line."""

from dataclasses import replace
from typing import Any

import pytest

from coordinator.state import (
    Accuse,
    Adopted,
    Anchor,
    Close,
    Finalize,
    Heard,
    Open,
    Post,
    Propose,
    Say,
    Voided,
)
from coordinator.succeeding import is_said
from coordinator.summary import summarize
from protocol.manifest import DeadlineConfig
from protocol.messages import CommitmentList, Finish, RoundRecord, sign
from tests.coordinator.conftest import COORDINATOR, World, make_manifest
from verification.judge import PROVEN_FALSE

LOST = 51  # blocks: one more than the chain's timeout
JUDGE = 101


def said(world: Any, kind: type) -> list[int]:
    """Return the rounds in which a machine said something of a kind."""
    return [one.round for one in world.wanted(Say) if isinstance(one.body, kind)]


def carry(world: Any, round_: int) -> None:
    """Let a stand-in carry one round: everybody delivers, and its first step waits for the timeout."""
    world.commit(round_)
    if world.chain.acting != JUDGE:
        world.mine(LOST)
    world.reveal(round_)
    world.mine(2)
    world.judge_all(round_)
    world.mine(2)


@pytest.fixture
def successor(world: Any) -> Any:
    """A stand-in beside a coordinator that has played round 0."""
    world.open()
    world.play(0)
    other = world.stand_in(JUDGE)
    other.follow(world)
    return other


def test_a_stand_in_takes_over_what_was_said_and_waits(world: Any, successor: Any) -> None:
    assert successor.state.round == 1
    assert successor.state.records == world.state.records
    assert successor.state.parameters[1] == world.state.parameters[1]
    assert successor.wanted(Say) == []
    world.commit(1)
    successor.follow(world)
    successor.mine(20)
    assert successor.wanted(Say) == []
    assert "has time until block" in summarize(successor.state, successor.chain).detail


def test_a_stand_in_opens_no_run(world: Any) -> None:
    other = world.stand_in(JUDGE)
    world.hold = {Open}
    world.ready()
    other.follow(world)
    other.mine(100)
    assert other.wanted(Open) == []


def test_a_run_reaches_its_end_and_is_paid_without_its_coordinator(world: Any, successor: Any) -> None:
    for round_ in (1, 2):
        carry(successor, round_)
    successor.mine(2 * LOST)  # what becomes final is progress too
    assert said(successor, CommitmentList) == [1, 2] == said(successor, RoundRecord)
    assert successor.state.round == 3
    assert len(successor.wanted(Propose)) == len(successor.wanted(Finalize)) == 2
    assert len(successor.chain.finalized) == 2
    assert said(successor, Finish) == [2]
    assert successor.wanted(Close) == []
    assert summarize(successor.state, successor.chain).phase == "finished"


def test_only_the_round_that_a_timeout_makes_too_late_is_void() -> None:
    deadlines = DeadlineConfig(ready=20, commit=10, reveal=5, record=LOST - 7, verify=6, appeal=1)
    world: Any = World(make_manifest(deadlines=deadlines))
    world.open()
    world.play(0)
    world.commit(1)
    successor: Any = world.stand_in(JUDGE)
    successor.follow(world)
    successor.reveal(1)
    successor.mine(LOST + 2)
    carry(successor, 2)
    successor.mine(3 * LOST)
    assert [one.round for one in successor.wanted(Voided)] == [1]
    assert summarize(successor.state, successor.chain).phase == "finished"
    owed = successor.owed(1)
    assert {number: owed[number] for number in (1, 2, 3)} == dict.fromkeys(
        (1, 2, 3), 2 * world.manifest.pay.unit_wei
    )


def test_a_root_without_a_record_is_carried_on(world: Any, successor: Any) -> None:
    world.commit(1)
    assert world.chain.commitments(1) is not None
    successor.follow(world)
    successor.reveal(1)
    successor.mine(LOST - 3)
    assert said(successor, RoundRecord) == []
    successor.mine(4)
    assert said(successor, RoundRecord) == [1]
    assert said(successor, CommitmentList) == []
    assert successor.state.round == 2


def test_what_was_just_written_down_is_said_until_something_else_counts(world: Any) -> None:
    world.open()
    before = world.state
    world.play(0)
    ours, record = world.state.lists[0], world.state.records[0]
    for state in (before, world.state):
        assert is_said(state, ours)
        assert is_said(state, record)
    other = replace(ours, body=CommitmentList(entries=()))
    assert not is_said(world.state, other)
    assert not is_said(world.state, replace(record, body=record.body.model_copy(update={"units": ()})))


def test_after_a_restart_nothing_is_said_twice(world: Any, successor: Any) -> None:
    world.commit(1)
    successor.follow(world)
    successor.hold = {Anchor}
    successor.reveal(1)
    successor.mine(LOST)
    first = successor.record(1)
    successor.hold = set()
    successor.restart()
    successor.mine(LOST)
    assert successor.record(1) == first
    assert successor.chain.record_hash(1) == first.digest().hex()


def test_the_coordinator_that_comes_back_takes_the_posted_list_over(world: Any, successor: Any) -> None:
    world.hold = {Post}
    world.commit(1, (1, 2))
    world.mine(12)
    assert len(world.state.lists[1].body.entries) == 2
    world.restart()
    for number in (1, 2, 3):
        successor.commit(1, (number,))
    while successor.chain.commitments(1) is None:
        successor.mine()
    assert successor.chain.commitments(1).count == 3
    world.hold = set()
    world.mine()
    assert "another root" in world.state.trouble
    world.follow(successor)
    assert world.state.trouble == ""
    assert world.state.lists[1] == successor.statements["commitments", 1, 0]
    assert [type(one.message.body) for one in world.wanted(Adopted)] == [CommitmentList]
    world.reveal(1)
    world.mine()
    assert said(world, CommitmentList) == [0, 1], "its own unposted one, and no second"
    assert said(world, RoundRecord) == [0, 1]
    successor.follow(world)
    successor.mine()
    assert successor.state.round == 2
    assert said(successor, RoundRecord) == [], "it yields"


def test_the_coordinator_that_comes_back_takes_the_anchored_record_over() -> None:
    world: Any = World(make_manifest())
    world.open()
    world.commit(0)
    world.reveal(0)
    world.mine()
    world.judge_all(0)
    successor: Any = world.stand_in(JUDGE)
    successor.follow(world)
    world.commit(1)
    world.hold = {Anchor}
    world.reveal(1, (1, 2))
    world.mine(6)
    mine = world.record(1)
    assert mine.judged
    successor.follow(world)
    successor.reveal(1, (3,))
    successor.mine(LOST)
    theirs = successor.record(1)
    assert mine != theirs
    world.restart()
    world.hold = set()
    world.mine()
    assert "another hash" in world.state.trouble
    world.follow(successor)
    assert world.state.trouble == ""
    assert world.state.round == 2
    assert world.statements["record", 1, 0].body == mine, "and no second one"
    assert world.state.records[1].body == theirs
    declared = [(one.round, one.number) for one in (*theirs.judged, *world.state.undeclared)]
    assert sorted(declared) == sorted({(one.round, one.number) for one in (*theirs.judged, *mine.judged)})
    assert len(world.state.previous.reveals) == 3
    world.play(2)
    assert world.state.round == 3


def test_what_an_anchored_record_declares_is_decided_so(world: Any, successor: Any) -> None:
    world.commit(1)
    world.reveal(1)
    world.mine()
    draws = world.draws(1)
    for draw in draws:
        for verifier in draw.verifiers[:2]:
            world.verdict(1, draw, verifier)
    world.mine(2)
    late = world.stand_in(102)
    late.follow(world)
    world.commit(2)
    world.reveal(2)
    world.mine()
    assert {one.round for one in world.record(2).judged} >= {1}
    late.follow(world)
    late.mine()
    assert late.state.settling.earned == world.state.settling.earned
    assert dict(late.state.standings) == dict(world.state.standings)
    assert {one.round for one in late.state.taken.values()} >= {1}


def test_an_outcome_that_an_anchored_record_lies_about_is_worked_out_from_its_verdicts(world: Any) -> None:
    world.open()
    world.play(0)
    world.commit(1)
    world.reveal(1)
    world.mine()
    world.judge_all(1, PROVEN_FALSE)
    world.commit(2)
    world.hold = {Accuse, Anchor}
    world.reveal(2)
    world.mine(6)
    honest = world.record(2)
    drawn = [one for one in honest.judged if one.round == 1]
    assert {one.outcome for one in drawn} == {"false"}
    lies = (one.model_copy(update={"outcome": "passed", "heard": one.heard[::-1]}) for one in honest.judged)
    lie = honest.model_copy(update={"judged": tuple(lies)})
    world.chain.records[2] = (lie.digest().hex(), world.chain.height)
    world.feed(Heard(sign(world.keys[JUDGE], world.manifest, 2, "coordinator", lie)))
    assert world.state.records[2].body == lie
    decided = len(world.decisions)
    world.mine(5)
    found = world.state.judging[1].decisions
    assert {found[one.number, 0].outcome for one in drawn} == {"false"}
    assert len(world.decisions) == decided, "what rests on the same verdicts is not decided again"


def test_what_verifiers_prove_false_is_accused_once_the_run_stands_still(world: Any, successor: Any) -> None:
    world.hold = {Accuse}
    world.commit(1)
    world.reveal(1)
    world.mine()
    world.judge_all(1, PROVEN_FALSE)
    successor.follow(world)
    assert successor.wanted(Accuse) == []
    successor.mine(LOST)
    wanted = {(one.round, one.number) for one in successor.wanted(Accuse)}
    assert wanted == {(one.round, one.number) for one in world.wanted(Accuse)} != set()
    assert len(wanted) == len(successor.wanted(Accuse))


def test_the_closing_word_of_a_stand_in_is_the_coordinators_to_take_over(world: Any, successor: Any) -> None:
    for round_ in (1, 2):
        carry(successor, round_)
    successor.mine(2 * LOST)
    world.restart()
    world.follow(successor)
    world.mine(7)
    assert said(world, Finish) == []
    assert world.state.finish.author == successor.author.address != COORDINATOR.address
    assert len(world.wanted(Close)) == 1
    assert summarize(world.state, world.chain).phase == "finished"

"""What was judged void or false is taken back in a later record, as scenarios on a simulated chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator.composing import MAX_JUDGED
from coordinator.settling import MAX_CLOSING
from coordinator.state import Aggregate, Weigh, Weighed
from protocol.messages import (
    MAX_MESSAGE_BYTES,
    PASSED,
    PROVEN_FALSE,
    REJECTED,
    Finish,
    Judgement,
    Receipt,
    ReceivedUpdate,
    Retraction,
    RoundRecord,
    UnitRecord,
    sign,
)
from tests.coordinator.conftest import COORDINATOR
from verification.inclusion import MAX_FORCED, MAX_LISTED
from verification.retract import MAX_RETRACTED

MakeWorld = Callable[..., Any]


def play(world: Any, round_: int, *, void: tuple[int, ...] = (), forged: tuple[int, ...] = ()) -> None:
    """Let everybody on the roster deliver a round, of which some units turn out to be bad."""
    numbers = [one.number for one in world.chain.roster(round_)]
    world.commit(round_, numbers)
    world.reveal(round_, numbers)
    world.mine()
    judge(world, round_, void=void, forged=forged)


def judge(world: Any, round_: int, *, void: tuple[int, ...] = (), forged: tuple[int, ...] = ()) -> None:
    for draw in world.draws(round_):
        outcome = PROVEN_FALSE if draw.number in forged else REJECTED if draw.number in void else PASSED
        for verifier in draw.verifiers[:2]:
            world.verdict(round_, draw, verifier, outcome, forged=draw.number in forged)


def taken(world: Any, round_: int) -> list[tuple[int, int]]:
    return [(one.round, one.number) for one in world.record(round_).retracted]


def test_a_void_unit_is_taken_back_in_the_next_record(world: Any) -> None:
    world.open()
    play(world, 0, void=(2,))
    play(world, 1)
    play(world, 2)
    assert [taken(world, round_) for round_ in range(3)] == [[], [(0, 2)], []]
    blobs = tuple(unit.blob for unit in world.record(0).units)
    (old,) = next(one for one in world.wanted(Aggregate) if one.round == 1).request.retracted
    assert (old.updates, old.taken) == (blobs, (1,))


def test_what_does_not_fit_waits_oldest_first(make_world: MakeWorld) -> None:
    world = make_world(rounds=4)
    world.fits = 1
    world.open()
    play(world, 0, void=(1, 3))
    play(world, 1, void=(2,))
    play(world, 2)
    play(world, 3)
    assert [taken(world, round_) for round_ in range(4)] == [[], [(0, 1)], [(0, 3)], [(1, 2)]]


def test_nothing_is_weighed_while_nothing_waits(world: Any) -> None:
    world.open()
    for round_ in range(3):
        play(world, round_)
    assert not world.wanted(Weigh)


def test_a_round_that_merges_nothing_takes_nothing_back(make_world: MakeWorld) -> None:
    world = make_world(rounds=3)
    world.open()
    play(world, 0, void=(2,))
    world.commit(1)
    world.withheld = {1, 2, 3}
    world.reveal(1)
    world.mine(8)
    assert taken(world, 1) == []
    world.withheld = set()
    judge(world, 1)
    play(world, 2)
    assert (0, 2) in taken(world, 2)


def test_a_restart_while_it_is_weighed_gives_the_same_record(make_world: MakeWorld) -> None:
    undisturbed, killed = make_world(), make_world()
    killed.hold = {Weigh}
    for world in (undisturbed, killed):
        world.open()
        play(world, 0, void=(1,))
        world.commit(1)
        world.reveal(1)
    assert ("record", 1, 0) not in killed.statements
    killed.hold = set()
    killed.restart()
    assert killed.statements["record", 1, 0].id == undisturbed.statements["record", 1, 0].id
    killed.feed(Weighed(1, (), 0))
    assert taken(killed, 1) == [(0, 1)], "a second answer changes nothing"


def test_a_forged_residual_takes_back_the_chain_and_its_pay(make_world: MakeWorld) -> None:
    world = make_world(rounds=6)
    world.open()
    play(world, 0)
    world.commit(1)
    world.reveal(1)
    world.mine()
    # Round 1 is judged beside round 2, in which number 3 carries the same residual on; and then in round 3.
    world.commit(2)
    world.reveal(2)
    judge(world, 1, forged=(3,))
    world.mine()
    world.rule(1, "false", forged_residual=True)
    judge(world, 2)
    for round_ in (3, 4, 5):
        play(world, round_)
    world.mine(10)
    found = {(one.round, one.number): one for one in world.record(3).judged}
    assert (found[1, 3].outcome, found[1, 3].forged_residual) == ("false", True)
    assert found[1, 1].forged_residual is False
    assert taken(world, 3) == [(0, 3), (1, 3), (2, 3)]
    assert taken(world, 4) == [(3, 3)]
    unit = world.manifest.pay.unit_wei
    last = world.statements["rewards", 5, 2].body.entries
    pay = {int(entry.account, 16): entry.cumulative_wei for entry in last}
    assert (pay[1], pay[2]) == (6 * unit, 6 * unit)
    assert 3 not in pay, "epoch 0 is forfeit, and in epoch 1 both units carried what was forged"


def test_the_fullest_record_is_still_one_message(world: Any) -> None:
    root = "ab" * 32
    why = "same symbols as number 99999 in round 999999"
    unit = UnitRecord(number=99999, commitment=root, merged=False, reason=why, symbols=root, blob=root)
    judgement = Judgement(
        round=999_999, number=99999, segment=999, outcome="unjudged", heard=(99999,) * 3, wrong=(99999,)
    )
    record = RoundRecord(
        parameters=root,
        units=(unit.model_copy(update={"earlier": 20, "suspect": 20, "counts": False}),)
        * (MAX_LISTED + MAX_FORCED),
        judged=(judgement,) * MAX_JUDGED,
        receipts=(root,) * 16,
        retracted=(Retraction(round=999_999, number=99999),) * MAX_RETRACTED,
    )
    finish = Finish(parameters=root, judged=(judgement,) * MAX_CLOSING)
    for body in (record, finish):
        assert len(sign(COORDINATOR, world.manifest, 0, "coordinator", body).wire) < MAX_MESSAGE_BYTES
    entry = ReceivedUpdate(number=99999, symbols=root, blob=root)
    receipt = Receipt(number=99999, entries=(entry,) * (MAX_LISTED + MAX_FORCED))
    assert len(sign(COORDINATOR, world.manifest, 0, "contributor", receipt).wire) < MAX_MESSAGE_BYTES

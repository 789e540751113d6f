"""A witness objects to a joint update that is not its round's; whoever hears it looks for itself, once a liar."""

from __future__ import annotations

import pytest

from node.events import Aggregate, Recheck, Refuted, Stop, Train, Upheld
from node.objecting import MISTRUST
from protocol.messages import Objection
from tests.node.test_merging import PEERS, begin, joint_manifest, play, witness_of
from tests.node.test_retraction import void
from tests.node.world import Contributor, World, name, work

FAULT = "ab is not the joint update of the round's updates"


@pytest.fixture
def world() -> World:
    return World(joint_manifest())


def aggregated(world: World, round_: int, peers: list[Contributor], **record: object) -> None:
    """Live a round; everybody takes its outer step."""
    play(world, round_, peers, **record)
    for peer in peers:
        peer.do()


def object_to(world: World, round_: int, number: int, record: str | None = None) -> None:
    hash_ = record or world.chain.records[round_]
    world.say(round_, Objection(number=number, record=hash_), number)


def others(peers: list[Contributor], number: int) -> list[Contributor]:
    return [peer for peer in peers if peer.state.number != number]


def test_a_witness_says_that_a_joint_update_is_wrong_before_it_stops(world: World) -> None:
    peers = begin(world)
    play(world, 0, peers)
    number = witness_of(world, 0)
    witness = next(peer for peer in peers if peer.state.number == number)
    witness.refute(FAULT)
    assert world.pool.objections(0)[number].body.record == world.chain.records[0]
    assert isinstance(witness.effects[-1], Stop)
    assert witness.said("objection") == [0]
    again = witness.restarted()
    again.look()
    again.refute(FAULT)
    assert again.said("objection") == [0], "the same words, or the disk would protest"


def test_whoever_is_no_witness_refutes_without_a_word(world: World) -> None:
    peers = begin(world)
    play(world, 0, peers)
    (peer, *_) = others(peers, witness_of(world, 0))
    peer.refute(FAULT)
    assert peer.stops
    assert not peer.said("objection")


def test_an_objection_is_looked_into_before_the_next_outer_step(world: World) -> None:
    peers = begin(world)
    aggregated(world, 0, peers)
    number = witness_of(world, 0)
    object_to(world, 0, number)
    for peer in others(peers, number):
        peer.look()
        assert isinstance(peer.job, Train), "training goes on: it may be a liar"
    up_to_the_record(world, 1, peers)
    (first, second) = others(peers, number)
    assert isinstance(first.job, Recheck)
    assert first.job.objecting == {number}
    assert first.job.aggregate == Aggregate(
        0,
        world.parameters(0),
        world.pool.record(0).body.units,  # type: ignore[union-attr]
        joint=name("joint", 0),
        check=True,
    )
    assert first.job.aggregate.blobs == {name("joint", 0)} | {work(0, one).blob for one in PEERS}
    first.refute(FAULT)
    (stop,) = first.stops
    assert stop.error == f"the record of round 0 cannot be followed: {FAULT}"
    assert stop.hint == MISTRUST
    second.look()
    assert isinstance(second.job, Recheck)
    second.do()
    assert isinstance(second.job, Aggregate)
    assert second.job.round == 1
    assert not second.stops


def test_who_objected_without_reason_is_not_listened_to_again() -> None:
    world = World(joint_manifest(witnesses=3))
    peers = begin(world)
    first = peers[0]
    aggregated(world, 0, peers)
    object_to(world, 0, 2)
    for peer in peers:
        peer.do()
    up_to_the_record(world, 1, peers)
    assert isinstance(first.job, Recheck)
    first.do()
    assert first.state.groundless == {2}
    for peer in peers:
        while not isinstance(peer.job, Train):
            peer.do()
    object_to(world, 1, 2)
    first.look()
    up_to_the_record(world, 2, peers)
    assert isinstance(first.job, Aggregate), "of a liar nothing is believed"
    object_to(world, 1, 3)
    first.look()
    assert isinstance(first.job, Recheck), "of another it is, even after the step began"
    assert (first.job.round, first.job.objecting) == (1, {3})


def up_to_the_record(world: World, round_: int, peers: list[Contributor]) -> None:
    """Live a round up to the job that follows from its record."""
    for peer in peers:
        if isinstance(peer.job, Train):
            peer.do()
    world.post(round_)
    for _ in range(2):
        for peer in peers:
            peer.look()
    world.anchor(round_)
    world.mine()
    for peer in peers:
        peer.look()


def test_words_of_others_and_about_other_records_are_nothing(world: World) -> None:
    peers = begin(world)
    aggregated(world, 0, peers)
    number = witness_of(world, 0)
    (first, second) = others(peers, number)
    object_to(world, 0, second.state.number)
    object_to(world, 0, number, record=name("another record"))
    up_to_the_record(world, 1, peers)
    assert isinstance(first.job, Aggregate)


def test_an_objection_to_the_last_round_is_looked_into_before_the_end(world: World) -> None:
    peers = begin(world)
    rounds = world.manifest.rounds
    for round_ in range(rounds):
        aggregated(world, round_, peers)
    number = witness_of(world, rounds - 1)
    (first, _) = others(peers, number)
    object_to(world, rounds - 1, number)
    world.finish(world.parameters(rounds))
    first.look()
    assert isinstance(first.job, Recheck)
    assert not first.stops
    first.refute(FAULT)
    assert first.stops[0].error is not None


def test_what_a_round_took_back_is_looked_into_with_it(world: World) -> None:
    peers = begin(world)
    aggregated(world, 0, peers)
    aggregated(world, 1, peers, **void(2))
    number = witness_of(world, 1)
    (first, _) = others(peers, number)
    object_to(world, 1, number)
    again = first.restarted()
    again.look()
    up_to_the_record(world, 2, [again, *(peer for peer in peers if peer is not first)])
    assert isinstance(again.job, Recheck)
    (taken,) = again.job.aggregate.retracted
    assert taken.joint == name("joint", 0)


@pytest.mark.parametrize("event", [Refuted(5, "late"), Upheld(5)])
def test_an_answer_about_another_round_is_passed_over(world: World, event: Refuted | Upheld) -> None:
    peers = begin(world)
    aggregated(world, 0, peers)
    number = witness_of(world, 0)
    object_to(world, 0, number)
    up_to_the_record(world, 1, peers)
    (first, _) = others(peers, number)
    before = first.state
    first._take(event)
    assert first.state == before
    assert isinstance(first.job, Recheck)

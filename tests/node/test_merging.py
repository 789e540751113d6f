"""With joint updates a contributor fetches one file a round; its witnesses fetch all, and check it."""

from __future__ import annotations

import pytest

from node.events import Aggregate, Refuted, Restore, Train
from node.keeping import restore
from node.merging import shelved
from node.objecting import MISTRUST
from protocol.joint import Returned
from protocol.manifest import RunManifest
from protocol.messages import Judgement, RoundRecord
from tests.node.test_retraction import void
from tests.node.world import Contributor, World, manifest, name, work
from training.workbench import RetractedRound

PEERS = (1, 2, 3)


def joint_manifest(witnesses: int = 1, **changes: object) -> RunManifest:
    verification = {
        "schedule": {"fresh_probability": 1.0},
        "witnesses": witnesses,
    }
    return manifest(merging={"joint_k": 512}, verification=verification, **changes)


@pytest.fixture
def world() -> World:
    return World(joint_manifest())


def begin(world: World) -> list[Contributor]:
    return [Contributor(world, number).ready_to_train() for number in PEERS]


def play(world: World, round_: int, peers: list[Contributor], **record: object) -> dict[int, Aggregate]:
    """Live a round up to its record; return the jobs that follow from it."""
    for peer in peers:
        peer.look()
        peer.do()
    world.post(round_)
    for _ in range(2):  # reveals, and then the witnesses' fetches
        for peer in peers:
            peer.look()
    made: RoundRecord = world.record(round_, parameters=peers[0].state.parameters)
    world.anchor(round_, made.model_copy(update=record))
    world.mine()
    jobs = {}
    for peer in peers:
        peer.look()
        assert isinstance(peer.job, Aggregate)
        jobs[peer.state.number] = peer.job
    return jobs


def witness_of(world: World, round_: int) -> int:
    """Return the one who holds what others made."""
    (number,) = (one for one in PEERS if shelved(world.manifest, world.chain, one)(round_, 10 + one))
    return number


def test_one_file_is_fetched_in_the_place_of_all_but_by_the_witness(world: World) -> None:
    peers = begin(world)
    jobs = play(world, 0, peers)
    witness = witness_of(world, 0)
    updates = {work(0, number).blob for number in PEERS}
    for number, job in jobs.items():
        assert job.joint == name("joint", 0)
        assert job.check == (number == witness)
        assert job.blobs == ({job.joint} | updates if job.check else {job.joint})
    for peer in peers:
        peer.do()
        assert name("joint", 0) in peer.disk.blobs
        others = updates - {work(0, peer.state.number).blob}
        assert others <= peer.disk.blobs or not (others & peer.disk.blobs)
        assert (others <= peer.disk.blobs) == (peer.state.number == witness)


def test_what_was_left_out_comes_back_to_who_moved_the_parameters(world: World) -> None:
    peers = begin(world)
    play(world, 0, peers)
    for peer in peers:
        peer.do()
        assert isinstance(peer.job, Train)
        assert peer.job.returned == Returned(update=work(0, peer.state.number).blob, joint=name("joint", 0))
    first = peers[0]
    first.do()
    unit = first.state.units[1]
    assert unit.returned is not None
    assert {*unit.returned.blobs} <= unit.files & unit.seeds
    assert not first.state.withheld & {*unit.returned.blobs}, "both are public"
    again = first.restarted()
    again.look()
    assert again.state.units[1].returned == unit.returned


def test_nothing_comes_back_of_a_unit_that_was_judged_void(world: World) -> None:
    peers = begin(world)
    play(world, 0, peers)
    for peer in peers:
        peer.do()
    judged = (Judgement(round=0, number=2, segment=0, outcome="void"),)
    play(world, 1, peers, judged=judged)
    for peer in peers:
        peer.do()
        assert isinstance(peer.job, Train)
        assert (peer.job.returned is None) == (peer.state.number == 2)
        assert (peer.job.residual is None) == (peer.state.number == 2)


def test_a_restarted_peer_waits_for_the_record_that_says_what_comes_back(world: World) -> None:
    peers = begin(world)
    play(world, 0, peers)
    for peer in peers:
        peer.do()
    kept = world.chain.records.pop(0)
    again = peers[0].restarted()
    again.look()
    assert again.job is None
    world.chain.records[0] = kept
    again.look()
    assert isinstance(again.job, Train)
    assert again.job.returned is not None


def test_a_unit_is_computed_again_from_what_came_back_to_it(world: World) -> None:
    peers = begin(world)
    play(world, 0, peers)
    for peer in peers:
        peer.do()
    first = peers[0]
    before = first.job
    first.do()
    unit = first.state.units[1]
    first.disk.blobs -= {files.parameters for files in unit.work.segments}
    world.post(1)
    for peer in peers[1:]:
        peer.do()
    again = first.restarted()
    again.look()
    assert 1 in again.state.dropped
    job = Restore(1, before, unit.work)  # type: ignore[arg-type]
    assert restore(again.state.units, {1}, {1: before.beacon}) == job  # type: ignore[union-attr]


def test_whoever_finds_another_joint_update_stops(world: World) -> None:
    peers = begin(world)
    play(world, 0, peers)
    witness = next(peer for peer in peers if peer.state.number == witness_of(world, 0))
    witness.refute("ab is not the joint update of the round's updates")
    (stop,) = witness.stops
    assert stop.error == (
        "the record of round 0 cannot be followed: ab is not the joint update of the round's updates"
    )
    assert stop.hint == MISTRUST
    other = next(peer for peer in peers if peer is not witness)
    assert not other.stops


def test_a_refusal_of_another_rounds_step_is_passed_over(world: World) -> None:
    peers = begin(world)
    play(world, 0, peers)
    state = peers[0].state
    peers[0]._take(Refuted(5, "late"))
    assert not peers[0].stops
    assert peers[0].state == state


def test_taking_back_needs_the_joint_update_of_the_round_and_all_that_it_was_made_of(world: World) -> None:
    peers = begin(world)
    play(world, 0, peers)
    for peer in peers:
        peer.do()
    jobs = play(world, 1, peers, **void(2))
    blobs = tuple(work(0, number).blob for number in PEERS)
    joint = name("joint", 0)
    for job in jobs.values():
        assert job.retracted == (RetractedRound(updates=blobs, weights=(1, 1, 1), taken=(1,), joint=joint),)
        assert job.old == {*blobs, joint}


def test_a_contributor_holds_its_own_updates_and_those_that_it_witnessed(world: World) -> None:
    begin(world)
    for number in PEERS:
        holds = shelved(world.manifest, world.chain, number)
        assert holds(0, number)
        assert {holds(0, other) for other in PEERS if other != number} == {number == witness_of(world, 0)}
    everybody = shelved(manifest(), world.chain, 1)
    assert all(everybody(0, number) for number in PEERS)

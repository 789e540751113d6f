"""A contributor whom the coordinator leaves out, and what keeps it from paying gas for nothing."""

from __future__ import annotations

import pytest

from node.events import Force, Publish, Receive, Start, Train
from node.facts import RoundFacts
from node.forcing import forcing_due
from node.unit import message_id
from protocol.chain import PostedRoot
from protocol.merkle import commitments_root
from protocol.messages import CommitmentEntry, CommitmentList, Receipt, Reveal, UnitRecord
from tests.node.test_machine import round_of
from tests.node.world import Contributor, World, name, unit_of, work
from training.assignment import assignment, assignment_digest
from verification.inclusion import MAX_FORCED, MAX_LISTED

WINDOW = 4


def left_out(world: World, number: int = 1) -> Contributor:
    """Bring a contributor to the point where a list without it is on chain."""
    world.chain.force_blocks = WINDOW
    peer = Contributor(world, number).ready_to_train()
    peer.do()
    world.post(0, without=[number])
    return peer


def forced(peer: Contributor) -> list[Force]:
    return [effect for effect in peer.effects if isinstance(effect, Force)]


def test_left_out_of_the_list_it_forces_its_commitment_in_and_goes_on_as_if_listed() -> None:
    world = World()
    peer = left_out(world)
    peer.look()
    ours = peer.disk.units[0].commitment_id
    assert forced(peer) == [Force(0, ours, world.chain.posted[0].block + WINDOW)]
    assert world.chain.forced(0) == {1: ours}
    assert peer.said("reveal") == [0]
    assert peer.state.phase == "revealed"
    world.mine(WINDOW)
    world.anchor(0)
    world.mine()
    peer.look()
    peer.do()
    assert isinstance(peer.job, Train)
    assert peer.job.moments == work(0, 1).moments, "it carries on from this unit"
    assert len(forced(peer)) == 1


def test_until_the_chain_has_it_nothing_is_revealed() -> None:
    world = World()
    peer = left_out(world)
    world.mine(WINDOW - 1)
    world.force = lambda *_: None  # type: ignore[method-assign]  # no block takes it
    peer.look()
    assert (len(forced(peer)), peer.said("reveal"), peer.state.phase) == (1, [], "forcing in")
    world.mine()
    peer.look()
    assert peer.said("reveal") == []


def test_a_restart_between_list_and_block_forces_it_in_again_and_tells_it_again() -> None:
    world = World()
    peer = left_out(world)
    world.force = lambda *_: None  # type: ignore[method-assign]
    peer.look()
    again = peer.restarted()
    again.look()
    assert (len(forced(again)), again.said("commitment")) == (1, [0])


def test_who_is_listed_forces_nothing() -> None:
    world = World()
    world.chain.force_blocks = WINDOW
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    assert forced(peer) == []


def test_who_made_no_commitment_before_the_root_forces_nothing() -> None:
    world = World()
    world.chain.force_blocks = WINDOW
    peer = Contributor(world, 1).ready_to_train()
    world.post(0)
    peer.look()
    assert (forced(peer), peer.job) == ([], None), "training for this round is over"


def test_a_closed_window_is_left_alone() -> None:
    world = World()
    peer = left_out(world)
    world.mine(WINDOW)
    peer.look()
    assert (forced(peer), peer.state.phase) == ([], "left out")


def test_a_record_that_says_the_unit_does_not_count_ends_it() -> None:
    world = World()
    peer = left_out(world)
    peer.look()
    world.mine(WINDOW)
    record = world.record(0)
    nothing = {"counts": False, "merged": False, "reason": "late: not told", "symbols": None, "blob": None}
    world.anchor(0, record.model_copy(update={"units": (record.units[0].model_copy(update=nothing),)}))
    world.mine()
    peer.look()
    peer.do()
    assert isinstance(peer.job, Train)
    assert peer.job.moments is None
    assert 0 in peer.disk.released


LIST = CommitmentList(entries=(CommitmentEntry(number=2, commitment="ab" * 32),))
OURS = "cd" * 32


def facts(listed: CommitmentList | None = LIST, *forced_in: CommitmentEntry, window: int = 8) -> RoundFacts:
    posted = PostedRoot(commitments_root(listed or LIST), len((listed or LIST).entries), 100)
    return RoundFacts(posted=posted, force_by=100 + window, announced=listed, forced=forced_in)


def entries(count: int, first: int = 2) -> tuple[CommitmentEntry, ...]:
    return tuple(CommitmentEntry(number=first + place, commitment="ab" * 32) for place in range(count))


@pytest.mark.parametrize(
    ("known", "height", "due"),
    [
        (facts(), 100, True),
        (facts(), 107, True),
        (facts(), 108, False),  # the next block is too late
        (facts(None), 105, False),  # the list may be on its way
        (facts(None), 106, True),  # no later: it may be kept from us
        (facts(None, window=2), 100, False),
        (facts(None, window=2), 101, True),
        (facts(LIST, CommitmentEntry(number=1, commitment=OURS)), 101, False),  # there already
        (facts(LIST, CommitmentEntry(number=1, commitment="ef" * 32)), 101, False),  # another of ours
        (facts(CommitmentList(entries=entries(1, first=1))), 101, False),  # another of ours is listed
        (facts(CommitmentList(entries=entries(MAX_LISTED))), 101, True),
        (
            facts(CommitmentList(entries=entries(MAX_LISTED)), *entries(MAX_FORCED, 900)),
            101,
            False,
        ),  # no room
        (RoundFacts(), 101, False),
    ],
)
def test_it_is_forced_in_where_that_brings_something(known: RoundFacts, height: int, due: bool) -> None:
    found = forcing_due(known, height, 0, 1, OURS)
    assert (found is not None) == due
    assert found is None or found == Force(0, OURS, known.force_by or 0)


def sound_commitment(world: World, number: int, **changes: object) -> str:
    """Let a number tell a commitment that keeps the public rules but for changes; return its id."""
    beacon = world.chain.assignment_beacon(0)
    assert beacon is not None
    drawn = assignment_digest(assignment(world.manifest, beacon, 0, number))
    made = work(0, number, world.manifest.segments)
    unit = unit_of(world.manifest, 0, made.model_copy(update={"assignment": drawn}), None, number)
    start = {"parameters": world.parameters(0)}
    body = unit.commitment.model_copy(update=start | changes)
    world.say(0, body, number)
    id_ = message_id(world.manifest, 0, body)
    world.say(
        0,
        Reveal(
            number=number,
            commitment=id_,
            symbols=made.symbols,
            salt=name("salt", 0),
            blob=made.blob,
            blob_bytes=100,
            train_cpu_s=1.0,
        ),
        number,
    )
    return id_


def watching(world: World, **changes: object) -> tuple[Contributor, str]:
    """Return a witness before a list that names it alone, and the commitment that number 2 has told."""
    world.chain.force_blocks = WINDOW
    peer = Contributor(world, 1).ready_to_train()
    peer.do()
    told = sound_commitment(world, 2, **changes)
    world.post(0, without=[2])
    return peer, told


def receipts(peer: Contributor) -> list[list[int]]:
    said = [effect.body for effect in peer.effects if isinstance(effect, Publish)]
    return [[entry.number for entry in body.entries] for body in said if isinstance(body, Receipt)]


def test_a_witness_signs_only_once_nobody_can_be_forced_in_any_more_and_names_who_was() -> None:
    world = World()
    peer, told = watching(world)
    peer.look()
    assert receipts(peer) == [], "everything listed is here, but somebody may be forced in"
    world.force(0, 2, told)
    peer.look()
    assert 2 in {effect.reveal.number for effect in peer.effects if isinstance(effect, Receive)}
    world.mine(WINDOW)
    peer.look()
    assert receipts(peer) == [[1, 2]]


def test_where_everybody_is_listed_a_witness_does_not_wait_for_the_window() -> None:
    world = World()
    world.chain.force_blocks = WINDOW
    peers = [Contributor(world, number).ready_to_train() for number in (1, 2, 3)]
    for peer in peers:
        peer.do()
    world.post(0)
    for peer in [*peers, *peers]:
        peer.look()
    assert [receipts(peer) for peer in peers] == [[[1, 2, 3]]] * 3


def test_a_witness_does_not_wait_for_what_nobody_told() -> None:
    world = World()
    peer, _ = watching(world)
    world.force(0, 2, "ab" * 32)
    world.mine(WINDOW)
    peer.look()
    assert receipts(peer) == [[1]]


@pytest.mark.parametrize("broken", ["parameters", "assignment", "moments_before"])
def test_a_witness_neither_waits_for_nor_names_a_forced_commitment_that_breaks_a_rule(broken: str) -> None:
    world = World()
    peer, told = watching(world, **{broken: "ab" * 32})
    world.force(0, 2, told)
    world.mine(WINDOW)
    peer.look()
    assert receipts(peer) == [[1]]


def test_what_was_forced_in_is_aggregated_like_anything_else() -> None:
    world = World()
    peer, told = watching(world)
    world.force(0, 2, told)
    world.mine(WINDOW)
    peer.look()
    record = world.record(0)
    assert [(unit.number, unit.merged) for unit in record.units] == [(1, True), (2, True)]
    assert all(isinstance(unit, UnitRecord) and unit.counts for unit in record.units)
    world.anchor(0, record)
    peer.look()
    started = [effect.job for effect in peer.effects if isinstance(effect, Start)]
    assert [unit.number for unit in started[-1].units] == [1, 2]  # type: ignore[union-attr]

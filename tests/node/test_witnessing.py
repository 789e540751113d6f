"""What a drawn witness fetches, signs, and never signs twice."""

from __future__ import annotations

from node.events import Aggregate, Publish, Receive, StopReceiving, Sweep
from protocol.messages import Receipt, sign
from tests.node.test_machine import round_of
from tests.node.world import Contributor, World, manifest, work
from tests.verification.testbed import key
from verification.witness import check_receipt


def revealing(world: World, *, silent: int | None = None) -> list[Contributor]:
    """Bring three contributors to the point where the list is on chain, and reveal all but one."""
    peers = [Contributor(world, number).ready_to_train() for number in (1, 2, 3)]
    for peer in peers:
        peer.do()
    world.post(0)
    for peer in peers:
        if peer.state.number != silent:
            peer.look()
    return peers


def signed(peer: Contributor) -> list[Receipt]:
    published = [effect.body for effect in peer.effects if isinstance(effect, Publish)]
    return [body for body in published if isinstance(body, Receipt)]


def named(peer: Contributor) -> list[int]:
    (receipt,) = signed(peer)
    return [entry.number for entry in receipt.entries]


def test_a_witness_signs_once_every_listed_update_is_here() -> None:
    world = World()
    one = revealing(world)[0]
    assert signed(one) == [], "two and three had not revealed when it looked"
    one.look()
    assert named(one) == [1, 2, 3]
    (receipt,) = signed(one)
    check_receipt(receipt, (1, 2, 3), (1, 2, 3))
    assert [entry.blob for entry in receipt.entries] == [work(0, number).blob for number in (1, 2, 3)]
    one.look()
    assert len(signed(one)) == 1
    assert world.pool.receipts(0)[1].body == receipt


def test_what_does_not_come_until_the_reveals_close_is_not_named() -> None:
    world = World()
    world.withheld = {2}
    one = revealing(world)[0]
    world.mine(world.manifest.deadlines.reveal - 1)
    one.look()
    assert signed(one) == []
    world.mine()
    one.look()
    assert named(one) == [1, 3]
    assert one.effects.count(StopReceiving()) == 1
    world.withheld = set()
    one.look()
    assert len(signed(one)) == 1


def test_a_reveal_that_comes_late_is_not_fetched() -> None:
    world = World()
    one, _, three = revealing(world, silent=3)
    one.look()
    world.mine(world.manifest.deadlines.reveal)
    one.look()
    assert named(one) == [1, 2]
    three.look()
    one.look()
    assert [e.reveal.number for e in one.effects if isinstance(e, Receive)] == [1, 2]


def test_bytes_that_are_not_the_update_are_not_named_and_not_waited_for() -> None:
    world = World()
    world.damaged = {2}
    one = revealing(world)[0]
    one.look()
    assert named(one) == [1, 3]


def test_a_reveal_that_does_not_open_its_commitment_is_not_fetched() -> None:
    world = World()
    one, _, three = revealing(world, silent=3)
    unit = three.state.units[0]
    forged = world.pool.reveals(0)[1].body.model_copy(
        update={"number": 3, "commitment": unit.commitment_id, "salt": unit.salt}
    )
    world.pool.add(sign(key(3), world.manifest, 0, "contributor", forged))
    one.look()
    assert {e.reveal.number for e in one.effects if isinstance(e, Receive)} == {1, 2}


def test_who_is_not_drawn_fetches_nothing_before_the_record() -> None:
    world = World(manifest(verification={"witnesses": 0}))
    one = revealing(world)[0]
    one.look()
    assert signed(one) == []
    assert not any(isinstance(effect, Receive) for effect in one.effects)
    world.anchor(0)
    one.look()
    assert isinstance(one.job, Aggregate)


def test_what_was_received_stays_until_it_is_aggregated() -> None:
    world = World()
    one = revealing(world)[0]
    one.look()
    blobs = {work(0, number).blob for number in (1, 2, 3)}
    assert blobs <= one.disk.blobs
    swept = len(one.effects)
    world.anchor(0)
    one.look()
    assert blobs <= one.disk.blobs
    assert isinstance(one.job, Aggregate)
    assert set(one.job.moving.updates) == blobs
    one.do()
    assert all(effect.keep >= blobs for effect in one.effects[swept:] if isinstance(effect, Sweep))


def test_a_record_ends_the_watch() -> None:
    world = World()
    world.withheld = {2}
    one = revealing(world)[0]
    one.look()
    world.anchor(0)
    one.look()
    assert one.effects.count(StopReceiving()) == 1
    assert signed(one) == [], "the record is written"
    world.mine(100)
    one.look()
    assert signed(one) == []


def test_after_a_restart_it_repeats_what_it_signed() -> None:
    world = World()
    world.withheld = {2}
    one = revealing(world)[0]
    one.look()
    world.mine(world.manifest.deadlines.reveal)
    one.look()
    assert named(one) == [1, 3]
    world.withheld = set()
    again = one.restarted()
    again.look()
    assert signed(again) == signed(one)
    assert again.said("receipt") == [0]


def test_without_its_journal_it_signs_no_second_receipt() -> None:
    world = World()
    one = revealing(world)[0]
    one.look()
    fresh = Contributor(world, 1)
    fresh.look()
    assert signed(fresh) == []


def test_who_was_away_while_the_updates_came_says_nothing() -> None:
    world = World()
    late = revealing(world)[0].restarted()
    world.mine(world.manifest.deadlines.reveal)
    late.look()
    assert signed(late) == []


def test_a_follower_that_did_not_commit_witnesses_too() -> None:
    world = World()
    world.mine(world.manifest.deadlines.commit + 1)
    peer = Contributor(world, 1).ready_to_train()
    assert peer.job is None
    world.post(0)
    peer.look()
    assert named(peer) == []


def test_every_round_is_witnessed_and_nothing_piles_up() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    for round_ in range(3):
        round_of(world, round_, peer)
    assert peer.said("receipt") == [0, 1, 2]
    assert peer.arriving == []

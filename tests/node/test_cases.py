"""What a contributor does when somebody brings its unit before the jury: it opens the segment, for its stake's sake."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.events import Publish, Release, Restore, Train
from node.unit import opening
from protocol.messages import Opening
from tests.node.test_machine import EVERYBODY, round_of
from tests.node.world import Contributor, World, manifest, name, unit_of, work


def opened(peer: Contributor) -> list[tuple[int, int, int]]:
    """Return the openings said, as (round, case, segment)."""
    bodies = [(one.round, one.body) for one in peer.effects if isinstance(one, Publish)]
    return [(round_, body.case, body.segment) for round_, body in bodies if isinstance(body, Opening)]


def accused(world: World, peer: Contributor, segment: int, *, contests: bool = False) -> int:
    """Bring a segment of number 1's unit of round 0 before the jury, and let the peer see it."""
    case = world.chain.open_case(0, 1, segment, contests=contests)
    peer.look()
    return case


def lived(world: World) -> Contributor:
    """Return a contributor with a unit in round 0."""
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    return peer


def test_an_accused_segment_is_opened_at_once_ends_included() -> None:
    world = World()
    peer = lived(world)
    assert opened(peer) == []
    case = accused(world, peer, 3)
    assert opened(peer) == [(0, case, 3)]
    made, unit = work(0, 1), peer.disk.units[0]
    body = world.pool.openings(0)[1, case].body
    assert body == opening(unit, 3, case)
    assert (body.end_parameters, body.final_moments) == (
        made.segments[4].parameters,
        made.segments[-1].moments,
    )
    ends = {made.segments[4].parameters, made.segments[4].moments, made.segments[-1].parameters}
    assert ends <= peer.state.opened[0], "a jury seals no fingerprints that its end could be copied into"
    assert not ends & peer.state.withheld
    assert made.segments[2].parameters in peer.state.withheld, "nobody asked for another segment"


def test_a_contest_of_ones_own_is_opened_too() -> None:
    world = World()
    peer = lived(world)
    case = accused(world, peer, 2, contests=True)
    assert opened(peer) == [(0, case, 2)]


def test_each_case_is_opened_once_beside_the_draw_and_other_cases() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = lived(world)
    ((_, _, drawn),) = opened(peer)
    other = (drawn + 1) % world.manifest.segments
    cases = [accused(world, peer, drawn), accused(world, peer, other)]
    peer.look()
    assert opened(peer) == [(0, 0, drawn), (0, cases[0], drawn), (0, cases[1], other)]
    made = work(0, 1)
    asked = {made.segments[i].parameters for i in (drawn, drawn + 1, other, other + 1)}
    assert asked <= peer.state.opened[0]
    again = peer.restarted()
    again.look()
    assert sorted(opened(again)) == sorted(opened(peer)), "said again, as the journal holds it"


def test_a_case_that_comes_too_late_for_pay_is_opened_all_the_same() -> None:
    world = World()
    peer = lived(world)
    world.mine_to_window(0)
    world.chain.height -= 1
    peer.look()
    assert Release(0) not in peer.effects
    case = accused(world, peer, 1)
    assert world.chain.cases(0)[0].block == world.chain.anchors[0] + world.manifest.penalties.window
    assert opened(peer) == [(0, case, 1)]
    world.mine(1000)
    peer.look()
    assert 0 not in peer.disk.released, "its jury has not closed it"
    assert work(0, 1).segments[2].parameters in peer.disk.blobs


def test_what_was_opened_for_a_case_goes_once_the_jury_has_closed_it() -> None:
    world = World()
    peer = lived(world)
    case = accused(world, peer, 1)
    world.chain.close_case(case, 1)
    peer.look()
    assert 0 not in peer.state.opened
    assert 0 not in peer.disk.released, "another segment can still be accused"
    assert accused(world, peer, 4) == case + 1
    assert opened(peer) == [(0, case, 1), (0, case + 1, 4)]
    world.chain.close_case(case + 1, 1)
    world.mine_to_window(0)
    world.mine()
    peer.look()
    assert 0 in peer.disk.released


def test_a_case_is_answered_after_the_run_is_finished() -> None:
    world = World(manifest(rounds=1))
    peer = lived(world)
    world.finish(world.parameters(1))
    peer.look()
    case = accused(world, peer, 2)
    assert opened(peer) == [(0, case, 2)]
    world.mine_to_window(0)
    world.mine()
    peer.look()
    assert peer.stops == [], "the jury has still to fetch it"
    world.chain.close_case(case, 1)
    peer.look()
    assert [stop.error for stop in peer.stops] == [None]


def test_nobody_is_answered_about_another_peers_unit_or_a_segment_that_is_not_there() -> None:
    world = World()
    peer = lived(world)
    world.chain.open_case(0, 2, 1)
    world.chain.open_case(0, 1, world.manifest.segments)
    peer.look()
    assert opened(peer) == []


def test_a_case_about_a_commitment_that_the_list_left_out_is_not_answered() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    peer.do()
    world.post(0, without=[1])
    world.anchor(0)
    world.mine()
    accused(world, peer, 1)
    assert opened(peer) == [], "it is nobody's unit"
    assert Release(0) in peer.effects


def test_states_that_were_dropped_are_computed_again_for_a_case() -> None:
    world = World()
    peer = Contributor(world, 1, state_cap=0).ready_to_train()
    round_of(world, 0, peer)
    assert peer.state.dropped == {0}
    assert isinstance(peer.job, Train)
    accused(world, peer, 1)
    assert isinstance(peer.job, Train), "what is under way is finished first"
    peer.do()
    assert isinstance(peer.job, Restore)
    peer.do()
    assert 0 not in peer.state.dropped
    assert work(0, 1).segments[2].parameters in peer.disk.blobs


def test_the_chain_says_how_long_the_jury_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    peer = lived(world)
    held = world.chain.penalties()
    longer = replace(held, window_blocks=held.window_blocks + 50)
    monkeypatch.setattr(world.chain, "penalties", lambda: longer)
    world.mine_to_window(0)
    world.mine(50)
    peer.look()
    assert 0 not in peer.disk.released, "whatever the manifest says"
    world.mine()
    peer.look()
    assert 0 in peer.disk.released


def test_what_a_case_opens_is_the_same_as_what_a_draw_opens_but_for_the_case() -> None:
    world = World()
    unit = unit_of(world.manifest, 0, work(0, 1), None)
    drawn, asked = opening(unit, 2), opening(unit, 2, 7)
    assert asked.model_copy(update={"case": 0}) == drawn
    assert name("salt", 0) == drawn.salt

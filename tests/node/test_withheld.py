"""What of a unit a contributor gives away, and when."""

from __future__ import annotations

from protocol.messages import Seal, UnitRecord
from tests.node.test_machine import EVERYBODY, round_of
from tests.node.world import Contributor, World, manifest, name, work
from verification.sample import draws


def test_a_drawn_unit_serves_its_start_and_the_end_only_once_verifiers_have_sealed() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    made = work(0, 1)
    states = {address for files in made.segments for address in (files.parameters, files.moments)}
    peer.do()
    assert states | {made.residual} <= peer.state.withheld | {world.parameters(0)}, "nothing is asked for yet"
    world.post(0)
    peer.look()
    world.anchor(0)
    world.mine()
    peer.look()
    opening = world.pool.openings(0)[1, 0].body
    start = {opening.start_parameters, opening.start_moments}
    ends = {opening.end_parameters, opening.end_moments, opening.final_parameters}
    assert not start & peer.state.withheld
    assert ends <= peer.state.withheld
    assert made.blob not in peer.state.withheld

    def seal(verifier: int) -> Seal:
        return Seal(
            number=1,
            verifier=verifier,
            commitment=opening.commitment,
            opening=name("opening"),
            segment=opening.segment,
            seal=name("seal", verifier),
        )

    drawn = draws(
        world.manifest,
        world.manifest.run_id,
        world.chain.sampling_beacon(0) or "",
        0,
        [UnitRecord(number=1, commitment=opening.commitment, merged=True)],
        [7, 8, 9],
    )
    first, second, third = drawn[0].verifiers
    for verifier in (first, third):
        world.say(0, seal(verifier), verifier)
        peer.look()
        assert ends <= peer.state.withheld, "one of the first two has not sealed"
    again = peer.restarted()
    assert ends <= again.state.withheld
    world.say(0, seal(second), second)
    for one in (peer, again):
        one.look()
        assert not (start | ends) & one.state.withheld
        assert states - start - ends <= one.state.withheld | {world.parameters(0)}


def test_one_seal_is_enough_when_half_the_time_for_verdicts_is_over() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    opening = world.pool.openings(0)[1, 0].body
    world.mine(world.manifest.deadlines.verify // 2)
    peer.look()
    assert opening.end_moments in peer.state.withheld, "nobody has sealed"
    seal = Seal(
        number=1,
        verifier=8,
        commitment=opening.commitment,
        opening=name("opening"),
        segment=opening.segment,
        seal=name("seal"),
    )
    world.say(0, seal, 8)
    peer.look()
    assert opening.end_moments not in peer.state.withheld

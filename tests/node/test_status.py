"""What a contributor's status counts, from public facts alone."""

from __future__ import annotations

from node.status import Tally
from protocol.messages import REJECTED, Judgement, Verdict
from tests.node.test_machine import EVERYBODY, round_of
from tests.node.world import Contributor, World, manifest


def tally(world: World, number: int = 1) -> Tally:
    return Tally(world.manifest, world.manifest.run_id, number)


def test_units_are_counted_by_how_far_they_came() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    counted = tally(world)
    counted.update(world.chain, world.pool)
    assert counted.counts.committed == 0
    round_of(world, 0, peer)
    peer.do()
    world.post(1)
    verdict = Verdict(
        number=1,
        verifier=7,
        outcome=REJECTED,
        commitment=peer.disk.units[0].commitment_id,
        opening=None,
        profile="cpu-fp32",
        segment=0,
        reason="not opened",
        distance=0.0,
        tensor="",
        replay_cpu_s=0.0,
    )
    world.say(0, verdict, 7)
    world.anchor(1, world.record(1, judged=(Judgement(round=0, number=1, segment=0, outcome="void"),)))
    world.mine()
    counted.update(world.chain, world.pool)
    counts = counted.counts
    assert (counts.committed, counts.merged, counts.drawn) == (2, 1, 2)
    assert (counts.passed, counts.void, counts.false, counts.unjudged) == (0, 1, 0, 0)
    assert list(counted.recent) == [{"round": 0, "outcome": "void", "reasons": ["not opened"]}]
    counted.update(world.chain, world.pool)
    assert counts.committed == 2, "nothing is counted twice"


def test_another_peers_units_are_not_ours() -> None:
    world = World()
    round_of(world, 0, Contributor(world, 1).ready_to_train())
    counted = tally(world, 2)
    counted.update(world.chain, world.pool)
    assert counted.counts.committed == 0


def test_a_record_that_is_not_the_anchored_one_is_not_counted() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    peer.do()
    world.post(0)
    world.anchor(0, hash_="ab" * 32)
    world.mine()
    counted = tally(world)
    counted.update(world.chain, world.pool)
    assert counted.counts.committed == 0


def test_outcomes_after_the_last_record_count_once() -> None:
    world = World(manifest(rounds=1, verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    world.finish(world.parameters(1), (Judgement(round=0, number=1, segment=0, outcome="passed"),))
    counted = tally(world)
    for _ in range(2):
        counted.update(world.chain, world.pool)
    assert counted.counts.passed == 1


def test_a_unit_of_a_void_round_counts_as_committed_only() -> None:
    world = World(manifest(rounds=1, verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    peer.do()
    world.post(0)
    peer.look()
    world.mine(world.manifest.deadlines.reveal + world.manifest.deadlines.record)
    world.anchor(0)
    world.mine()
    counted = tally(world)
    counted.update(world.chain, world.pool)
    assert (counted.counts.committed, counted.counts.merged, counted.counts.drawn) == (1, 0, 0)


def test_a_case_changes_what_a_unit_is_and_adds_none() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    counted = tally(world)
    round_of(world, 0, peer)
    peer.do()
    world.post(1)
    void = Judgement(round=0, number=1, segment=2, outcome="void")
    contested = void.model_copy(update={"case": 3, "outcome": "passed"})
    world.anchor(1, world.record(1, judged=(void, contested)))
    world.mine(1)
    counted.update(world.chain, world.pool)
    assert (counted.counts.void, counted.counts.passed) == (0, 1)
    assert [one["outcome"] for one in counted.recent] == ["void", "passed"]


def test_a_forced_unit_that_the_record_ignores_or_lacks_is_shown() -> None:
    for lacks in (False, True):
        world = World()
        world.chain.force_blocks = 2
        peer = Contributor(world, 1).ready_to_train()
        peer.do()
        world.post(0, without=[1])
        peer.look()
        record = world.record(0)
        nothing = {
            "counts": False,
            "merged": False,
            "reason": "late: not told",
            "symbols": None,
            "blob": None,
        }
        units = () if lacks else (record.units[0].model_copy(update=nothing),)
        world.mine(2)
        world.anchor(0, record.model_copy(update={"units": units}))
        world.mine()
        counted = tally(world)
        counted.update(world.chain, world.pool)
        assert (counted.counts.committed, counted.counts.merged) == (0, 0)
        (shown,) = counted.recent
        assert (shown["round"], shown["outcome"]) == (0, "ignored")
        assert ("has no unit of it" if lacks else "late: not told") in shown["reasons"][0]

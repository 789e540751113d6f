"""Contributors follow a record that takes units of earlier rounds back, and hold what that needs."""

from __future__ import annotations

from node.events import Aggregate, Fetch
from protocol.messages import Judgement, Retraction, RoundRecord
from tests.node.world import Contributor, World, manifest, name, work
from training.workbench import RetractedRound

EVERYBODY = {"schedule": {"fresh_probability": 1.0}}
BLOBS = tuple(work(0, number).blob for number in (1, 2))


def aggregated(peer: Contributor) -> str:
    """Finish a peer's aggregation, which gives what all of its job decides, and return that."""
    job = peer.job
    assert isinstance(job, Aggregate)
    after = name(job.round, job.parameters, job.units, job.retracted)
    peer.do(after)
    return after


def play(world: World, round_: int, record: dict[str, object], *peers: Contributor) -> set[str]:
    """Live a round whose record has these fields beside its units; return what everybody's aggregation gave."""
    for peer in peers:
        peer.look()
        peer.do()
    world.post(round_)
    for peer in peers:
        peer.look()
    made: RoundRecord = world.record(round_, parameters=peers[0].state.parameters)
    world.anchor(round_, made.model_copy(update=record))
    world.mine()
    for peer in peers:
        peer.look()
    return {aggregated(peer) for peer in peers}


def void(number: int, *, round_: int = 0) -> dict[str, object]:
    """Return a record's fields that declare a unit void and take it back."""
    return {
        "judged": (Judgement(round=round_, number=number, segment=0, outcome="void"),),
        "retracted": (Retraction(round=round_, number=number),),
    }


def test_all_peers_and_a_late_joiner_end_with_the_same_root() -> None:
    world = World(manifest(verification=EVERYBODY))
    first, second = (Contributor(world, number).ready_to_train() for number in (1, 2))
    assert len(play(world, 0, {}, first, second)) == 1
    for round_ in (1, 2, 3):
        assert len(play(world, round_, {}, first, second)) == 1
    for peer in (first, second):
        peer.look()
        peer.do()
    world.post(4)
    for peer in (first, second):
        peer.look()
    record = world.record(4, parameters=first.state.parameters)
    world.anchor(4, record.model_copy(update=void(2)))
    world.mine()
    late = Contributor(world, 3)
    late.look()
    assert isinstance(late.job, Fetch)
    late.do()
    for peer in (first, second):
        peer.look()
    jobs = {peer.job for peer in (first, second, late)}
    assert len(jobs) == 1
    (job,) = jobs
    assert isinstance(job, Aggregate)
    assert job.retracted == (RetractedRound(updates=BLOBS, weights=(1, 1), taken=(1,)),)
    assert len({aggregated(peer) for peer in (first, second, late)}) == 1


def test_it_waits_for_the_record_of_a_round_that_is_taken_back() -> None:
    world = World(manifest(verification=EVERYBODY))
    peers = [Contributor(world, number).ready_to_train() for number in (1, 2)]
    for round_ in range(4):
        play(world, round_, {}, *peers)
    record = world.record(4, parameters=peers[0].state.parameters)
    kept = world.chain.records.pop(0)
    world.post(4)
    world.anchor(4, record.model_copy(update=void(2)))
    world.mine()
    late = Contributor(world, 3)
    late.look()
    late.do()
    assert late.job is None
    world.chain.records[0] = kept
    late.look()
    assert isinstance(late.job, Aggregate)


def test_a_record_that_takes_back_what_was_never_merged_is_not_followed() -> None:
    for number, round_ in ((3, 0), (1, 1), (1, 5)):
        world = World(manifest(verification=EVERYBODY))
        peer = Contributor(world, 1).ready_to_train()
        play(world, 0, {}, peer)
        peer.do()
        world.post(1)
        peer.look()
        record = world.record(1, parameters=peer.state.parameters)
        world.anchor(1, record.model_copy(update=void(number, round_=round_)))
        world.mine()
        peer.look()
        assert peer.job is None
        (stop,) = peer.stops
        assert stop.error is not None
        assert "taken back" in stop.error
        assert "murmur audit run" in stop.hint


def test_updates_stay_while_a_draw_of_their_round_is_open() -> None:
    world = World(manifest(rounds=20, verification=EVERYBODY))
    deadlines = world.manifest.deadlines
    peer = Contributor(world, 1).ready_to_train()
    play(world, 0, {}, peer)
    blob = work(0, 1).blob
    for round_ in range(1, 8):
        play(world, round_, {}, peer)
    assert blob in peer.disk.blobs
    world.mine(3 * deadlines.verify + deadlines.commit + deadlines.reveal)
    play(world, 8, {}, peer)
    assert blob not in peer.disk.blobs

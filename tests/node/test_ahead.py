"""A contributor of a run that delays outer steps trains on while the round before is being decided."""

from __future__ import annotations

import pytest

from node.events import Aggregate, Fetch, Prefetch, Train, TrainAhead
from node.honesty import HonestSteps
from node.trainer import AheadRequest, Bench, TrainRequest
from node.unit import Files, Work
from protocol.blobs import BlobMissing
from protocol.manifest import OuterConfig
from tests.node.conftest import Place
from tests.node.test_trainer import BEACON, request
from tests.node.world import Contributor, World, manifest, name, work
from training.workbench import TrainerLoadRequest

DELAYED = {"outer": {"delay": 2}}


def committed(world: World, **options: int) -> Contributor:
    """Return a contributor that has committed round 0."""
    peer = Contributor(world, 1, **options).ready_to_train()
    peer.do()
    return peer


def final(round_: int) -> Files:
    return work(round_, 1).segments[-1]


def test_the_next_unit_begins_while_the_round_is_decided() -> None:
    world = World(manifest(**DELAYED))
    peer = committed(world)
    beacon = world.chain.assignment_beacon(1)
    assert beacon == world.chain.assignment_beacon(0), "the run's opening assigns both"
    assert peer.job == TrainAhead(1, beacon, final(0), work(0, 1).moments)
    world.post(0)
    peer.look()
    assert peer.said("reveal") == [0], "beside it everything goes on"
    peer.do()
    assert peer.job is None, "once, and no further than the outer step"


def test_updates_come_while_it_trains_and_are_there_when_it_aggregates() -> None:
    world = World(manifest(**DELAYED))
    peer = committed(world)
    world.post(0)
    peer.look()
    world.anchor(0)
    peer.look()
    assert isinstance(peer.job, TrainAhead), "what is under way ends first"
    [prefetch] = [one for one in peer.effects if isinstance(one, Prefetch)]
    peer.look()
    peer.do()
    assert isinstance(peer.job, Aggregate)
    assert peer.job == prefetch.aggregate
    assert set(peer.job.moving.updates) <= peer.disk.blobs


def test_the_unit_takes_over_what_was_made_ahead() -> None:
    world = World(manifest(**DELAYED))
    peer = committed(world)
    peer.do()
    world.post(0)
    peer.look()
    world.anchor(0)
    peer.look()
    peer.do()
    assert isinstance(peer.job, Train)
    assert (peer.job.round, peer.job.parameters) == (1, world.parameters(1))
    assert peer.job.before == final(0)
    assert peer.job.ahead is not None
    assert peer.job.ahead.segments == work(1, 1).segments[:3]
    assert {one.parameters for one in peer.job.ahead.segments} <= peer.disk.blobs, "nothing swept them"
    peer.do()
    unit = peer.disk.units[1]
    assert unit.state_before == final(0)
    assert peer.job is None, "round 2 is assigned when round 0 is decided and its record's beacon is here"
    world.mine()
    peer.look()
    assert isinstance(peer.job, TrainAhead)
    assert peer.job.round == 2


def test_who_was_left_out_starts_afresh_from_the_rounds_parameters() -> None:
    world = World(manifest(**DELAYED))
    peer = committed(world)
    peer.do()
    world.post(0, without=[1])
    peer.look()
    world.anchor(0)
    world.mine()
    peer.look()
    peer.do()
    assert isinstance(peer.job, Train)
    assert (peer.job.before, peer.job.ahead, peer.job.moments) == (None, None, None)


def test_a_restart_makes_it_again() -> None:
    world = World(manifest(**DELAYED))
    first = committed(world)
    first.do()
    again = Contributor(world, 1, first.disk)
    again.look()
    assert isinstance(again.job, TrainAhead)


def test_a_state_that_is_gone_is_not_waited_for() -> None:
    world = World(manifest(**DELAYED))
    peer = committed(world)
    peer.disk.blobs.discard(final(0).parameters)
    peer.do()
    assert peer.job is None
    assert peer.state.ahead is not None
    assert peer.state.ahead.ahead is None


def test_nothing_is_made_ahead_where_outer_steps_come_first() -> None:
    peer = committed(World())
    assert peer.job is None
    assert final(0).parameters not in peer.disk.units[0].carried_files


def test_a_newcomer_waits_for_parameters() -> None:
    peer = Contributor(World(manifest(**DELAYED)), 1)
    peer.look()
    assert isinstance(peer.job, Fetch)


@pytest.mark.parametrize("keep", [True, False])
def test_a_unit_made_in_two_parts_has_the_bits_of_one_made_at_once(place: Place, keep: bool) -> None:
    run = place.manifest.model_copy(update={"outer": OuterConfig(delay=1)})
    place.manifest_path.write_bytes(run.to_bytes())
    bench = Bench(TrainerLoadRequest.model_validate(place.load()), HonestSteps())
    first = bench.train(TrainRequest.model_validate(request(place)), lambda _: None)
    before = first.segments[-1]
    asked = {
        "before": before.model_dump(),
        "moments": first.moments,
        "number": 1,
        "round": 1,
        "beacon": BEACON,
    }
    ahead = bench.ahead(AheadRequest.model_validate(asked), lambda _: None)
    assert len(ahead.segments) == 2
    assert ahead.segments[0] == before
    whole = _train(bench, place, first, before=before.model_dump(), keep=keep)
    parts = _train(
        bench, place, first, before=before.model_dump(), ahead=ahead.model_dump(mode="json"), keep=keep
    )
    assert (parts.segments, parts.residual, parts.blob) == (whole.segments, whole.residual, whole.blob)
    assert parts.loss == whole.loss
    assert parts.figures is not None
    assert whole.figures is not None
    assert parts.figures.gradient_norm == whole.figures.gradient_norm
    assert parts.figures.steps == run.inner.steps
    assert parts.parameters == parts.segments[-1].parameters
    assert place.store.has(parts.parameters)
    assert place.store.has(parts.moments)


def _train(bench: Bench, place: Place, first: Work, **changes: object) -> Work:
    return bench.train(TrainRequest.model_validate(request(place, 1, first) | changes), lambda _: None)


def test_what_a_request_names_has_to_be_there(place: Place) -> None:
    run = place.manifest.model_copy(update={"outer": OuterConfig(delay=1)})
    place.manifest_path.write_bytes(run.to_bytes())
    bench = Bench(TrainerLoadRequest.model_validate(place.load()), HonestSteps())
    gone = {"parameters": name("gone"), "moments": name("gone")}
    asked = {"before": gone, "moments": None, "number": 1, "round": 1, "beacon": BEACON}
    with pytest.raises(BlobMissing):
        bench.ahead(AheadRequest.model_validate(asked), lambda _: None)

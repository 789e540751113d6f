"""States beyond the disk cap: dropped while no draw asks for them, and computed again, bit by bit, when one does."""

from __future__ import annotations

import pytest

from node.events import Aggregate, Restore, Train
from node.honesty import HonestSteps
from node.keeping import drop, unit_bytes
from node.trainer import Bench, TrainRequest
from node.unit import opening
from protocol.manifest import CPU_EXACT, CPU_FP32, NumericProfile
from protocol.messages import Judgement, sign
from tests.node.test_machine import EVERYBODY, round_of
from tests.node.test_trainer import BEACON, Place, request
from tests.node.world import Contributor, World, manifest, unit_of, work
from tests.verification.testbed import key
from training.workbench import TrainerLoadRequest
from verification.commit import Carried
from verification.opening import check_opening, needed_files
from verification.unit import DrawnUnit


def states(round_: int) -> set[str]:
    """Return the states of an invented unit that nothing else needs."""
    made = work(round_, 1)
    return {a for files in made.segments[:-1] for a in (files.parameters, files.moments)}


@pytest.mark.parametrize(
    ("pending", "dropped", "drawn", "room", "gone"),
    [
        ({1, 2, 3}, (), (), 3, set()),
        ({1, 2, 3}, (), (), 1, {2, 3}),
        ({1, 2, 3}, (), {3}, 1, {1, 2}),
        ({1, 2, 3}, (), {1, 2, 3}, 0, set()),
        ({2, 3}, {1, 3}, (), 0, {2, 3}),
        ({1, 2, 3}, {3}, (), 3, {3}),
    ],
)
def test_the_newest_undrawn_states_go_first_and_drawn_ones_stay(
    pending: set[int], dropped: tuple[int, ...], drawn: set[int], room: int, gone: set[int]
) -> None:
    assert drop(pending, dropped, drawn, room) == gone


def test_a_drawn_unit_that_was_dropped_is_opened_computed_again_and_kept_until_judged() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1, state_cap=unit_bytes(world.manifest) - 1).ready_to_train()
    peer.do()
    assert peer.state.dropped == {0}
    assert not states(0) & peer.disk.blobs
    assert {work(0, 1).moments, work(0, 1).residual, work(0, 1).blob} <= peer.disk.blobs
    world.post(0)
    peer.look()
    world.anchor(0)
    world.mine()
    peer.look()
    assert peer.said("opening") == [0]
    assert peer.job == Restore(
        0,
        Train(0, str(world.chain.assignment_beacon(0)), world.parameters(0), None, None),
        work(0, 1),
    )
    assert peer.state.phase == "restoring"
    peer.do()
    assert states(0) <= peer.disk.blobs
    assert isinstance(peer.job, Aggregate)
    peer.do()
    peer.do()
    assert peer.state.dropped == {1}
    assert states(0) <= peer.disk.blobs
    world.post(1)
    peer.look()
    world.anchor(1, world.record(1, judged=(Judgement(round=0, number=1, segment=0, outcome="passed"),)))
    peer.look()
    peer.do()
    assert not states(0) & peer.disk.blobs


def test_a_later_unit_starts_again_from_the_moments_and_residual_that_it_carried() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1, state_cap=0).ready_to_train()
    round_of(world, 0, peer)
    peer.do()
    peer.do()
    world.post(1)
    peer.look()
    world.anchor(1)
    world.mine()
    peer.look()
    assert isinstance(peer.job, Restore)
    again, before = peer.job.train, work(0, 1)
    assert (again.round, again.moments, again.residual) == (1, before.moments, before.residual)


def test_a_machine_that_gives_other_bits_stops_trying_and_goes_on_training() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1, state_cap=0).ready_to_train()
    peer.do()
    world.post(0)
    peer.look()
    world.anchor(0)
    peer.look()
    assert isinstance(peer.job, Aggregate)
    world.mine()
    peer.look()
    assert isinstance(peer.job, Aggregate)  # what is under way is finished first
    peer.do()
    assert isinstance(peer.job, Restore)
    peer.do(same=False)
    assert peer.state.lost == {0}
    assert isinstance(peer.job, Train)
    peer.do()
    assert peer.said("commitment") == [0, 1]


def test_states_that_a_restart_finds_missing_are_computed_again_if_drawn() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    assert isinstance(peer.job, Train)
    peer.disk.blobs -= states(0)
    again = peer.restarted()
    again.look()
    assert isinstance(again.job, Restore)
    again.do()
    assert states(0) <= again.disk.blobs


def test_under_a_wide_cap_nothing_is_dropped() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    assert peer.state.dropped == frozenset()
    assert states(0) <= peer.disk.blobs


def test_a_unit_that_has_no_room_is_only_hashed_and_counts_as_dropped() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1, state_cap=2 * unit_bytes(world.manifest)).ready_to_train()
    kept = []
    for round_ in range(3):
        assert isinstance(peer.job, Train)
        kept.append(peer.job.keep)
        round_of(world, round_, peer)
    # Nobody judges here, so two drawn units fill the room.
    assert kept == [True, True, False]
    assert peer.state.dropped == frozenset()  # round 2 was drawn, and computed again


def test_a_unit_that_is_only_hashed_has_the_same_roots_and_leaves_what_is_carried(place: Place) -> None:
    load = TrainerLoadRequest.model_validate(place.load())
    bench = Bench(load, HonestSteps())
    hashed = bench.train(TrainRequest.model_validate(request(place, keep=False)), lambda _: None)
    assert not any(place.store.has(files.parameters) for files in hashed.segments[1:])
    assert all(map(place.store.has, (hashed.moments, hashed.residual, hashed.blob)))
    written = bench.train(TrainRequest.model_validate(request(place)), lambda _: None)
    assert written.model_copy(update={"cpu_s": hashed.cpu_s, "figures": hashed.figures}) == hashed
    assert all(place.store.has(files.parameters) for files in written.segments)


@pytest.mark.parametrize("profile", [CPU_FP32, CPU_EXACT], ids=lambda profile: profile.name)
def test_states_computed_again_give_the_committed_roots(place: Place, profile: NumericProfile) -> None:
    verification = place.manifest.verification.model_copy(update={"profiles": (profile,)})
    run = place.manifest.model_copy(update={"verification": verification})
    load = TrainerLoadRequest.model_validate(place.load())
    load.manifest_path.write_bytes(run.to_bytes())
    bench = Bench(load, HonestSteps())
    first = bench.train(TrainRequest.model_validate(request(place)), lambda _: None)
    asked = TrainRequest.model_validate(request(place, 1, first))
    second = bench.train(asked, lambda _: None)
    unit = unit_of(run, 1, second, unit_of(run, 0, first, None))
    for address in unit.files - unit.seeds:
        place.store.delete(address)
    assert not place.store.has(second.segments[1].parameters)
    again = Bench(load, HonestSteps()).train(asked, lambda _: None)
    assert again.model_copy(update={"cpu_s": second.cpu_s, "figures": second.figures}) == second
    commitment = sign(key(1), run, 1, "contributor", unit.commitment)
    expected = Carried(unit.commitment.moments_before, unit.commitment.residual_before)
    for segment in range(run.segments):
        said = sign(key(1), run, 1, "contributor", opening(unit, segment))
        drawn = DrawnUnit(commitment, segment, BEACON, expected)
        check_opening(run, drawn, said)
        for file in needed_files(run, drawn, said.body):
            assert len(place.store.get(file.address, max_size=file.bytes)) == file.bytes

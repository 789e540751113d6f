"""A coordinator's record names the round's joint update, which its own outer step then takes."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.state import Aggregate, Anchor, Voided, Weigh
from protocol.errors import Malformed
from protocol.manifest import CodecConfig, DeadlineConfig, MergingConfig, RunManifest
from protocol.messages import check_tiers
from tests.coordinator.conftest import World, make_manifest, verification
from tests.coordinator.test_succeeding import JUDGE, carry
from training.merging import Merit
from training.preset import preset

HARMFUL = Merit(passed=False, reason="it raises the loss")
JOINT = MergingConfig(gate_windows=0, similarity=0.25, joint_k=512)


def joint_world(merging: MergingConfig = JOINT, **changes: object) -> Any:
    """Return an open run of joint updates, though without witnesses, whose receipts would be waited for."""
    found = World(make_manifest(**changes).model_copy(update={"merging": merging}))
    found.open()
    return found


@pytest.fixture
def world() -> Any:
    return joint_world()


def test_every_record_names_its_joint_update(world: Any) -> None:
    for round_ in range(3):
        world.play(round_)
        record = world.record(round_)
        assert record.joint is not None
        check_tiers(world.manifest, record)
    assert len(world.wanted(Weigh)) == 3
    for round_, effect in enumerate(world.wanted(Aggregate)):
        assert effect.request.joint == world.record(round_).joint
        assert effect.request.updates == effect.request.weights == ()


def test_a_round_of_which_nothing_moves_has_none(world: Any) -> None:
    world.merits = dict.fromkeys((1, 2, 3), HARMFUL)
    world.play(0)
    assert world.record(0).joint is None
    assert world.state.parameters[1] == world.state.parameters[0]
    check_tiers(world.manifest, world.record(0))


def test_runs_that_judge_nothing_have_joint_updates_too() -> None:
    world = joint_world(MergingConfig(gate_windows=0, similarity=0, joint_k=512))
    world.play(0)
    assert world.record(0).joint is not None


def test_a_restart_asks_for_the_same_one_again(world: Any) -> None:
    world.hold = {Weigh}
    world.commit(0)
    world.reveal(0)
    world.mine()
    (held,) = world.wanted(Weigh)
    world.hold = set()
    world.restart()
    world.mine(20)
    assert world.record(0).joint is not None
    again = world.wanted(Weigh)[-1]
    assert set(held.request.updates) == set(again.request.updates)


def test_a_void_round_has_none_in_force() -> None:
    deadlines = DeadlineConfig(ready=20, commit=10, reveal=5, record=3, verify=6, appeal=1)
    world = joint_world(deadlines=deadlines)
    world.hold = {Anchor}
    world.commit(0)
    world.reveal(0)
    world.mine(30)
    world.release()
    world.mine(2)
    assert world.record(0).joint is not None
    assert [one.round for one in world.wanted(Voided)] == [0]
    (effect,) = world.wanted(Aggregate)
    assert effect.request.joint is None
    assert effect.request.updates == ()


def test_a_record_without_the_joint_update_it_should_have_is_refused(world: Any) -> None:
    world.play(0)
    record, plain = world.record(0), make_manifest()
    with pytest.raises(Malformed, match="without its joint update"):
        check_tiers(world.manifest, record.model_copy(update={"joint": None}))
    with pytest.raises(Malformed, match="with a joint update"):
        check_tiers(plain, record)
    unmoved = tuple(unit.model_copy(update={"weight": 0}) for unit in record.units)
    with pytest.raises(Malformed, match="with a joint update"):
        check_tiers(world.manifest, record.model_copy(update={"units": unmoved}))


def test_a_manifest_has_joint_updates_that_fit_its_chunks_and_are_checked_and_no_rollouts() -> None:
    with pytest.raises(ValueError, match=r"joint_k exceeds the codec's chunk of 256"):
        make_manifest(merging=JOINT, codec=CodecConfig(chunk=256, k=16))
    with pytest.raises(ValueError, match=r"joint_k needs verification.witnesses"):
        make_manifest(merging=JOINT)
    assert make_manifest(merging=JOINT, verification=verification(witnesses=1)).merging == JOINT
    fields = preset("sort").fields()
    merging = MergingConfig(gate_windows=0, similarity=0, joint_k=512)
    values = {**make_manifest().model_dump(), **fields, "merging": merging}
    values["verification"] = {**values["verification"], "witnesses": 3}
    with pytest.raises(ValueError, match="a policy learns from everybody's rollouts"):
        RunManifest.model_validate(values)


def test_a_stand_in_follows_the_joint_update_that_another_said_and_makes_the_next(world: Any) -> None:
    world.play(0)
    other = world.stand_in(JUDGE)
    other.follow(world)
    other.mine()
    (followed,) = other.wanted(Aggregate)
    assert followed.request.joint == world.record(0).joint
    carry(other, 1)
    assert other.record(1).joint is not None
    assert other.wanted(Aggregate)[-1].request.joint == other.record(1).joint

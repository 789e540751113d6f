"""What judges and people said of earlier samples takes its place in their rewards."""

from __future__ import annotations

import numpy as np
import pytest

from protocol.lessons import Lesson, Lessons, Preferred
from protocol.manifest import RunManifest
from protocol.messages import RoundRecord, UnitRecord, sign
from protocol.preferences import listed
from protocol.published import Published, write_published
from protocol.rollout_config import PeopleConfig, RewardWeight
from protocol.tensors import parameter_layout
from tests.protocol.makers import key, preference
from tests.verification.rollout_run import Unit, honest_unit, rollout_config
from training.codec import compress
from training.experience import Experience
from training.preferences import preference_values
from verification.experience import experience

ADDRESS = "ab" * 32


@pytest.fixture(scope="module")
def unit() -> Unit:
    """Return a unit of a run that asks people, of samples that its environment rewards all the same."""
    plain, config = honest_unit(), rollout_config()
    rollouts = config.model_validate(
        {
            **config.model_dump(),
            "rewards": (*config.rewards, RewardWeight(component="preferred", weight=0.5, source="human")),
            "people": PeopleConfig(addresses=(key("person 0").address,)),
        }
    )
    manifest = RunManifest.model_validate({**plain.manifest.model_dump(), "rollouts": rollouts})
    groups = tuple(
        tuple(type(one)(**{**vars(one), "rewards": np.array([[1.0, 0.0]])}) for one in group)
        for group in plain.groups
    )
    return Unit(manifest, groups)


@pytest.fixture(scope="module")
def blob(unit: Unit) -> bytes:
    symbols, _ = compress(
        unit.manifest.codec, np.linspace(-1, 1, parameter_layout(unit.manifest.model).size, dtype=np.float32)
    )
    return write_published(unit.manifest, Published(symbols, unit.raw()))


def record(manifest: RunManifest, round_: int, *said: object) -> RoundRecord:
    unit = UnitRecord(number=7, commitment=ADDRESS, merged=True, symbols=ADDRESS, blob=ADDRESS)
    return RoundRecord(parameters=ADDRESS, units=(unit,), judged=(), preferences=said)  # type: ignore[arg-type]


def test_people_decide_what_the_samples_of_a_group_are_worth(unit: Unit, blob: bytes) -> None:
    manifest = unit.manifest
    said = [
        preference(manifest, 0, 1, 3, number=7, group=2),
        preference(manifest, 0, 1, 0, number=7, group=2),
    ]
    records = [record(manifest, 0), record(manifest, 1, *map(listed, said))]
    lessons = experience(manifest, records.__getitem__, 2)
    assert lessons is not None
    assert lessons.preferences == (
        Preferred(number=7, group=2, better=1, worse=3),
        Preferred(number=7, group=2, better=1, worse=0),
    )
    found = Experience.read(manifest, lessons, lambda address: blob)
    values = preference_values(4, [(1, 3), (1, 0)])
    assert [one.rewards[0, 1] for one in found.groups[2]] == list(values)
    assert all(one.rewards[0, 0] == 1 for group in found.groups for one in group)
    assert not any(one.rewards[0, 1] for group in found.groups[:2] for one in group)


def test_samples_that_nobody_else_can_tell_apart_are_learned_from(unit: Unit, blob: bytes) -> None:
    learned = (Lesson(number=7, blob=ADDRESS),)
    said = (Preferred(number=7, group=2, better=1, worse=3),)
    steps = []
    for lessons in (Lessons(learned=learned), Lessons(learned=learned, preferences=said)):
        found = Experience.read(unit.manifest, lessons, lambda address: blob)
        steps.append([found.steps(np.array([[group]])) for group in range(3)])
    assert steps == [[0, 0, 0], [0, 0, 1]]


def test_a_preference_of_nobody_that_is_asked_changes_nothing(unit: Unit) -> None:
    manifest = unit.manifest
    said = preference(manifest, 0, 1, 3, number=7)
    forged = sign(key("stranger"), manifest, 0, "person", said.body)
    records = [record(manifest, 0), record(manifest, 1, listed(forged))]
    lessons = experience(manifest, records.__getitem__, 2)
    assert lessons is not None
    assert lessons.preferences == ()

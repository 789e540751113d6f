"""How preferences come into records, on a simulated chain."""

from __future__ import annotations

import pytest

from coordinator.preferring import RESERVED
from coordinator.rounds import restore
from coordinator.state import Heard
from protocol.canonical import canonical_json
from protocol.messages import MAX_MESSAGE_BYTES, Preference, Signed
from tests.coordinator.conftest import World, make_manifest
from tests.protocol.makers import asking, preference


@pytest.fixture
def world() -> World:
    world = World(make_manifest(rollouts=asking(3, lag=3, group_size=16, tokens=8, turn_tokens=4), rounds=5))
    world.open()
    return world


def carried(world: World, round_: int) -> list[Preference]:
    return [one.said for one in world.record(round_).preferences]


def say(world: World, *messages: Signed[Preference]) -> None:
    for message in messages:
        world.feed(Heard(message))


def test_a_record_carries_what_people_said_of_the_rounds_before(world: World) -> None:
    run = world.manifest
    first, later = preference(run, 0, 1, 2), preference(run, 0, 2, 1, person=1)
    say(world, first)
    world.play(0)
    assert carried(world, 0) == [], "its own samples are not merged yet"
    world.play(1)
    assert carried(world, 1) == [first.body]
    say(world, later, preference(run, 0, 2, 1), preference(run, 1, 0, 1))
    world.play(2)
    assert carried(world, 2) == [later.body, preference(run, 1, 0, 1).body]
    assert world.refusals() == []


def test_what_comes_too_late_is_refused(world: World) -> None:
    for round_ in range(3):
        world.play(round_)
    say(world, preference(world.manifest, 0, 0, 1))
    assert world.refusals() == ["late: round 0 is learned from without it"]
    assert world.state.preferences == {}
    world.play(3)
    assert carried(world, 3) == []


def test_what_waits_is_forgotten_once_it_cannot_count(world: World) -> None:
    say(world, preference(world.manifest, 0, 0, 1, number=9))
    for round_ in range(2):
        world.play(round_)
    assert 0 in world.state.preferences
    world.play(2)
    assert world.state.preferences == {}


def test_nobody_keeps_others_out_of_a_record(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.preferring.MAX_PREFERENCES", 8)
    run = world.manifest
    many = [preference(run, 0, 0, other) for other in range(1, 13)]
    world.play(0)
    say(world, *many, preference(run, 0, 3, 4, person=1), preference(run, 0, 3, 4, person=2))
    world.play(1)
    found = carried(world, 1)
    assert len(found) == 8
    assert [one.person for one in found[:4]] == [0, 1, 2, 0]
    world.play(2)
    assert len(carried(world, 2)) == 14 - 8, "what had no room is carried by the next"


def test_a_record_stays_a_single_message(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run = world.manifest
    world.play(0)
    bare = len(canonical_json(world.record(0).model_dump(mode="json")))
    say(world, *(preference(run, 0, low, high) for low in range(5) for high in range(low)))
    monkeypatch.setattr("coordinator.preferring.RESERVED", MAX_MESSAGE_BYTES - bare - 1000)
    world.play(1)
    assert 0 < len(carried(world, 1)) < 6
    assert RESERVED < MAX_MESSAGE_BYTES / 8


def test_a_restart_remembers_what_was_said(world: World) -> None:
    world.play(0)
    message = preference(world.manifest, 0, 0, 1)
    state = restore(
        world.manifest,
        statements=world.statements.values(),
        heard=[*world.heard, message],
        parameters=world.parameters,
        decisions=world.decisions,
        resumed_at=0,
    )
    assert state.preferences == {0: (message,)}

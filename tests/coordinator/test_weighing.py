"""A record gives every merged update the weight that judging it found, as scenarios on a simulated chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coordinator.state import Aggregate, Weigh, Weighed
from protocol.manifest import MergingConfig
from protocol.messages import Judgement
from tests.coordinator.conftest import verification
from training.merging import Merit
from verification.sample import Draw
from verification.settle import JudgedCase, earned_in_epoch, settled_round

MakeWorld = Callable[..., Any]
HARMFUL = Merit(passed=False, reason="it raises the loss", score=-70_000)


def judged(draw: Draw) -> JudgedCase:
    """Say that verifiers found a drawn unit in order."""
    right = draw.verifiers[:2]
    found = Judgement(round=0, number=draw.number, segment=draw.segment, outcome="passed", heard=right)
    return JudgedCase(found, right, False)


@pytest.fixture
def make_judging(make_world: MakeWorld) -> Callable[[], Any]:
    """Return a function that makes a world in which nobody is drawn without a reason."""
    calm = {"fresh_probability": 0.0, "floor_probability": 0.0}
    checked = verification(witnesses=0, schedule=calm)

    def make() -> Any:
        found = make_world(merging=MergingConfig(), verification=checked)
        found.merits = {number: Merit(passed=True, reason="", score=1000 * number) for number in (1, 2, 3)}
        return found

    return make


@pytest.fixture
def judging_world(make_judging: Callable[[], Any]) -> Any:
    return make_judging()


def test_an_update_that_harms_is_merged_without_weight(judging_world: Any) -> None:
    world = judging_world
    world.merits[2] = HARMFUL
    world.open()
    world.play(0)
    units = {unit.number: unit for unit in world.record(0).units}
    assert {number: (unit.merged, unit.weight, unit.score) for number, unit in units.items()} == {
        1: (True, 1, 1000),
        2: (True, 0, -70_000),
        3: (True, 1, 3000),
    }
    assert units[2].fate == "merged with no weight: it raises the loss"
    (aggregated,) = world.wanted(Aggregate)
    assert aggregated.request.updates == (units[1].blob, units[3].blob)
    assert aggregated.request.weights == (1, 1)


def test_it_is_certain_to_be_drawn_and_paid_if_it_was_honest_work(judging_world: Any) -> None:
    world = judging_world
    world.merits[2] = HARMFUL
    world.open()
    world.commit(0)
    world.reveal(0)
    world.mine()
    drawn = world.draws(0)
    assert [draw.number for draw in drawn] == [2]
    world.judge_all(0)
    assert [(one.number, one.outcome) for one in world.decisions] == [(2, "passed")]
    record = world.record(0)
    settled = settled_round(0, record, [judged(drawn[0])])
    assert earned_in_epoch(world.manifest, [settled])[2] == earned_in_epoch(world.manifest, [settled])[1]


def test_scores_go_into_the_next_rounds_judging_and_absence_keeps_them(judging_world: Any) -> None:
    world = judging_world
    world.open()
    world.play(0)
    world.merits = {number: Merit(passed=True, reason="", score=5 * number) for number in (1, 3)}
    world.commit(1, (1, 3))
    world.mine(world.manifest.deadlines.commit)
    world.reveal(1, (1, 3))
    world.mine(world.manifest.deadlines.reveal)
    world.play(2)
    asked = [effect.request for effect in world.wanted(Weigh)]
    scores = [[(unit.number, unit.score) for unit in request.units] for request in asked]
    assert scores == [
        [(1, None), (2, None), (3, None)],
        [(1, 1000), (3, 3000)],
        [(1, 5), (2, 2000), (3, 15)],
    ]
    salts = [[unit.salt for unit in request.units] for request in asked]
    assert all(len(one) == 64 for request in salts for one in request)


def test_a_restart_while_updates_are_judged_gives_the_same_record(make_judging: Callable[[], Any]) -> None:
    undisturbed, killed = make_judging(), make_judging()
    killed.hold = {Weigh}
    for world in (undisturbed, killed):
        world.open()
        world.commit(0)
        world.reveal(0)
    assert ("record", 0, 0) not in killed.statements
    killed.hold = set()
    killed.restart()
    assert killed.statements["record", 0, 0].id == undisturbed.statements["record", 0, 0].id
    killed.feed(Weighed(0, (HARMFUL,) * 3, 0))
    assert [unit.weight for unit in killed.record(0).units] == [1, 1, 1], "a second answer changes nothing"

"""Which rounds are settled: those of epochs that are complete."""

from __future__ import annotations

from coordinator.settling import settled_rounds
from tests.coordinator.conftest import World


def test_rounds_are_settled_by_the_epoch(world: World) -> None:
    world.open()
    seen = [settled_rounds(world.state)]
    for round_ in range(3):
        world.play(round_)
        world.mine(3)
        seen.append(settled_rounds(world.state))
    assert seen == [0, 0, 2, 3], "two rounds an epoch, and the last epoch has one"

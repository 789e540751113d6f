"""Missed rounds are aggregated where their updates weigh less than the parameters, within what peers still hold."""

from __future__ import annotations

import pytest

from node.catching_up import ALWAYS_ROUNDS, MOST_ROUNDS, replayable_rounds
from node.events import Aggregate, Fetch, Job, Train
from protocol.published import max_published_bytes
from tests.node.world import Contributor, World, manifest
from training.outer import outer_layout


@pytest.mark.parametrize("units", [0, 1, 4, 8, 16, 64])
def test_no_more_bytes_are_fetched_than_the_parameters_have(units: int) -> None:
    run = manifest()
    rounds = replayable_rounds(run, units)
    assert ALWAYS_ROUNDS <= rounds <= MOST_ROUNDS
    replay = rounds * units * max_published_bytes(run)
    assert rounds == ALWAYS_ROUNDS or replay <= outer_layout(run).file_bytes


def test_dense_updates_are_not_replayed_beyond_what_everybody_falls_behind() -> None:
    assert replayable_rounds(manifest(codec={"kind": "dense"}), 8) == ALWAYS_ROUNDS
    assert replayable_rounds(manifest(), 1) == MOST_ROUNDS


@pytest.mark.parametrize(("missed", "job"), [(8, Aggregate), (11, Fetch)])
def test_a_peer_that_was_away_aggregates_what_weighs_less_than_the_parameters(
    missed: int, job: type[Job]
) -> None:
    """Eight rounds of updates are a fraction of the parameter file here; more are not tried."""
    world = World(manifest(rounds=13))
    peer = Contributor(world, 2).ready_to_train()
    peer.do()
    for round_ in range(missed):
        world.empty_round(round_)
    back = peer.restarted()
    back.look()
    assert isinstance(back.job, job)
    while not isinstance(back.job, Train):
        back.do()
    assert back.job.round == missed
    assert back.state.parameters == world.parameters(missed)


def test_parameters_that_are_under_way_are_not_given_up_for_those_of_the_next_round() -> None:
    world = World(manifest(rounds=12))
    for round_ in range(4):
        world.empty_round(round_)
    peer = Contributor(world, 2)
    peer.look()
    under_way = Fetch(3, world.parameters(3))
    assert peer.job == under_way
    for round_ in range(4, 8):
        world.empty_round(round_)
        peer.look()
        assert peer.job == under_way
    peer.do()
    assert peer.job == Aggregate(3, world.parameters(3), ())

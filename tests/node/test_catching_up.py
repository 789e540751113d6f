"""Missed rounds are aggregated where their updates weigh less than the parameters, within what peers still hold."""

import pytest

from node.catching_up import ALWAYS_ROUNDS, MOST_ROUNDS, replayable_rounds
from protocol.published import max_published_bytes
from tests.node.world import manifest
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

"""A contributor whose number gets another key while a round is under way."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from murmur.rotation import NEXT_FILE, take_place
from node.config import NodeConfig
from node.events import Train
from protocol.daemon import read_status
from protocol.errors import ConfigError
from protocol.keys import PeerKey, save_peer_key
from tests.node.conftest import Place
from tests.node.test_service import Coordinator, chain_of, config_of, contributing, coordinating, only
from tests.node.world import Contributor, World
from tests.verification.testbed import key

NEW = PeerKey(b"\x55" * 32)


async def test_a_node_reveals_and_opens_with_its_new_key_what_it_committed_to_with_the_old(
    place: Place, tmp_path: Path
) -> None:
    chain = chain_of(place.manifest)
    async with coordinating(tmp_path, place.manifest, chain) as coordinator:
        config, pool = config_of(place, tmp_path, coordinator), coordinator.peer.pool
        async with contributing(config, chain):
            await coordinator.until(lambda: 1 in pool.commitments(0))
        chain.rotate(1, NEW)
        save_peer_key(config.directory / NEXT_FILE, NEW)
        take_place(config.directory, "contributor", complete=True)
        async with contributing(config, chain):
            await coordinator.collect(0)
            await coordinator.anchor(0)
            await coordinator.until(lambda: (1, 0) in pool.openings(0))
            await coordinator.collect(1)
            await coordinator.anchor(1)
            await coordinator.until(lambda: (1, 0) in pool.openings(1))
        first, second = pool.commitments(0)[1], pool.commitments(1)[1]
        assert (first.author, second.author) == (key(1).address, NEW.address)
        assert pool.reveals(0)[1].author == pool.openings(0)[1, 0].author == NEW.address
        assert second.body.moments_before == first.body.moments_after, "what it carries goes on"
        assert pool.equivocations == []
        status = read_status(config.directory / "status.json", "node")
        assert (status["number"], status["peer_id"], status["error"]) == (1, NEW.peer_id, None)


async def test_a_node_whose_number_is_given_another_key_stops_and_says_what_to_type(
    place: Place, tmp_path: Path
) -> None:
    chain = chain_of(place.manifest)
    async with coordinating(tmp_path, place.manifest, chain) as coordinator:
        config = config_of(place, tmp_path, coordinator)
        with pytest.raises(ExceptionGroup) as caught:
            await _rotate_elsewhere(coordinator, config)
        error = only(caught.value)
        assert isinstance(error, ConfigError)
        assert f"another peer key, {NEW.address}" in error.message
        assert "murmur keys rotate" in error.hint
        status = read_status(config.directory / "status.json", "node")
        assert status["error"]["message"] == error.message


async def _rotate_elsewhere(coordinator: Coordinator, config: NodeConfig) -> None:
    async with contributing(config, coordinator.chain):
        await coordinator.until(lambda: 1 in coordinator.peer.pool.ready())
        coordinator.chain.rotate(1, NEW)
        await trio.sleep_forever()


def test_a_key_that_is_not_on_the_roster_yet_sits_the_round_out_and_still_witnesses_it() -> None:
    world = World()
    others = [Contributor(world, number).ready_to_train() for number in (2, 3)]
    for other in others:
        other.do()
    late = Contributor(world, 1, commits_from=1).ready_to_train()
    assert late.job is None
    assert late.state.phase == "holding back"
    world.post(0)
    for peer in (*others, late):
        peer.look()
    world.mine(world.manifest.deadlines.reveal)
    late.look()
    assert late.said("commitment") == []
    assert late.said("receipt") == [0]
    world.anchor(0)
    world.mine()
    late.look()
    late.do()
    assert isinstance(late.job, Train)

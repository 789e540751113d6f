"""The network as one object: it survives its host, finds its peers again, and leaves nothing behind."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import trio

from protocol.errors import ConfigError, NetworkError
from protocol.host import peer_id_of
from protocol.network import NetworkConfig


async def defect() -> None:
    raise ZeroDivisionError("a defect of libp2p")


async def test_a_host_that_crashes_comes_back_on_its_port_and_goes_on(
    nodes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with nodes.open(1) as node, nodes.open(2) as friend:
        await friend.network.dial(node.network.addresses[0])
        addresses = node.network.addresses
        node.network._running.host.get_network().manager.run_task(defect)
        await node.network.wait_for(lambda: node.network.stats.restarts == 1)
        await friend.network.wait_for(lambda: node.network.peer_id in friend.network.subscribers())
        await node.network.wait_for(lambda: friend.network.peer_id in node.network.subscribers())
        assert node.network.addresses == addresses
        for sender, receiver, data in ((friend, node, b"after the crash"), (node, friend, b"and back")):
            sender.tell(data)  # the announcement may be lost with the old connection; anti-entropy brings it
            await sender.network.publish(data)
            await receiver.has(1)
        assert "network host failed and is restarted" in caplog.text


async def test_a_call_waits_for_a_restarting_host(nodes: Any) -> None:
    async with nodes.open(1) as node:
        node.network._running.host.get_network().manager.run_task(defect)
        await node.network.wait_for(lambda: node.network._running is None)
        assert node.network.connected_peers() == frozenset()
        await node.network.publish(b"patient")
        assert node.network._running is not None


async def test_a_peer_that_went_away_is_found_again(nodes: Any) -> None:
    async with nodes.open(1) as node:
        boot = (node.network.addresses[0],)
        async with nodes.open(2, bootstrap=boot) as guest:
            await node.network.wait_for(lambda: guest.network.peer_id in node.network.connected_peers())
        await node.network.wait_for(lambda: not node.network.connected_peers())
        async with nodes.open(2, bootstrap=boot) as guest:
            await node.network.wait_for(lambda: guest.network.peer_id in node.network.connected_peers())


async def test_a_bootstrap_peer_that_starts_late_is_reached(nodes: Any) -> None:
    async with nodes.open(1) as node:
        config = replace(nodes.defaults, listen=node.network.addresses[0].partition("/p2p/")[0])
        boot = (node.network.addresses[0],)
    async with nodes.open(2, bootstrap=boot) as early, nodes.open(1, config=config) as late:
        await early.network.wait_for(lambda: late.network.peer_id in early.network.connected_peers())


async def test_a_message_from_gossip_and_sync_is_handled_once(nodes: Any) -> None:
    async with nodes.open(1) as node, nodes.open(2) as friend:
        await friend.network.dial(node.network.addresses[0])
        await friend.network.wait_for(lambda: node.network.peer_id in friend.network.subscribers())
        friend.tell(b"told twice")
        await friend.network.publish(b"told twice")
        await node.has(1)
        node.log.prune(1)  # forgotten, so that the next sync brings it again
        await node.network.sync_now(friend.network.peer_id)
        assert len(node.received) == 1
        assert node.network.stats.duplicates >= 1


async def test_a_port_in_use_is_one_error_and_not_a_group(nodes: Any) -> None:
    async with nodes.open(1) as node:
        config = replace(nodes.defaults, listen=node.network.addresses[0].partition("/p2p/")[0])
        with pytest.raises(NetworkError, match="is in use"):
            async with nodes.open(2, config=config):
                raise AssertionError("two nodes share a port")


async def test_an_error_in_the_block_keeps_its_class(nodes: Any) -> None:
    with pytest.raises(KeyError):
        async with nodes.open(1):
            raise KeyError("the caller's own")


@pytest.mark.parametrize("bad", [{"listen": "nonsense"}, {"announce": ("/ip4/1.2.3.4",)}])
async def test_an_address_that_is_none_is_a_config_error(nodes: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        async with nodes.open(1, config=replace(nodes.defaults, **bad)):
            raise AssertionError("opened")
    with pytest.raises(ConfigError, match="with a peer id"):
        async with nodes.open(1, bootstrap=("/ip4/127.0.0.1/tcp/1",)):
            raise AssertionError("opened")


async def test_announced_addresses_replace_the_bound_ones(nodes: Any) -> None:
    config = replace(nodes.defaults, announce=("/dns4/node.example/tcp/4001",))
    async with nodes.open(1, config=config) as node:
        assert node.network.addresses == [f"/dns4/node.example/tcp/4001/p2p/{node.network.peer_id}"]


async def test_nothing_is_left_after_the_block(nodes: Any) -> None:
    async with nodes.open(9):
        pass  # what the first one loads and caches is not a leak
    tasks = trio.lowlevel.current_statistics().tasks_living
    threads = {thread for thread in threading.enumerate() if not thread.name.startswith("Trio thread")}
    async with nodes.open(1) as node, nodes.open(2, bootstrap=(node.network.addresses[0],)) as guest:
        await node.network.wait_for(lambda: guest.network.peer_id in node.network.connected_peers())
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    after = {thread for thread in threading.enumerate() if not thread.name.startswith("Trio thread")}
    assert after <= threads


async def test_the_status_is_plain_and_tells_no_secret(nodes: Any) -> None:
    async with nodes.open(1) as node, nodes.open(2) as friend:
        await friend.network.dial(node.network.addresses[0])
        node.network.stats.refuse("oversized gossip", "somebody", "too long")
        status = node.network.status()
        assert status["peer_id"] == peer_id_of(b"\x01" * 32)
        assert list(status["peers"]) == [friend.network.peer_id]
        assert status["refused"] == {"oversized gossip": 1}
    assert "01010101" not in repr(NetworkConfig(secret=b"\x01" * 32, run="run"))
    assert "\\x01" not in repr(NetworkConfig(secret=b"\x01" * 32, run="run"))

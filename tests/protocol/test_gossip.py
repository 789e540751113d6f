"""Gossip among real hosts: everything honest arrives once, everything hostile is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from protocol.errors import LedgerError, Malformed, NetworkError
from protocol.gossip import GRAYLIST, MAX_MESSAGE_BYTES, STREAMS_PER_PEER, GossipLimits, message_id, topic_of
from protocol.host import close_stream, connect, parse_address

MESHSUB = TProtocol("/meshsub/1.1.0")
OpenHost = Callable[[int], Any]


async def linked(one: Any, other: Any) -> None:
    """Connect two nodes and wait until each knows that the other listens to the topic."""
    await one.network.dial(other.network.addresses[0])
    await one.network.wait_for(lambda: other.network.peer_id in one.network.subscribers())
    await other.network.wait_for(lambda: one.network.peer_id in other.network.subscribers())


async def publish_raw(node: Any, data: bytes, topics: list[str] | None = None) -> None:
    """Publish past our own checks, as a hostile peer would."""
    gossip = node.network._running.gossip
    await gossip._pubsub.publish(topics or [gossip.topic], data)


async def refused(node: Any, kind: str, count: int = 1) -> None:
    """Wait for a refusal; counters do not announce themselves, so the node's own events are polled."""
    while node.network.stats.refused[kind] < count:
        await trio.lowlevel.checkpoint()


def test_the_message_id_follows_from_the_content_alone() -> None:
    assert message_id(b"a") == message_id(b"a") != message_id(b"b")
    assert len(message_id(b"")) == 32


async def test_eight_honest_hosts_deliver_everything_and_keep_their_good_name(nodes: Any) -> None:
    few = replace(nodes.defaults, target_peers=4)
    async with AsyncExitStack() as stack:
        group = [await stack.enter_async_context(nodes.open(1, config=few))]
        boot = (group[0].network.addresses[0],)
        group += [
            await stack.enter_async_context(nodes.open(n, config=few, bootstrap=boot)) for n in range(2, 9)
        ]
        for node in group:
            await node.network.wait_for(lambda node=node: len(node.network.subscribers()) >= 3)
        messages = {f"message {n} of {i}".encode() for i in range(8) for n in range(5)}
        for i, node in enumerate(group):
            for n in range(5):
                await node.network.publish(f"message {n} of {i}".encode())
        for i, node in enumerate(group):
            await node.has(35)
            got = [data for _, data in node.received]
            assert sorted(got) == sorted(data for data in messages if not data.endswith(f"of {i}".encode()))
            assert not node.network.stats.refused
            assert all(node.network.score(peer.network.peer_id) >= 0 > GRAYLIST for peer in group)


async def test_garbage_on_the_gossip_protocol_hurts_nobody(nodes: Any, bare_host: OpenHost) -> None:
    async with nodes.open(1) as node, nodes.open(2) as friend, bare_host(9) as (attacker, _):
        peer = ID.from_string(await connect(attacker, parse_address(node.network.addresses[0])))
        for garbage in (
            b"\x10" + b"\xff" * 16,  # ends a stock host
            b"\x00",
            b"\xff" * 10,
            b"\x80" * 9 + b"\x01",
            b"\x05\x0a\xff\xff\xff\x0f",
            b"GET / HTTP/1.1\r\n",
        ):
            stream = await attacker.new_stream(peer, [MESHSUB])
            await stream.write(garbage)
            await close_stream(stream, reset=False)
        await linked(friend, node)
        await friend.network.publish(b"after the garbage")
        await node.has(1)
        assert node.network.stats.restarts == 0
        assert node.network.stats.refused["stream that failed"] >= 1


async def test_one_peer_opens_a_bounded_number_of_gossip_streams(nodes: Any, bare_host: OpenHost) -> None:
    async with nodes.open(1) as node, bare_host(9) as (attacker, _):
        peer = ID.from_string(await connect(attacker, parse_address(node.network.addresses[0])))
        for _ in range(STREAMS_PER_PEER):
            await attacker.new_stream(peer, [MESHSUB])
        with pytest.raises((StreamError, StreamFailure)):
            await (await attacker.new_stream(peer, [MESHSUB])).read(1)
        gossip = node.network._running.gossip
        assert set(gossip._pubsub._streams.values()) == {STREAMS_PER_PEER}


async def test_oversized_gossip_is_refused_by_sender_and_receiver(nodes: Any) -> None:
    async with nodes.open(1) as node, nodes.open(2) as hostile:
        await linked(node, hostile)
        with pytest.raises(NetworkError, match="exceeds"):
            await hostile.network.publish(bytes(MAX_MESSAGE_BYTES + 1))
        await publish_raw(hostile, bytes(MAX_MESSAGE_BYTES + 1))
        await refused(node, "oversized gossip")
        await hostile.network.publish(bytes(MAX_MESSAGE_BYTES))
        await node.has(1)
        assert [len(data) for _, data in node.received] == [MAX_MESSAGE_BYTES]


async def test_malformed_messages_are_counted_logged_and_at_last_silence_their_sender(
    nodes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def accept(data: bytes) -> None:
        if data.startswith(b"bad"):
            raise Malformed("does not start well")

    async with nodes.open(1, accept=accept) as node, nodes.open(2) as hostile:
        await linked(node, hostile)
        peer = hostile.network.peer_id
        for number in range(8):
            await publish_raw(hostile, b"bad %d" % number)
        await refused(node, "malformed message", 4)
        while node.network.score(peer) > -40:
            await trio.lowlevel.checkpoint()
        assert f"ignored malformed message from {peer}: does not start well" in caplog.text
        before = node.network.stats.refused["malformed message"]
        for number in range(20):
            await publish_raw(hostile, b"bad again %d" % number)
        await hostile.network.sync_now(node.network.peer_id)
        assert node.network.stats.refused["malformed message"] <= before + 8
        assert node.received == []


async def test_a_refusal_that_is_not_the_senders_fault_costs_it_nothing(nodes: Any) -> None:
    def accept(data: bytes) -> None:
        if data == b"chain is away":
            raise LedgerError("no block")
        if data == b"our defect":
            raise ZeroDivisionError

    async with nodes.open(1, accept=accept) as node, nodes.open(2) as honest:
        await linked(node, honest)
        await publish_raw(honest, b"chain is away")
        await publish_raw(honest, b"our defect")
        await refused(node, "message (LedgerError)")
        await refused(node, "message the handler failed on")
        assert node.network.score(honest.network.peer_id) >= 0
        await honest.network.publish(b"fine")
        await node.has(1)


async def test_a_refused_message_is_not_passed_on(nodes: Any) -> None:
    def accept(data: bytes) -> None:
        if data == b"bad":
            raise Malformed("no")

    lone = replace(nodes.defaults, target_peers=0, sync_interval_s=1e6)
    async with AsyncExitStack() as stack:
        left = await stack.enter_async_context(nodes.open(1, config=lone))
        middle = await stack.enter_async_context(nodes.open(2, config=lone, accept=accept))
        right = await stack.enter_async_context(nodes.open(3, config=lone))
        await linked(left, middle)
        await linked(middle, right)
        await left.network.publish(b"bad")
        await left.network.publish(b"good")
        await right.has(1)
        assert [data for _, data in right.received] == [b"good"]


async def test_another_runs_topic_is_not_heard(nodes: Any) -> None:
    async with nodes.open(1) as node, nodes.open(2, config=replace(nodes.defaults, run="other")) as stranger:
        await node.network.dial(stranger.network.addresses[0])
        async with nodes.open(3) as friend:
            await linked(friend, node)
            await stranger.network.publish(b"of another run")
            await publish_raw(friend, b"of both", [topic_of("run"), topic_of("other")])
            await refused(node, "gossip on another topic")
            await friend.network.publish(b"of this run")
            await node.has(1)
            assert [data for _, data in node.received] == [b"of this run"]
            assert stranger.network.peer_id not in node.network.subscribers()


async def test_a_flood_is_cut_at_the_rate_limit(nodes: Any) -> None:
    tight = replace(nodes.defaults, gossip=GossipLimits(burst=5, per_s=0.001))
    async with nodes.open(1, config=tight) as node, nodes.open(2) as flooder:
        await linked(node, flooder)
        for number in range(10):
            await publish_raw(flooder, b"%d" % number)
        await refused(node, "gossip above the rate limit", 5)
        await node.has(5)
        assert len(node.received) == 5
        assert node.network.score(flooder.network.peer_id) >= 0


async def test_the_same_content_reaches_the_handler_once(nodes: Any) -> None:
    async with AsyncExitStack() as stack:
        first, second, third = [await stack.enter_async_context(nodes.open(n)) for n in (1, 2, 3)]
        await linked(first, third)
        await linked(second, third)
        await first.network.publish(b"same")
        await second.network.publish(b"same")
        await first.network.publish(b"last")
        await third.has(2)
        assert sorted(data for _, data in third.received) == [b"last", b"same"]


async def test_a_control_message_with_one_id_a_thousand_times_is_answered_once(nodes: Any) -> None:
    async with nodes.open(1) as node:
        router = node.network._running.gossip._router
        sent: list[Any] = []
        router.send_rpc = lambda peer, rpc, priority=False: sent.append(rpc)
        await node.network.publish(b"wanted")
        asker = ID.from_string(node.network.peer_id)
        wanted = rpc_pb2.ControlIWant(messageIDs=[message_id(b"wanted")] * 1000)
        await router.handle_iwant(wanted, asker)
        assert [len(rpc.publish) for rpc in sent] == [1]
        many = [message_id(b"%d" % n) for n in range(1000)]
        await router.handle_ihave(rpc_pb2.ControlIHave(topicID=topic_of("run"), messageIDs=many), asker)
        assert len(sent) == 1

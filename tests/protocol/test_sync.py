"""Anti-entropy: what gossip lost is found again, and a hostile answer costs one connection's patience."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import trio
from libp2p.host.exceptions import StreamFailure
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID

from protocol.canonical import canonical_json
from protocol.errors import Malformed, NetworkError
from protocol.gossip import MAX_MESSAGE_BYTES
from protocol.host import close_stream, connect, frame, parse_address, read_frame
from protocol.sync import (
    MAX_HAVE,
    MAX_REQUEST_BYTES,
    SYNC_PROTOCOL,
    MessageLog,
    SyncLimits,
    SyncRequest,
    message_digest,
)

OpenHost = Callable[[int], Any]
NO_PEERS = canonical_json({"peers": []})


def quiet(nodes: Any, **changes: Any) -> Any:
    """Keep a node from asking on its own, so that the test decides when."""
    return replace(nodes.defaults, sync_interval_s=1e6, **changes)


def request(**changes: Any) -> dict[str, Any]:
    return {"have": [], "peers": [], "run": "run", "since_round": 0} | changes


def test_a_log_knows_what_an_asker_lacks() -> None:
    log = MessageLog(max_messages=3)
    assert log.add(0, b"zero")
    assert not log.add(0, b"zero")
    for number, data in ((1, b"one"), (2, b"two"), (3, b"three")):
        log.add(number, data)
    assert len(log) == 3
    assert log.summary() == (1, [message_digest(data) for data in (b"one", b"two", b"three")])
    lacking = SyncRequest("run", 2, frozenset({message_digest(b"three")}))
    assert list(log.missing(lacking)) == [b"two"]
    log.prune(3)
    assert log.summary() == (3, [message_digest(b"three")])


def test_the_largest_request_fits_its_bound() -> None:
    address = "/dns4/" + "a" * (256 - 6)
    largest = request(have=["f" * 64] * MAX_HAVE, peers=[address] * 64, run="f" * 128, since_round=2**53 - 1)
    assert len(canonical_json(largest)) <= MAX_REQUEST_BYTES


async def test_a_late_joiner_catches_up_without_gossip(nodes: Any) -> None:
    async with nodes.open(1, config=quiet(nodes)) as old:
        for number in range(200):
            old.tell(b"message %d" % number)
        boot = (old.network.addresses[0],)
        async with nodes.open(2, config=quiet(nodes), bootstrap=boot) as late:
            await late.has(200)
            assert [data for _, data in late.received] == [b"message %d" % n for n in range(200)]
            assert {sender for sender, _ in late.received} == {old.network.peer_id}
            assert await late.network.sync_now(old.network.peer_id) == 0


async def test_one_bootstrap_address_is_enough_to_find_everybody(nodes: Any) -> None:
    async with AsyncExitStack() as stack:
        group = [await stack.enter_async_context(nodes.open(1))]
        boot = (group[0].network.addresses[0],)
        group += [await stack.enter_async_context(nodes.open(n, bootstrap=boot)) for n in (2, 3, 4)]
        for node in group:
            await node.network.wait_for(lambda node=node: len(node.network.connected_peers()) == 3)


async def test_a_message_refused_in_an_answer_does_not_stop_the_rest(nodes: Any) -> None:
    def accept(data: bytes) -> None:
        if data == b"bad":
            raise Malformed("no")
        if data == b"defect":
            raise ZeroDivisionError

    async with nodes.open(1) as old, nodes.open(2, accept=accept, config=quiet(nodes)) as asker:
        for data in (b"first", b"bad", b"defect", b"last"):
            old.tell(data)
        await asker.network.dial(old.network.addresses[0])
        await asker.has(2)
        assert [data for _, data in asker.received] == [b"first", b"last"]
        assert asker.network.stats.refused["malformed message"] >= 1
        assert asker.network.stats.refused["message the handler failed on"] >= 1


async def test_a_hostile_request_is_refused_with_a_reason(
    nodes: Any, bare_host: OpenHost, caplog: pytest.LogCaptureFixture
) -> None:
    config = quiet(nodes, sync=SyncLimits(idle_timeout_s=0.5, burst=64))
    async with nodes.open(1, config=config) as node, bare_host(9) as (hostile, _):
        peer = ID.from_string(await connect(hostile, parse_address(node.network.addresses[0])))
        hostile_requests = [
            frame(b"garbage"),
            frame(b'{"have": []}'),
            frame(canonical_json(request(have=["00" * 32] * (MAX_HAVE + 1)))),
            frame(canonical_json(request(have=["short"]))),
            frame(canonical_json(request(since_round=-1))),
            frame(canonical_json(request(since_round=True))),
            frame(canonical_json(request(peers=["/x"] * 65))),
            frame(canonical_json(request(peers=[1]))),
            frame(canonical_json(request(run="other"))),
            struct.pack("!I", 1 << 31) + b"x",
        ]
        for raw in [*hostile_requests, struct.pack("!I", 100) + b"x"]:
            stream = await hostile.new_stream(peer, [SYNC_PROTOCOL])
            await stream.write(raw)
            with pytest.raises((StreamError, EOFError)):
                await read_frame(stream, max_bytes=1 << 20)
        assert node.network.stats.refused["malformed sync request"] == len(hostile_requests)
        assert node.network.stats.refused["slow sync request"] == 1
        assert f"ignored malformed sync request from {hostile.get_id()}: not JSON" in caplog.text


async def test_addresses_that_are_none_are_left_alone(nodes: Any, bare_host: OpenHost) -> None:
    async with nodes.open(1, config=quiet(nodes)) as node, bare_host(9) as (odd, _):
        peer = ID.from_string(await connect(odd, parse_address(node.network.addresses[0])))
        stream = await odd.new_stream(peer, [SYNC_PROTOCOL])
        await stream.write(frame(canonical_json(request(peers=["nonsense", "/ip4/1.2.3.4/tcp/1"]))))
        assert b"peers" in await read_frame(stream, max_bytes=1 << 20)
        assert await read_frame(stream, max_bytes=1 << 20) == b""
        assert node.network.known_addresses() == node.network.addresses


async def test_a_peer_that_asks_without_pause_is_refused(nodes: Any, bare_host: OpenHost) -> None:
    config = quiet(nodes, sync=SyncLimits(burst=2, per_s=0.001))
    async with nodes.open(1, config=config) as node, bare_host(9) as (hasty, _):
        peer = ID.from_string(await connect(hasty, parse_address(node.network.addresses[0])))
        for _ in range(2):
            stream = await hasty.new_stream(peer, [SYNC_PROTOCOL])
            await stream.write(frame(canonical_json(request())))
            assert b"peers" in await read_frame(stream, max_bytes=1 << 20)
            assert await read_frame(stream, max_bytes=1 << 20) == b""
        with pytest.raises((StreamError, StreamFailure)):
            await read_frame(await hasty.new_stream(peer, [SYNC_PROTOCOL]), max_bytes=1 << 20)
        assert node.network.stats.refused["sync request above the rate limit"] == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (frame(b"garbage"), "not JSON"),
        (frame(canonical_json({"peers": [], "more": 1})), "other fields"),
        (frame(NO_PEERS) + struct.pack("!I", MAX_MESSAGE_BYTES + 1), "exceeds"),
        (frame(NO_PEERS) + frame(b"a") + frame(b"b") + frame(b"c"), "exceeds its limits"),
        (frame(NO_PEERS) + frame(b"a"), "no answer in time"),
        (frame(NO_PEERS) + b"\x00", "no answer in time"),
    ],
)
async def test_a_hostile_answer_is_refused_with_a_reason(
    nodes: Any, bare_host: OpenHost, answer: bytes, reason: str
) -> None:
    config = quiet(nodes, sync=SyncLimits(max_messages=2, idle_timeout_s=0.5))
    async with nodes.open(1, config=config) as node, bare_host(9) as (hostile, address):

        async def handler(stream: Any) -> None:
            await read_frame(stream, max_bytes=1 << 20)
            await stream.write(answer)
            await trio.sleep_forever()

        hostile.set_stream_handler(SYNC_PROTOCOL, handler)
        peer = await node.network.dial(address)
        with pytest.raises(NetworkError, match=reason):
            await node.network.sync_now(peer)


async def test_an_answer_is_cut_at_the_limits_of_the_answerer(nodes: Any, bare_host: OpenHost) -> None:
    config = quiet(nodes, sync=SyncLimits(max_messages=3, max_bytes=25))
    async with nodes.open(1, config=config) as node, bare_host(9) as (asker, _):
        for number in range(5):
            node.tell(b"%d" % number * 10)
        peer = ID.from_string(await connect(asker, parse_address(node.network.addresses[0])))
        stream = await asker.new_stream(peer, [SYNC_PROTOCOL])
        await stream.write(frame(canonical_json(request())))
        await read_frame(stream, max_bytes=1 << 20)
        got = [await read_frame(stream, max_bytes=1 << 20) for _ in range(3)]
        assert got == [b"0" * 10, b"1" * 10, b""]
        await close_stream(stream, reset=False)

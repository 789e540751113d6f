"""Blobs between real hosts: whatever a provider does, the asker ends with the right bytes or with reasons."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from blake3 import blake3
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID

from protocol.blobs import BlobStore
from protocol.errors import NetworkError
from protocol.host import close_stream, connect, parse_address, read_exactly
from protocol.ranges import BLOB_PROTOCOL, ExchangeLimits

OpenHost = Callable[[int], Any]
Serve = Callable[[Any, bytes, int], Awaitable[None]]
DATA = bytes(range(256)) * 12_000  # three pieces


def digest_of(data: bytes) -> str:
    return blake3(data).hexdigest()


def provider(host: Any, serve: Serve) -> None:
    """Answer blob requests as the test wants."""

    async def handler(stream: Any) -> None:
        digest, offset, _ = struct.unpack("!32sQQ", await read_exactly(stream, 48))
        await serve(stream, digest, offset)

    host.set_stream_handler(BLOB_PROTOCOL, handler)


def answer(size: int, body: bytes) -> Serve:
    async def serve(stream: Any, digest: bytes, offset: int) -> None:
        await stream.write(struct.pack("!Q", size) + body[offset:])
        await close_stream(stream, reset=False)

    return serve


async def never_answer(stream: Any, digest: bytes, offset: int) -> None:
    await trio.sleep_forever()


async def hang_up(stream: Any, digest: bytes, offset: int) -> None:
    await stream.reset()


def hasty(nodes: Any, **limits: Any) -> Any:
    return replace(nodes.defaults, blobs=ExchangeLimits(idle_timeout_s=1.0, busy_pause_s=0.05, **limits))


async def test_a_blob_travels_and_is_counted_on_both_sides(nodes: Any) -> None:
    async with nodes.open(1) as holder, nodes.open(2) as asker:
        digest = holder.store.put(DATA)
        await asker.network.dial(holder.network.addresses[0])
        path = await asker.network.fetch(digest, max_size=len(DATA), deadline_s=20)
        assert path.read_bytes() == DATA
        assert asker.network.stats.bytes_down >= len(DATA)
        await holder.network.wait_for(lambda: holder.network.stats.blobs_served > 0)  # after its last write
        assert holder.network.stats.bytes_up >= len(DATA)
        assert asker.network.stats.blobs_fetched == holder.network.stats.blobs_served == 1
        assert await asker.network.fetch(digest, max_size=0, deadline_s=0) == path, "it is here already"


async def test_an_empty_blob_travels_too(nodes: Any) -> None:
    async with nodes.open(1) as holder, nodes.open(2) as asker:
        digest = holder.store.put(b"")
        path = await asker.network.fetch(
            digest, max_size=0, deadline_s=20, providers=[holder.network.addresses[0]]
        )
        assert path.read_bytes() == b""


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        pytest.param(answer(len(DATA), DATA[:-1]), "transfer broke at byte 3071999", id="truncated"),
        pytest.param(answer(1 << 50, DATA), "offers 1125899906842624 bytes", id="oversized"),
        pytest.param(answer(len(DATA), DATA[:-1] + b"?"), "received bytes hash to", id="wrong-hash"),
        pytest.param(answer(2**64 - 1, b""), "does not have it", id="not-here"),
        pytest.param(answer(3, b"xyz"), "received bytes hash to", id="short"),
        pytest.param(never_answer, "no progress for 1 s", id="silent"),
        pytest.param(hang_up, "transfer broke at byte 0", id="hangs-up"),
    ],
)
async def test_a_bad_provider_is_named_and_the_next_one_is_tried(
    nodes: Any, bare_host: OpenHost, serve: Serve, reason: str
) -> None:
    async with (
        bare_host(9) as (bad, bad_address),
        nodes.open(1) as good,
        nodes.open(2, config=hasty(nodes)) as asker,
    ):
        provider(bad, serve)
        digest = good.store.put(DATA)
        with pytest.raises(NetworkError) as caught:
            await asker.network.fetch(digest, max_size=len(DATA), deadline_s=20, providers=[bad_address])
        assert f"{bad.get_id()}: {reason}" in caught.value.message
        assert not asker.store.has(digest)
        both = [bad_address, good.network.addresses[0]]
        path = await asker.network.fetch(digest, max_size=len(DATA), deadline_s=20, providers=both)
        assert path.read_bytes() == DATA


async def test_an_interrupted_transfer_resumes_where_it_stopped(nodes: Any, bare_host: OpenHost) -> None:
    offsets: list[int] = []

    async def half(stream: Any, digest: bytes, offset: int) -> None:
        offsets.append(offset)
        end = len(DATA) // 2 if len(offsets) == 1 else len(DATA)
        await stream.write(struct.pack("!Q", len(DATA)) + DATA[offset:end])
        await close_stream(stream, reset=False)

    async with bare_host(9) as (shaky, address), nodes.open(2) as asker:
        provider(shaky, half)
        with pytest.raises(NetworkError, match=f"transfer broke at byte {len(DATA) // 2}"):
            await asker.network.fetch(digest_of(DATA), max_size=len(DATA), deadline_s=20, providers=[address])
        path = await asker.network.fetch(
            digest_of(DATA), max_size=len(DATA), deadline_s=20, providers=[address]
        )
        assert path.read_bytes() == DATA
        assert offsets == [0, len(DATA) // 2]


async def test_a_liars_first_half_does_not_spoil_an_honest_second(nodes: Any, bare_host: OpenHost) -> None:
    async with bare_host(9) as (liar, address), nodes.open(1) as honest, nodes.open(2) as asker:
        provider(liar, answer(len(DATA), b"?" * (len(DATA) // 2)))
        digest = honest.store.put(DATA)
        both = [address, honest.network.addresses[0]]
        path = await asker.network.fetch(digest, max_size=len(DATA), deadline_s=20, providers=both)
        assert path.read_bytes() == DATA
        assert asker.network.stats.refused["blob with a wrong hash"] == 0


async def test_nobody_known_is_said_so(nodes: Any) -> None:
    async with nodes.open(1) as lonely:
        with pytest.raises(NetworkError, match="no provider is known"):
            await lonely.network.fetch("ab" * 32, max_size=1, deadline_s=5)


async def test_the_deadline_holds_while_a_provider_drips(nodes: Any, bare_host: OpenHost) -> None:
    async def drip(stream: Any, digest: bytes, offset: int) -> None:
        await stream.write(struct.pack("!Q", len(DATA)))
        while True:
            await stream.write(b".")
            await trio.sleep(0.05)  # progress, but too little

    async with bare_host(9) as (slow, address), nodes.open(2) as asker:
        provider(slow, drip)
        with pytest.raises(NetworkError, match=r"not complete at its deadline .*under way"):
            await asker.network.fetch(
                digest_of(DATA), max_size=len(DATA), deadline_s=0.8, providers=[address]
            )


async def test_two_fetches_of_one_blob_transfer_it_once(nodes: Any) -> None:
    async with nodes.open(1) as holder, nodes.open(2) as asker:
        digest = holder.store.put(DATA)
        await asker.network.dial(holder.network.addresses[0])
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(lambda: asker.network.fetch(digest, max_size=len(DATA), deadline_s=20))
        await holder.network.wait_for(lambda: holder.network.stats.blobs_served > 0)  # after its last write
        assert asker.network.stats.blobs_fetched == holder.network.stats.blobs_served == 1
        assert asker.network.stats.bytes_down < 2 * len(DATA)


async def test_a_request_that_never_comes_times_out(nodes: Any, bare_host: OpenHost) -> None:
    async with nodes.open(1, config=hasty(nodes)) as node, bare_host(9) as (loris, _):
        peer = ID.from_string(await connect(loris, parse_address(node.network.addresses[0])))
        stream = await loris.new_stream(peer, [BLOB_PROTOCOL])
        await stream.write(b"\x00" * 10)
        with pytest.raises(StreamError):
            await stream.read(1)
        assert node.network.stats.refused["slow blob request"] == 1


async def test_uploads_are_bounded_and_a_stalled_reader_frees_its_slot(
    nodes: Any, bare_host: OpenHost
) -> None:
    async with (
        nodes.open(1, config=hasty(nodes, max_uploads=1)) as holder,
        nodes.open(2, config=hasty(nodes)) as asker,
        bare_host(9) as (greedy, _),
    ):
        big = holder.store.put(bytes(20 << 20))
        small = holder.store.put(b"small")
        peer = ID.from_string(await connect(greedy, parse_address(holder.network.addresses[0])))
        stalled = await greedy.new_stream(peer, [BLOB_PROTOCOL])
        await stalled.write(struct.pack("!32sQQ", bytes.fromhex(big), 0, 0))
        assert struct.unpack("!Q", await read_exactly(stalled, 8)) == (20 << 20,)
        refused = await greedy.new_stream(peer, [BLOB_PROTOCOL])
        await refused.write(struct.pack("!32sQQ", bytes.fromhex(small), 0, 0))
        assert struct.unpack("!Q", await read_exactly(refused, 8)) == (2**64 - 2,)
        # The reader stalls beyond the idle timeout; then the slot serves somebody else, who waited for it.
        path = await asker.network.fetch(
            small, max_size=5, deadline_s=20, providers=[holder.network.addresses[0]]
        )
        assert path.read_bytes() == b"small"


async def test_a_provider_is_not_asked_for_more_at_once_than_it_gives_one_peer(
    nodes: Any, bare_host: OpenHost
) -> None:
    async with bare_host(9) as (host, address), nodes.open(2) as asker:
        blobs = {digest_of(bytes([n]) * 100): bytes([n]) * 100 for n in range(5)}
        asked: list[str] = []
        go_on = trio.Event()

        async def serve(stream: Any, digest: bytes, offset: int) -> None:
            asked.append(digest.hex())
            await go_on.wait()
            await answer(100, blobs[digest.hex()])(stream, digest, offset)

        provider(host, serve)

        async def fetch(digest: str) -> None:
            await asker.network.fetch(digest, max_size=100, deadline_s=20, providers=[address])

        async with trio.open_nursery() as nursery:
            for digest in blobs:
                nursery.start_soon(fetch, digest)
            while len(asked) < ExchangeLimits().max_uploads_per_peer:
                await trio.testing.wait_all_tasks_blocked()
            places = asker.network._running.exchange._places[address.rpartition("/")[2]]
            while places.statistics().tasks_waiting < len(blobs) - len(asked):
                await trio.testing.wait_all_tasks_blocked()
            assert len(asked) == ExchangeLimits().max_uploads_per_peer
            go_on.set()
        assert sorted(asked) == sorted(blobs)
        assert not asker.network._running.exchange._places, "nothing is remembered of who is not asked"


async def test_who_is_busy_with_us_is_passed_over_for_who_is_not(nodes: Any, bare_host: OpenHost) -> None:
    limits = ExchangeLimits(busy_pause_s=0.05)
    async with (
        bare_host(9) as (stuck, address),
        nodes.open(1) as holder,
        nodes.open(2, config=replace(nodes.defaults, blobs=limits)) as asker,
    ):
        asked: list[str] = []

        async def take_it_and_wait(stream: Any, digest: bytes, offset: int) -> None:
            asked.append(digest.hex())
            await trio.sleep_forever()

        provider(stuck, take_it_and_wait)
        wanted = holder.store.put(DATA)
        elsewhere = partial(asker.network.fetch, max_size=9, deadline_s=60, providers=[address])
        async with trio.open_nursery() as nursery:
            for n in range(limits.max_uploads_per_peer):
                nursery.start_soon(elsewhere, digest_of(bytes([n])))
            while len(asked) < limits.max_uploads_per_peer:
                await trio.testing.wait_all_tasks_blocked()
            both = [address, holder.network.addresses[0]]
            with trio.fail_after(limits.idle_timeout_s / 2):  # before a place could get free
                await asker.network.fetch(wanted, max_size=len(DATA), deadline_s=20, providers=both)
            assert wanted not in asked
            nursery.cancel_scope.cancel()


async def test_a_blob_that_may_not_be_served_looks_absent(nodes: Any) -> None:
    async with nodes.open(1, may_serve=lambda peer, digest: False) as holder, nodes.open(2) as asker:
        digest = holder.store.put(DATA)
        with pytest.raises(NetworkError, match="does not have it"):
            await asker.network.fetch(
                digest, max_size=len(DATA), deadline_s=20, providers=[holder.network.addresses[0]]
            )
        assert holder.network.stats.refused["blob request not allowed"] == 1


async def test_an_offset_beyond_the_end_gets_no_bytes(nodes: Any, bare_host: OpenHost) -> None:
    async with nodes.open(1) as holder, bare_host(9) as (odd, _):
        digest = holder.store.put(b"short")
        peer = ID.from_string(await connect(odd, parse_address(holder.network.addresses[0])))
        stream = await odd.new_stream(peer, [BLOB_PROTOCOL])
        await stream.write(struct.pack("!32sQQ", bytes.fromhex(digest), 2**63, 2**64 - 1))
        assert struct.unpack("!Q", await read_exactly(stream, 8)) == (5,)
        await stream.close()
        with pytest.raises(StreamError):
            await stream.read(1)


async def test_one_stream_carries_many_requests_however_far_ahead_they_are_asked(
    nodes: Any, bare_host: OpenHost
) -> None:
    async with nodes.open(1) as holder, bare_host(9) as (asker, _):
        digest = bytes.fromhex(holder.store.put(DATA))
        peer = ID.from_string(await connect(asker, parse_address(holder.network.addresses[0])))
        stream = await asker.new_stream(peer, [BLOB_PROTOCOL])
        wanted = [(5, 7), (0, 3), (len(DATA), 9), (len(DATA) - 2, 2**64 - 1), (len(DATA) - 1, 0)]
        for offset, length in wanted:
            await stream.write(struct.pack("!32sQQ", digest, offset, length))
        await stream.write(struct.pack("!32sQQ", bytes(32), 0, 1))
        for offset, length in wanted:
            expected = DATA[offset : offset + length] if length else DATA[offset:]
            assert struct.unpack("!Q", await read_exactly(stream, 8)) == (len(DATA),)
            if expected:
                assert await read_exactly(stream, len(expected)) == expected
        assert struct.unpack("!Q", await read_exactly(stream, 8)) == (2**64 - 1,)
        await stream.close()
        with pytest.raises(StreamError):
            await stream.read(1)
        assert not holder.network.stats.refused


async def test_two_providers_share_nothing_but_the_blob(nodes: Any) -> None:
    async with AsyncExitStack() as stack:
        one, two, asker = [await stack.enter_async_context(nodes.open(n)) for n in (1, 2, 3)]
        digest = two.store.put(DATA)
        both = [one.network.addresses[0], two.network.addresses[0]]
        await asker.network.fetch(digest, max_size=len(DATA), deadline_s=20, providers=both)
        assert BlobStore(asker.store.root).get(digest, max_size=len(DATA)) == DATA


async def test_a_withheld_blob_looks_absent_until_it_is_not(nodes: Any) -> None:
    async with nodes.open(1) as holder, nodes.open(2) as asker:
        digest = holder.store.put(DATA)
        holder.store.withheld = frozenset((digest,))
        await asker.network.dial(holder.network.addresses[0])
        with pytest.raises(NetworkError, match="does not have it"):
            await asker.network.fetch(digest, max_size=len(DATA), deadline_s=20)
        assert holder.store.get(digest, max_size=len(DATA)) == DATA, "its owner reads it all the same"
        holder.store.withheld = frozenset()
        assert await asker.network.fetch(digest, max_size=len(DATA), deadline_s=20)


async def test_a_blob_comes_from_those_who_live_though_donors_die_and_stall_in_its_middle(
    nodes: Any, bare_host: OpenHost
) -> None:
    """Nothing that a dead donor gave is fetched twice, and whoever spoilt a transfer is asked last the next time."""
    asked: list[tuple[str, int]] = []

    def noting(name: str, serve: Serve) -> Serve:
        async def serve_noted(stream: Any, digest: bytes, offset: int) -> None:
            asked.append((name, offset))
            await serve(stream, digest, offset)

        return serve_noted

    async def die_in_the_middle(stream: Any, digest: bytes, offset: int) -> None:
        await stream.write(struct.pack("!Q", len(DATA)) + DATA[: len(DATA) // 2])
        await close_stream(stream, reset=False)

    async def stall(stream: Any, digest: bytes, offset: int) -> None:
        await stream.write(struct.pack("!Q", len(DATA)) + DATA[offset : offset + 1000])
        await trio.sleep_forever()

    async with (
        bare_host(8) as (dying, first),
        bare_host(9) as (stalling, second),
        nodes.open(1) as good,
        nodes.open(2, config=hasty(nodes)) as asker,
    ):
        provider(dying, noting("dying", die_in_the_middle))
        provider(stalling, noting("stalling", stall))
        digest = good.store.put(DATA)
        donors = [first, second, good.network.addresses[0]]
        path = await asker.network.fetch(digest, max_size=len(DATA), deadline_s=20, providers=donors)
        assert path.read_bytes() == DATA
        assert asked == [("dying", 0), ("stalling", len(DATA) // 2)]
        assert asker.network.stats.bytes_down == len(DATA)
        asked.clear()
        more = good.store.put(DATA[1:])
        path = await asker.network.fetch(more, max_size=len(DATA), deadline_s=20, providers=donors)
        assert path.read_bytes() == DATA[1:]
        assert asked == []


async def test_a_donor_that_drips_is_left_for_another_and_not_begun_with_again(
    nodes: Any, bare_host: OpenHost
) -> None:
    async def drip(stream: Any, digest: bytes, offset: int) -> None:
        await stream.write(struct.pack("!Q", len(DATA)))
        while True:
            await stream.write(DATA[offset : offset + 1])
            offset += 1
            await trio.sleep(0.05)

    async with (
        bare_host(9) as (slow, address),
        nodes.open(1) as good,
        nodes.open(2, config=hasty(nodes)) as asker,
    ):
        provider(slow, drip)
        digest = good.store.put(DATA)
        with pytest.raises(NetworkError, match=r"only \d+ bytes in 1 s"):
            await asker.network.fetch(digest, max_size=len(DATA), deadline_s=20, providers=[address])
        both = [address, good.network.addresses[0]]
        path = await asker.network.fetch(digest, max_size=len(DATA), deadline_s=20, providers=both)
        assert path.read_bytes() == DATA
        assert asker.network.stats.bytes_down == len(DATA), "what dripped is not fetched again"

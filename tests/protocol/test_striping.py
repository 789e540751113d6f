"""Large blobs from several hosts at once: whatever some donors do, the others make it whole."""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from blake3 import blake3
from libp2p.network.stream.exceptions import StreamError

from protocol.errors import NetworkError
from protocol.host import read_exactly
from protocol.ranges import BLOB_PROTOCOL, BUSY, NOT_HERE, PIECE_BYTES, ExchangeLimits
from protocol.striping import FIRST_PIECES, STRIPE_BYTES, Window

OpenHost = Callable[[int], Any]
DATA = random.Random(7).randbytes(STRIPE_BYTES + 3 * PIECE_BYTES + 12_345)
DIGEST = blake3(DATA).hexdigest()


class Donor:
    """Hold a blob, note what is asked and given, and wait or misbehave where a test wants it."""

    def __init__(self, host: Any, address: str) -> None:
        self.name = str(host.get_id())
        self.address = address
        self.data = DATA
        self.size: int | None = None  # to tell; None: the right one
        self.asked: list[tuple[int, int]] = []
        self.given = 0
        self.was_asked = trio.Event()
        self.before_size: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.before_piece: Callable[[Any], Awaitable[None]] = _at_once
        self.after_piece: Callable[[], None] = lambda: None
        host.set_stream_handler(BLOB_PROTOCOL, self._serve)

    async def _serve(self, stream: Any) -> None:
        with suppress(StreamError):
            while True:
                _, offset, length = struct.unpack("!32sQQ", await read_exactly(stream, 48))
                self.asked.append((offset, length))
                self.was_asked.set()
                await self.before_size()
                size = len(self.data) if self.size is None else self.size
                await stream.write(struct.pack("!Q", size))
                if size in (NOT_HERE, BUSY):
                    continue
                end = min(len(self.data), offset + length) if length else len(self.data)
                for at in range(offset, end, PIECE_BYTES):
                    await self.before_piece(stream)
                    await stream.write(self.data[at : min(end, at + PIECE_BYTES)])
                    self.given += min(end, at + PIECE_BYTES) - at
                    self.after_piece()


async def _at_once(stream: Any) -> None:
    await trio.lowlevel.checkpoint()


def each_gives_a_piece_first(donors: list[Donor]) -> None:
    """Let nobody give a second piece until all gave one."""
    all_gave = trio.Event()

    async def wait(donor: Donor, stream: Any) -> None:
        if donor.given:
            await all_gave.wait()

    def look() -> None:
        if all(donor.given for donor in donors):
            all_gave.set()

    for donor in donors:
        donor.before_piece, donor.after_piece = partial(wait, donor), look


def begin_when_asked(donor: Donor, other: Donor) -> None:
    """Let a donor tell its size, and give bytes once another was asked."""

    async def wait(stream: Any) -> None:
        await other.was_asked.wait()

    donor.before_piece = wait


@pytest.fixture
def swarm(nodes: Any, bare_host: OpenHost) -> Callable[[int], Any]:
    """Open so many donors, and a node that knows them."""

    @asynccontextmanager
    async def opened(count: int) -> AsyncIterator[tuple[Any, list[Donor], Callable[..., Awaitable[bytes]]]]:
        limits = ExchangeLimits(busy_pause_s=0.05, idle_timeout_s=60.0)  # none of these tests waits that long
        config = replace(nodes.defaults, blobs=limits)
        async with AsyncExitStack() as stack:
            donors = [Donor(*await stack.enter_async_context(bare_host(10 + n))) for n in range(count)]
            asker = await stack.enter_async_context(nodes.open(2, config=config))

            async def fetch(digest: str = DIGEST, *, shared: bool = True, most: int = len(DATA)) -> bytes:
                providers = [donor.address for donor in donors]
                path = await asker.network.fetch(
                    digest, max_size=most, deadline_s=30, providers=providers, shared=shared
                )
                return bytes(path.read_bytes())

            yield asker, donors, fetch

    return opened


@pytest.mark.parametrize("count", [2, 4])
async def test_every_donor_gives_a_part(swarm: Any, count: int) -> None:
    async with swarm(count) as (asker, donors, fetch):
        each_gives_a_piece_first(donors)
        assert await fetch() == DATA
        assert all(donor.given for donor in donors)
        assert donors[0].asked[0] == (0, FIRST_PIECES * PIECE_BYTES)
        assert {donor.asked[0][1] for donor in donors[1:]} == {PIECE_BYTES}
        assert asker.network.stats.blobs_fetched == 1
        assert not asker.network.stats.refused


async def test_holders_of_the_product_give_the_parts_that_they_are_asked_for(nodes: Any) -> None:
    async with AsyncExitStack() as stack:
        holders = [await stack.enter_async_context(nodes.open(n)) for n in (1, 3)]
        asker = await stack.enter_async_context(nodes.open(2))
        for holder in holders:
            holder.store.put(DATA)
        path = await asker.network.fetch(
            DIGEST,
            max_size=len(DATA),
            deadline_s=30,
            providers=[holder.network.addresses[0] for holder in holders],
            shared=True,
        )
        assert path.read_bytes() == DATA
        assert sum(holder.network.stats.bytes_up for holder in holders) >= len(DATA)
        assert not any(holder.network.stats.refused["broken blob request"] for holder in holders)


@pytest.mark.parametrize("place", [0, 1])
async def test_the_pieces_of_a_donor_that_dies_go_to_another(swarm: Any, place: int) -> None:
    async with swarm(2) as (asker, donors, fetch):
        dying, other = donors[place], donors[1 - place]

        async def die(stream: Any) -> None:
            await other.was_asked.wait()
            await stream.write(DATA[:1000])
            await stream.reset()

        begin_when_asked(other, dying)
        dying.before_piece = die
        assert await fetch() == DATA
        assert dying.given == 0
        assert asker.network.stats.refused["broken blob transfer"] == 1


@pytest.mark.parametrize("place", [0, 1])
async def test_who_waits_for_a_stalled_donor_takes_its_pieces(swarm: Any, place: int) -> None:
    """Nothing times out before the deadline: another donor has to take over."""
    async with swarm(2) as (_, donors, fetch):
        stalling, other = donors[place], donors[1 - place]

        async def stall(stream: Any) -> None:
            await stream.write(DATA[:1000])
            await trio.sleep_forever()

        begin_when_asked(other, stalling)
        stalling.before_piece = stall
        assert await fetch() == DATA
        assert stalling.given == 0


@pytest.mark.parametrize("place", [0, 1])
async def test_a_liar_is_found_by_the_right_blob_and_gives_no_parts_again(swarm: Any, place: int) -> None:
    async with swarm(3) as (asker, donors, fetch):
        each_gives_a_piece_first(donors)
        liar = donors[place]
        liar.data = DATA[::-1]
        assert await fetch() == DATA
        stats = asker.network.stats
        assert stats.refused == {"blob with a wrong hash": stats.refused["blob with a wrong hash"]}
        assert [*stats.refused_of] == [liar.name], "nobody honest is blamed"
        whole = [donor for donor in donors if (0, 0) in donor.asked]
        assert whole, "somebody was asked alone"
        assert stats.bytes_down <= (len(whole) + 2) * len(DATA)
        # The next blob comes from the honest ones, at once.
        again, asked = blake3(DATA[1:]).hexdigest(), len(liar.asked)
        for donor in donors:
            donor.data, donor.given = DATA[1:], 0
        honest = [donor for donor in donors if donor is not liar]
        each_gives_a_piece_first(honest)
        assert await fetch(again) == DATA[1:]
        assert all(donor.given for donor in honest)
        assert len(liar.asked) == asked


async def test_a_first_donor_that_gave_nothing_is_not_blamed_for_the_lies_of_another(swarm: Any) -> None:
    async with swarm(2) as (asker, donors, fetch):
        dying, liar = donors

        async def die(stream: Any) -> None:
            await liar.was_asked.wait()
            await stream.reset()

        dying.before_piece = die
        liar.data = DATA[::-1]
        with pytest.raises(NetworkError, match="received bytes hash to"):
            await fetch()
        refused = asker.network.stats.refused_of
        assert refused[liar.name] == {"blob with a wrong hash": 1}
        assert "blob with a wrong hash" not in refused[dying.name]


async def test_donors_who_tell_another_size_give_no_parts(swarm: Any) -> None:
    async with swarm(3) as (asker, donors, fetch):
        begin_when_asked(donors[0], donors[1])
        donors[1].size = len(DATA) - 1
        donors[2].size = 2**64 - 3
        assert await fetch() == DATA
        assert asker.network.stats.blobs_fetched == 1
        assert all(donor.given <= 2 * PIECE_BYTES for donor in donors[1:])


async def test_a_first_donor_that_tells_a_wrong_size_does_not_keep_the_others_from_giving_the_blob(
    swarm: Any,
) -> None:
    async with swarm(2) as (asker, donors, fetch):
        liar, honest = donors
        begin_when_asked(liar, honest)
        liar.data = DATA + DATA[:PIECE_BYTES]
        assert await fetch(most=2 * len(DATA)) == DATA
        assert honest.asked[-1] == (0, 0)
        assert [*asker.network.stats.refused_of] == [liar.name]


async def test_strangers_are_asked_once_where_only_one_has_it(swarm: Any) -> None:
    async with swarm(4) as (asker, donors, fetch):
        begin_when_asked(donors[0], donors[3])
        for stranger in donors[1:]:
            stranger.size = NOT_HERE
        assert await fetch() == DATA
        assert [len(stranger.asked) for stranger in donors[1:]] == [1, 1, 1]
        assert asker.network.stats.bytes_down == len(DATA)


async def test_a_busy_donor_is_asked_again_while_others_give(swarm: Any) -> None:
    async with swarm(2) as (_, donors, fetch):
        free, busy = donors
        busy.size = BUSY
        asked_again = trio.Event()

        async def note() -> None:
            if len(busy.asked) == 2:
                busy.size = None
                asked_again.set()

        async def wait(stream: Any) -> None:
            await asked_again.wait()

        busy.before_size, free.before_piece = note, wait
        assert await fetch() == DATA
        assert len(busy.asked) > 1


async def test_what_came_in_order_is_not_fetched_again_after_a_fetch_was_given_up(swarm: Any) -> None:
    async with swarm(2) as (asker, donors, fetch):
        stuck = trio.Event()

        async def first_pieces(stream: Any) -> None:
            if donors[0].given == 3 * PIECE_BYTES:
                stuck.set()
                await trio.sleep_forever()

        donors[0].before_piece = first_pieces
        donors[1].before_size = trio.sleep_forever
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch)
            await stuck.wait()
            kept = asker.store.root / "partial" / DIGEST
            while kept.stat().st_size < 3 * PIECE_BYTES:
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        for donor in donors:
            donor.asked.clear()
            donor.before_piece, donor.before_size = _at_once, trio.lowlevel.checkpoint
        assert await fetch() == DATA
        assert donors[0].asked[0][0] == 3 * PIECE_BYTES
        assert asker.network.stats.refused["blob with a wrong hash"] == 0


@pytest.mark.parametrize(
    ("size", "shared", "length"),
    [
        pytest.param(FIRST_PIECES * PIECE_BYTES, True, FIRST_PIECES * PIECE_BYTES, id="small"),
        pytest.param(len(DATA), False, 0, id="its-owner's-alone"),
    ],
)
async def test_what_need_not_be_shared_takes_one_request(
    swarm: Any, size: int, shared: bool, length: int
) -> None:
    async with swarm(2) as (_, donors, fetch):
        donors[0].data = DATA[:size]
        assert await fetch(blake3(DATA[:size]).hexdigest(), shared=shared) == DATA[:size]
        assert (donors[0].asked, donors[1].asked) == ([(0, length)], [])


async def test_what_is_too_small_for_several_comes_from_the_first_in_two_requests(swarm: Any) -> None:
    async with swarm(2) as (_, donors, fetch):
        donors[0].data = DATA[: STRIPE_BYTES - 1]
        assert await fetch(blake3(DATA[: STRIPE_BYTES - 1]).hexdigest()) == DATA[: STRIPE_BYTES - 1]
        first = FIRST_PIECES * PIECE_BYTES
        assert (donors[0].asked, donors[1].asked) == ([(0, first), (first, 0)], [])


@pytest.mark.parametrize("seed", range(20))
def test_a_window_gives_every_byte_once_in_order_and_holds_no_more_than_its_pieces(seed: int) -> None:
    rng = random.Random(seed)
    start, total = rng.randrange(50), rng.randrange(50, 400)
    data, out = rng.randbytes(total), bytearray()
    window = Window(start, total, piece_bytes=7, pieces=6)
    held: dict[str, list[int]] = {name: [] for name in "abcd"}
    while not window.finished:
        name = rng.choice("abcd")
        match rng.randrange(5):
            case 0 if len(held) > 1:
                window.leave(name)
                held[name].clear()
            case 1 | 2 if held[name]:
                piece = held[name].pop(0)
                offset, length = window.span(piece)
                window.deliver(name, piece, data[offset : offset + length])
            case _:
                piece_or_none = window.take(name, idle=not held[name])
                if piece_or_none is not None:
                    assert window.head <= piece_or_none < window.head + 6
                    assert piece_or_none not in held[name]
                    held[name].append(piece_or_none)
        assert window.waiting_bytes <= 6 * 7
        while (ready := window.next()) is not None:
            out += ready[1]
            window.appended()
    assert bytes(out) == data[start:]


def test_an_idle_donor_takes_the_piece_that_holds_up_the_rest_and_nobody_twice() -> None:
    window = Window(0, 100, piece_bytes=10, pieces=3)
    assert [window.take("slow", idle=False) for _ in range(2)] == [0, 1]
    assert window.take("fast", idle=False) == 2
    window.deliver("fast", 2, b"x" * 10)
    assert window.take("fast", idle=False) is None
    assert window.take("fast", idle=True) == 0
    assert window.take("faster", idle=True) == 1
    window.deliver("fast", 0, b"f" * 10)
    window.deliver("slow", 0, b"s" * 10)
    assert window.next() == ("fast", b"f" * 10)
    window.appended()
    assert window.take("slow", idle=True) == 3

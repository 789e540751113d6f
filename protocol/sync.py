"""Anti-entropy: peers ask each other for the messages they missed, because gossip loses some in silence.

`/murmur/sync/1.0.0`: the asker sends one frame of canonical JSON {"have": [message ids], "peers":
[addresses], "run": id, "since_round": n}; the answer is a frame {"peers": [addresses]}, then one frame a
message, then an empty frame. A frame is a u32 big-endian length and that many bytes. Addresses travel both
ways, so that one bootstrap address is enough to find the rest.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import trio
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID

from protocol.canonical import canonical_json, digest, parse_canonical_json
from protocol.errors import Malformed, MurmurError, NetworkError
from protocol.gossip import MAX_MESSAGE_BYTES, MessageHandler
from protocol.host import MAX_ADDRESS_CHARS, close_stream, frame, read_frame, reason_of
from protocol.rate import TokenBucket
from protocol.stats import NetworkStats

log = logging.getLogger(__name__)

SYNC_PROTOCOL = TProtocol("/murmur/sync/1.0.0")
MAX_HAVE = 4096
MAX_ADDRESSES = 64
ANSWERS_PER_PEER = 2  # one may be closing while the next is asked for
MAX_REQUEST_BYTES = MAX_HAVE * 67 + MAX_ADDRESSES * (MAX_ADDRESS_CHARS + 3) + 1024
MAX_PEERS_BYTES = MAX_ADDRESSES * (MAX_ADDRESS_CHARS + 3) + 1024
MAX_ROUND = 2**53 - 1


@dataclass(frozen=True)
class SyncLimits:
    """Bound one answer and the patience for it."""

    max_messages: int = 4096
    max_bytes: int = 16 << 20
    idle_timeout_s: float = 10.0
    deadline_s: float = 60.0
    burst: int = 16  # requests one peer may make at once
    per_s: float = 1.0  # and in the long run


@dataclass(frozen=True)
class SyncRequest:
    """Ask for the messages of `since_round` and later whose ids (`message_digest`) are not in `have`."""

    run: str
    since_round: int
    have: frozenset[str]


def message_digest(data: bytes) -> str:
    """Return the id that names a message in `have`: its BLAKE3 digest, 64 hex digits."""
    return digest(data)


Summary = Callable[[], tuple[int, Sequence[str]]]
"""Tell (since_round, ids held from that round on); of more than `MAX_HAVE` ids the last ones are sent."""

Missing = Callable[[SyncRequest], Iterable[bytes]]
"""Yield the messages a request lacks, oldest first; consumed lazily and cut at the limits."""


class MessageLog:
    """Keep recent messages by round, in memory, as the simplest answer to `Summary` and `Missing`."""

    def __init__(self, *, max_messages: int = MAX_HAVE) -> None:
        self._messages: OrderedDict[str, tuple[int, bytes]] = OrderedDict()
        self._max = max_messages

    def add(self, round_number: int, data: bytes) -> bool:
        """Remember a message; return False if it was known."""
        name = message_digest(data)
        if name in self._messages:
            return False
        self._messages[name] = (round_number, data)
        while len(self._messages) > self._max:
            self._messages.popitem(last=False)
        return True

    def prune(self, before_round: int) -> None:
        """Forget messages of rounds before this one."""
        for name in [name for name, (number, _) in self._messages.items() if number < before_round]:
            del self._messages[name]

    def __len__(self) -> int:
        return len(self._messages)

    def summary(self) -> tuple[int, Sequence[str]]:
        """Return the oldest round held and every id."""
        return min((number for number, _ in self._messages.values()), default=0), list(self._messages)

    def missing(self, request: SyncRequest) -> Iterable[bytes]:
        """Yield what the request lacks, in the order it was added."""
        held = list(self._messages.items())
        return (
            data
            for name, (number, data) in held
            if number >= request.since_round and name not in request.have
        )


def _addresses(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_ADDRESSES:
        raise Malformed(f"peers is not a list of at most {MAX_ADDRESSES}")
    if not all(isinstance(one, str) and len(one) <= MAX_ADDRESS_CHARS for one in value):
        raise Malformed("peers holds something that is not an address")
    return tuple(value)


def _parse_request(data: bytes) -> tuple[SyncRequest, tuple[str, ...]]:
    value = parse_canonical_json(data, max_bytes=MAX_REQUEST_BYTES)
    if set(value) != {"have", "peers", "run", "since_round"}:
        raise Malformed("sync request has other fields")
    run, since, have = value["run"], value["since_round"], value["have"]
    if not isinstance(run, str) or len(run) > 128:
        raise Malformed("run is not a short string")
    if isinstance(since, bool) or not isinstance(since, int) or not 0 <= since <= MAX_ROUND:
        raise Malformed("since_round is not a round number")
    if (
        not isinstance(have, list)
        or len(have) > MAX_HAVE
        or not all(isinstance(o, str) and len(o) == 64 for o in have)
    ):
        raise Malformed(f"have is not a list of at most {MAX_HAVE} digests")
    return SyncRequest(run, since, frozenset(have)), _addresses(value["peers"])


def _parse_peers(data: bytes) -> tuple[str, ...]:
    value = parse_canonical_json(data, max_bytes=MAX_PEERS_BYTES)
    if set(value) != {"peers"}:
        raise Malformed("sync answer has other fields")
    return _addresses(value["peers"])


class Sync:
    """Answer the questions of peers, and ask them."""

    def __init__(
        self,
        host: IHost,
        run: str,
        handler: MessageHandler,
        stats: NetworkStats,
        *,
        summary: Summary,
        missing: Missing,
        known: Callable[[], Sequence[str]],
        learn: Callable[[str, Sequence[str]], None],
        limits: SyncLimits = SyncLimits(),
    ) -> None:
        self._host = host
        self._run = run
        self._handler = handler
        self._stats = stats
        self._summary = summary
        self._missing = missing
        self._known = known
        self._learn = learn
        self._limits = limits
        self._answering: Counter[str] = Counter()
        self._asking: dict[str, trio.Lock] = {}
        self._asked: OrderedDict[str, TokenBucket] = OrderedDict()
        host.set_stream_handler(SYNC_PROTOCOL, self._serve)

    async def ask(self, peer: str) -> int:
        """Fetch from one peer what it has and we lack; return how many messages the handler took.

        A message that is refused is counted and skipped; the rest of the answer still counts.

        Raises:
            NetworkError: the peer did not answer, or not by the rules.
        """
        lock = self._asking.setdefault(peer, trio.Lock())
        try:
            async with lock:
                return await self._ask(peer)
        finally:
            if not lock.locked() and lock.statistics().tasks_waiting == 0:
                self._asking.pop(peer, None)

    async def _ask(self, peer: str) -> int:
        stream: INetStream | None = None
        done = False
        try:
            with trio.fail_after(self._limits.deadline_s):
                with trio.fail_after(self._limits.idle_timeout_s):
                    stream = await self._host.new_stream(ID.from_string(peer), [SYNC_PROTOCOL])
                    await stream.write(frame(self._request()))
                taken = await self._take_answer(stream, peer)
            done = True
            self._stats.syncs += 1
            return taken
        except trio.TooSlowError:
            raise NetworkError(f"sync with {peer}: no answer in time") from None
        except (Malformed, ValueError) as error:
            self._stats.refuse("malformed sync answer", peer, str(error))
            raise NetworkError(f"sync with {peer}: {error}") from error
        except Exception as error:  # the edge of a stream: libp2p raises many unrelated classes here
            raise NetworkError(f"sync with {peer}: {reason_of(error)}") from error
        finally:
            if stream is not None:
                await close_stream(stream, reset=not done)

    def _request(self) -> bytes:
        since, have = self._summary()
        body = {"have": list(have)[-MAX_HAVE:], "peers": list(self._known())[:MAX_ADDRESSES]}
        return canonical_json({**body, "run": self._run, "since_round": since})

    async def _take_answer(self, stream: INetStream, peer: str) -> int:
        self._learn(peer, _parse_peers(await self._next(stream, MAX_PEERS_BYTES)))
        taken = count = size = 0
        while data := await self._next(stream, MAX_MESSAGE_BYTES):
            count, size = count + 1, size + len(data)
            self._stats.bytes_down += len(data)
            if count > self._limits.max_messages or size > self._limits.max_bytes:
                raise Malformed("sync answer exceeds its limits")
            try:
                await self._handler(peer, data)
                taken += 1
            except Malformed as error:
                self._stats.refuse("malformed message", peer, error.message)
            except MurmurError as error:
                self._stats.refuse(f"message ({type(error).__name__})", peer, error.message)
            except Exception:  # a task edge: our own defect must not cost us the rest of the answer
                self._stats.refused["message the handler failed on"] += 1
                log.exception("message handler failed")
        return taken

    async def _next(self, stream: INetStream, max_bytes: int) -> bytes:
        with trio.fail_after(self._limits.idle_timeout_s):
            return await read_frame(stream, max_bytes=max_bytes)

    async def _serve(self, stream: INetStream) -> None:
        peer = str(stream.muxed_conn.peer_id)
        complete = False
        if not self._may_ask(peer):
            self._stats.refuse("sync request above the rate limit", peer, "few at a time, and no flood")
            await close_stream(stream, reset=True)
            return
        self._answering[peer] += 1
        try:
            with trio.fail_after(self._limits.deadline_s):
                request, addresses = _parse_request(await self._next(stream, MAX_REQUEST_BYTES))
                if request.run != self._run:
                    raise Malformed("sync request for another run")
                self._learn(peer, addresses)
                await self._answer(stream, request)
            complete = True
        except trio.TooSlowError:
            self._stats.refuse(
                "slow sync request", peer, f"no progress for {self._limits.idle_timeout_s:g} s"
            )
        except (Malformed, ValueError) as error:
            self._stats.refuse("malformed sync request", peer, str(error))
        except StreamError:  # it hung up, which is nobody's fault
            self._stats.refused["abandoned sync request"] += 1
        except Exception as error:  # noqa: BLE001 -- the edge of a stream: what a peer provoked ends here
            self._stats.refuse("broken sync request", peer, repr(error))
        finally:
            self._answering[peer] -= 1
            if not self._answering[peer]:
                del self._answering[peer]
            await close_stream(stream, reset=not complete)

    def _may_ask(self, peer: str) -> bool:
        now = trio.current_time()
        bucket = self._asked.pop(peer, None) or TokenBucket(self._limits.burst, self._limits.per_s, now)
        self._asked[peer] = bucket
        while len(self._asked) > 1024:
            self._asked.popitem(last=False)
        return self._answering[peer] < ANSWERS_PER_PEER and bucket.take(now)

    async def _answer(self, stream: INetStream, request: SyncRequest) -> None:
        await self._send(stream, canonical_json({"peers": list(self._known())[:MAX_ADDRESSES]}))
        size = count = 0
        batch: list[
            bytes
        ] = []  # taken whole first: the caller's state may change while we wait on the stream
        for data in self._missing(request):
            size, count = size + len(data), count + 1
            if count > self._limits.max_messages or size > self._limits.max_bytes:
                break
            if 0 < len(data) <= MAX_MESSAGE_BYTES:
                batch.append(data)
        for data in batch:
            await self._send(stream, data)
        await self._send(stream, b"")

    async def _send(self, stream: INetStream, data: bytes) -> None:
        with trio.fail_after(self._limits.idle_timeout_s):
            await stream.write(frame(data))
        self._stats.bytes_up += len(data)

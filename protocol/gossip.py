"""Announcements by gossipsub 1.1: one topic a run, under 64 KiB, named by content, checked before they are passed on.

Differences from the library's defaults, each measured: a 1 s heartbeat (120), degree 4/3/6, scoring switched on, the
seqno equivocation and GRAFT flood rules off because they punish honest peers, IHAVE and IWANT bounded in ids, the
message cache keyed like the seen cache, and refusal split in two: what is Malformed costs the forwarder, what is merely
unwanted does not.
"""

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio
from blake3 import blake3
from libp2p.abc import IHost, INetStream
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.mcache import CacheEntry, MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.score import PeerScorer, ScoreParams, TopicScoreParams
from libp2p.tools.anyio_service import background_trio_service

from protocol.errors import Malformed, MurmurError, NetworkError
from protocol.rate import TokenBucket
from protocol.stats import NetworkStats

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = (64 << 10) - 1024  # leaves room for the envelope below 64 KiB
SEEN_TTL_S = 120
STREAMS_PER_PEER = 4
IDS_PER_CONTROL = 256
FORWARDERS = 1024  # remembered at once
GRAYLIST = -80.0

MessageHandler = Callable[[str, bytes], Awaitable[None]]
"""Take one message: (peer id that delivered it, bytes). Raise Malformed, or another MurmurError, to refuse it.

It is awaited before the message is passed on, so it must be quick, must stand cancellation, and may see
messages in any order.
"""


@dataclass(frozen=True)
class GossipLimits:
    """Bound what one forwarder may send: a token bucket, and messages in validation at once."""

    burst: int = 512
    per_s: float = 64.0
    in_flight: int = 64
    handler_timeout_s: float = 20.0


def topic_of(run: str) -> str:
    """Return the topic that carries a run's announcements."""
    return f"/murmur/1/{run}"


def message_id(data: bytes) -> bytes:
    """Return the 32-byte BLAKE3 digest that names a message on the wire and in caches."""
    return bytes(blake3(data).digest())


def _envelope_id(message: rpc_pb2.Message) -> bytes:
    return message_id(message.data)


def score_params() -> ScoreParams:
    """Return the scoring parameters; eight Malformed messages graylist a stranger, two minutes forgive it.

    P4 is subtracted by py-libp2p, so its weight is positive here; the gossipsub 1.1 specification has it negative.
    """
    return ScoreParams(
        p1_time_in_mesh=TopicScoreParams(weight=0.5, cap=10.0, decay=1.0),
        p2_first_message_deliveries=TopicScoreParams(weight=0.5, cap=20.0, decay=0.97),
        p4_invalid_messages=TopicScoreParams(weight=12.0, cap=100.0, decay=0.98),
        p5_behavior_penalty_weight=1.0,
        p5_behavior_penalty_decay=0.95,
        p5_behavior_penalty_threshold=20.0,
        p7_ip_colocation_weight=0.0,  # a laboratory behind one address is no attack
        publish_threshold=-40.0,
        gossip_threshold=-20.0,
        graylist_threshold=GRAYLIST,
        accept_px_threshold=float("inf"),
    )


class _Scorer(PeerScorer):
    """The library charges every refusal; here the validator says which ones are charged."""

    def on_invalid_message(self, peer: ID, topic: str) -> None:
        return None

    def charge(self, peer: ID, topic: str) -> None:
        super().on_invalid_message(peer, topic)


class _Cache(MessageCache):
    """Key messages by content, as the seen cache does; the library's seqno ids would make every IHAVE look unseen."""

    def put(self, msg: rpc_pb2.Message) -> None:
        mid = _envelope_id(msg)
        if mid not in self.msgs:
            self.msgs[mid] = msg
            self.history[0].append(CacheEntry(mid, msg.topicIDs))


class _Router(GossipSub):
    """Gossipsub 1.1 without the rules that punish honest peers, and with bounded control messages."""

    def __init__(self) -> None:
        super().__init__(
            protocols=[PROTOCOL_ID_V11],
            degree=4,
            degree_low=3,
            degree_high=6,
            heartbeat_interval=1,
            score_params=score_params(),
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
        )
        self.scorer: _Scorer = _Scorer(score_params())
        self.mcache = _Cache(3, 5)
        self.graft_flood_threshold = 0.0

    def _check_equivocation(self, msg: rpc_pb2.Message) -> bool:
        return True  # content ids leave nothing to equivocate about; a restarted peer may reuse a seqno

    async def handle_ihave(self, ihave_msg: rpc_pb2.ControlIHave, sender_peer_id: ID) -> None:
        if len(ihave_msg.messageIDs) <= IDS_PER_CONTROL:
            await super().handle_ihave(ihave_msg, sender_peer_id)

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        wanted = sorted(
            set(iwant_msg.messageIDs[:IDS_PER_CONTROL])
        )  # one id a thousand times would be an amplifier
        await super().handle_iwant(rpc_pb2.ControlIWant(messageIDs=wanted), sender_peer_id)

    async def heartbeat(self) -> None:
        while True:
            try:
                await super().heartbeat()
            except Exception:  # a task edge: one bad beat must not end the host
                log.exception("gossip heartbeat")
                await trio.sleep(self.heartbeat_interval)

    async def flush_pending_messages(self, peer_id: ID) -> None:
        await _contain(super().flush_pending_messages, peer_id)

    async def on_peer_subscribed(self, peer_id: ID, topic: str) -> None:
        await _contain(super().on_peer_subscribed, peer_id, topic)


async def _contain(call: Callable[..., Awaitable[Any]], *args: Any) -> None:
    try:
        await call(*args)
    except Exception as error:  # noqa: BLE001 -- a task edge: the service would end the host
        log.warning("gossip task failed: %r", error)


class _Pubsub(Pubsub):
    """Contain the service's tasks and refuse what is hostile before it costs a signature check."""

    def __init__(
        self,
        host: IHost,
        router: _Router,
        topic: str,
        admit: Callable[[ID, rpc_pb2.Message], bool],
        changed: Callable[[], None],
    ) -> None:
        super().__init__(
            host,
            router,
            seen_ttl=SEEN_TTL_S,
            strict_signing=True,
            msg_id_constructor=_envelope_id,
            max_concurrent_validator_count=64,
            validation_cache_ttl=-1,  # a refusal may be about the moment (rate, round), so none is remembered
            validation_cache_size=1,
            validation_timeout=60.0,  # the gossip validator has its own, shorter one
            max_subscriptions_per_rpc=16,
            max_subscriptions_per_peer=8,
            allowed_topics={topic},
        )
        self._admit = admit
        self._changed = changed
        self._pending: set[bytes] = set()
        self._streams: dict[ID, int] = {}

    async def stream_handler(self, stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id
        count = self._streams.get(peer, 0)
        if count >= STREAMS_PER_PEER:
            raise NetworkError(f"more than {STREAMS_PER_PEER} gossip streams")
        self._streams[peer] = count + 1
        try:
            await super().stream_handler(stream)
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]

    def handle_subscription(self, origin_id: ID, sub_message: rpc_pb2.RPC.SubOpts) -> None:
        super().handle_subscription(origin_id, sub_message)
        self._changed()

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        mid = _envelope_id(msg)
        if mid in self._pending or not self._admit(msg_forwarder, msg):
            return
        self._pending.add(mid)
        try:
            await super().push_msg(msg_forwarder, msg)
        except Exception as error:  # noqa: BLE001 -- a task edge: the service would end the host
            log.warning("gossip message from %s failed: %r", msg_forwarder, error)
        finally:
            self._pending.discard(mid)

    async def handle_sending_messages(self, peer_id: ID, stream: INetStream, queue: Any) -> None:
        await _contain(super().handle_sending_messages, peer_id, stream, queue)

    async def _handle_new_peer_with_retry(self, peer_id: ID, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await _contain(super()._handle_new_peer_with_retry, peer_id, timeout)

    async def _run_announce_retry(self, peer_id: ID, topic_id: str, subscribe: bool) -> None:
        await _contain(super()._run_announce_retry, peer_id, topic_id, subscribe)

    async def _replay_recent_messages(self, peer_id: ID, topic: str) -> None:
        await _contain(super()._replay_recent_messages, peer_id, topic)


class _Forwarder:
    """What one connected peer may still send, and how much of it is being checked."""

    def __init__(self, limits: GossipLimits) -> None:
        self.bucket = TokenBucket(limits.burst, limits.per_s, trio.current_time())
        self.in_flight = 0


class Gossip:
    """Publish to a run's topic, and hand every message that arrives to the handler before it travels on."""

    def __init__(
        self,
        host: IHost,
        run: str,
        handler: MessageHandler,
        stats: NetworkStats,
        *,
        limits: GossipLimits = GossipLimits(),
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.topic = topic_of(run)
        self._handler = handler
        self._stats = stats
        self._limits = limits
        self._own = host.get_id()
        self._forwarders: OrderedDict[ID, _Forwarder] = OrderedDict()
        self._router = _Router()
        self._pubsub = _Pubsub(host, self._router, self.topic, self._admit, changed)
        self._pubsub.set_topic_validator(self.topic, self._validate, is_async_validator=True)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Take part in the topic until the block ends."""
        async with background_trio_service(self._pubsub), background_trio_service(self._router):
            await self._pubsub.wait_until_ready()
            subscription = await self._pubsub.subscribe(self.topic)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drain, subscription)
                yield
                nursery.cancel_scope.cancel()

    def close(self) -> None:
        """End the thread that the library's seen cache started when this object was made."""
        self._pubsub.seen_messages.stop()

    async def publish(self, data: bytes) -> None:
        """Announce bytes to the topic; repeating them within two minutes does nothing.

        Raises:
            NetworkError: longer than `MAX_MESSAGE_BYTES`; libp2p would drop it without a word.
        """
        if len(data) > MAX_MESSAGE_BYTES:
            raise NetworkError(f"announcement of {len(data)} bytes exceeds {MAX_MESSAGE_BYTES}")
        await self._pubsub.publish(self.topic, data)
        self._stats.published += 1
        self._stats.bytes_up += len(data)

    def score(self, peer: str) -> float:
        """Return a peer's gossip score; at `GRAYLIST` and below it is not heard."""
        return self._router.scorer.score(ID.from_string(peer), [self.topic])

    def subscribers(self) -> frozenset[str]:
        """Return the peers that take part in the topic, as far as they have told us."""
        return frozenset(str(peer) for peer in self._pubsub.peer_topics.get(self.topic, ()))

    async def _drain(self, subscription: Any) -> None:
        # The handler has had the message already; an unread subscription would log a warning each time it is
        # full.
        while True:
            await subscription.get()

    def _admit(self, forwarder: ID, message: rpc_pb2.Message) -> bool:
        if forwarder == self._own:
            return True
        sender = str(forwarder)
        if list(message.topicIDs) != [self.topic]:
            self._stats.refuse("gossip on another topic", sender, f"{len(message.topicIDs)} topics")
            return False
        if len(message.data) > MAX_MESSAGE_BYTES:
            self._router.scorer.charge(forwarder, self.topic)
            self._stats.refuse("oversized gossip", sender, f"{len(message.data)} bytes")
            return False
        source = self._forwarder(forwarder)
        if source.in_flight >= self._limits.in_flight or not source.bucket.take(trio.current_time()):
            self._stats.refuse(
                "gossip above the rate limit", sender, f"more than {self._limits.per_s:g} messages/s"
            )
            return False
        return True

    def _forwarder(self, peer: ID) -> _Forwarder:
        source = self._forwarders.pop(peer, None) or _Forwarder(self._limits)
        self._forwarders[peer] = source
        while len(self._forwarders) > FORWARDERS:
            self._forwarders.popitem(last=False)
        return source

    async def _validate(self, forwarder: ID, message: rpc_pb2.Message) -> bool:
        if forwarder == self._own:
            return True
        sender, source = str(forwarder), self._forwarder(forwarder)
        self._stats.bytes_down += len(message.data)
        source.in_flight += 1
        try:
            with trio.fail_after(self._limits.handler_timeout_s):
                await self._handler(sender, message.data)
        except Malformed as error:
            self._router.scorer.charge(forwarder, self.topic)
            self._stats.refuse("malformed message", sender, error.message)
        except MurmurError as error:
            self._stats.refuse(f"message ({type(error).__name__})", sender, error.message)
        except trio.TooSlowError:
            self._stats.refuse(
                "message the handler was too slow for", sender, f"{self._limits.handler_timeout_s:g} s"
            )
        except Exception:  # a task edge: our own defect is neither the sender's fault nor the host's end
            self._stats.refused["message the handler failed on"] += 1
            log.exception("message handler failed")
        else:
            return True
        finally:
            source.in_flight -= 1
        return False

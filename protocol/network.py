"""The network as the daemons use it: one object that stays while the libp2p host below it may come and go."""

import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from libp2p.abc import IHost, INotifee

from protocol import host as hosts
from protocol.blobs import BlobStore
from protocol.errors import MurmurError, NetworkError
from protocol.exchange import BlobExchange
from protocol.gossip import Gossip, GossipLimits, MessageHandler, message_id
from protocol.peers import PeerBook
from protocol.ranges import ExchangeLimits
from protocol.stats import NetworkStats
from protocol.sync import Missing, Summary, Sync, SyncLimits, SyncRequest

log = logging.getLogger(__name__)

READY_WAIT_S = 15.0  # how long a call waits while the host restarts
SEEN_MESSAGES = 1 << 16


@dataclass(frozen=True)
class NetworkConfig:
    """Configure one node's part in one run."""

    secret: bytes = field(repr=False)  # 32-byte secp256k1 peer key
    run: str
    listen: str = "/ip4/127.0.0.1/tcp/0"
    announce: tuple[str, ...] = ()  # addresses to tell peers instead of the bound ones
    bootstrap: tuple[str, ...] = ()  # full addresses, /ip4/…/tcp/…/p2p/…
    target_peers: int = 12  # dial known peers until this many are connected
    redial_s: float = 1.0  # first pause after a failed dial; doubles to `redial_max_s`
    redial_max_s: float = 60.0
    redial_bootstrap_s: float = 4.0  # the longest pause for those in `bootstrap`, the way into the run
    sync_interval_s: float = 5.0
    restart_max_s: float = 30.0
    blobs: ExchangeLimits = field(default_factory=ExchangeLimits)
    gossip: GossipLimits = field(default_factory=GossipLimits)
    sync: SyncLimits = field(default_factory=SyncLimits)


@dataclass(frozen=True)
class _Running:
    """The parts that live as long as one libp2p host."""

    host: IHost
    gossip: Gossip
    exchange: BlobExchange
    sync: Sync


class _Connections(INotifee):
    """Tell the network who came and who went."""

    def __init__(self, came: Callable[[str], None], went: Callable[[str], None]) -> None:
        self._came = came
        self._went = went

    async def connected(self, network: Any, conn: Any) -> None:
        self._came(str(conn.muxed_conn.peer_id))

    async def disconnected(self, network: Any, conn: Any) -> None:
        self._went(str(conn.muxed_conn.peer_id))

    async def opened_stream(self, network: Any, stream: Any) -> None:
        return None

    async def closed_stream(self, network: Any, stream: Any) -> None:
        return None

    async def listen(self, network: Any, multiaddr: Any) -> None:
        return None

    async def listen_close(self, network: Any, multiaddr: Any) -> None:
        return None


class Network:
    """Publish, fetch and stay connected. Open one with `open_network`."""

    def __init__(
        self,
        config: NetworkConfig,
        store: BlobStore,
        inbox: MessageHandler,
        *,
        summary: Summary,
        missing: Missing,
        may_serve: Callable[[str, str], bool],
    ) -> None:
        self.peer_id = hosts.peer_id_of(config.secret)
        self.addresses: list[str] = []
        self.stats = NetworkStats(trio.current_time)
        self._config = config
        self._store = store
        self._inbox = inbox
        self._summary = summary
        self._missing = missing
        self._may_serve = may_serve
        self._listen = hosts.parse_address(config.listen)
        self._announce = tuple(hosts.parse_address(one) for one in config.announce)
        self._book = PeerBook(
            self.peer_id,
            first_pause_s=config.redial_s,
            max_pause_s=config.redial_max_s,
            kept_max_pause_s=config.redial_bootstrap_s,
        )
        for address in config.bootstrap:
            self._book.add(address, keep=True)
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._running: _Running | None = None
        self._ready = trio.Event()
        self._changed = trio.Event()
        self._arrivals, self._arrived = trio.open_memory_channel[str](256)

    async def publish(self, data: bytes) -> None:
        """Announce one signed message (below 64 KiB) to the run; repeating it sooner than two minutes does nothing.

        Raises:
            NetworkError: too long, or the host is down and did not come back in time.
        """
        running = await self._host_ready()
        self._remember(message_id(data))
        await running.gossip.publish(data)

    async def fetch(
        self,
        digest: str,
        *,
        max_size: int,
        deadline_s: float,
        providers: Sequence[str] = (),
        shared: bool = False,
    ) -> Path:
        """Fetch a blob into the store, from the providers named, then from whoever is connected; return its file.

        Args:
            providers: peer ids or full addresses likely to hold it; addresses are dialled if need be.
            shared: many are likely to hold it: if it is large, several give parts of it at once.

        Raises:
            NetworkError: nobody delivered it within `deadline_s`; the message gives each peer's reason.
        """
        if self._store.has(digest):
            return self._store.path(digest)
        start = trio.current_time()
        running = await self._host_ready()
        named: list[str] = []
        for provider in providers:
            if provider.startswith("/"):
                self._book.add(provider)
            peer = provider.rpartition("/p2p/")[2]
            if peer != self.peer_id:
                named.append(peer)
        connected = self.connected_peers()
        with trio.move_on_after(max(deadline_s, 0.0)):
            for peer in named:
                if peer not in connected:
                    await self._try_dial(running.host, peer)
        others = [
            peer for peer in sorted(connected, key=lambda _: secrets.randbelow(1 << 30)) if peer not in named
        ]
        left = deadline_s - (trio.current_time() - start)
        return await running.exchange.fetch(
            digest, named + others, max_size=max_size, deadline_s=max(left, 0.0), shared=shared
        )

    async def dial(self, address: str) -> str:
        """Connect to a full address, remember it, and return the peer's id.

        Raises:
            ConfigError: not an address.
            NetworkError: no answer.
        """
        running = await self._host_ready()
        parsed = hosts.parse_address(address, with_peer=True)
        peer = await hosts.connect(running.host, parsed)
        self._book.add(address)
        self._book.succeeded(peer)
        return peer

    async def sync_now(self, peer: str) -> int:
        """Ask one peer at once for what was missed; return how many messages were taken.

        Raises:
            NetworkError: it did not answer.
        """
        running = await self._host_ready()
        return await running.sync.ask(peer)

    def connected_peers(self) -> frozenset[str]:
        """Return the ids of the peers connected now."""
        if self._running is None:
            return frozenset()
        return frozenset(str(peer) for peer in self._running.host.get_connected_peers())

    def subscribers(self) -> frozenset[str]:
        """Return the connected peers known to take part in this run's gossip."""
        return frozenset() if self._running is None else self._running.gossip.subscribers()

    def known_addresses(self) -> list[str]:
        """Return our own addresses and those of peers that answered us, for others to dial."""
        return self.addresses + self._book.proven()

    def score(self, peer: str) -> float:
        """Return a peer's gossip score; 0.0 while the host is down."""
        return 0.0 if self._running is None else self._running.gossip.score(peer)

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition over peers and counters holds; it is asked again whenever those change."""
        while not condition():
            await self._changed.wait()

    def status(self) -> dict[str, Any]:
        """Return what a status page shows: identity, addresses, peers with scores, and every counter."""
        peers = {peer: round(self.score(peer), 2) for peer in sorted(self.connected_peers())}
        return {"peer_id": self.peer_id, "addresses": self.addresses, "peers": peers, **self.stats.snapshot()}

    async def _host_ready(self) -> _Running:
        with trio.move_on_after(READY_WAIT_S):
            while self._running is None:
                await self._ready.wait()
            return self._running
        raise NetworkError("the network host is down", hint="see the log; it is restarted by itself")

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _receive(self, sender: str, data: bytes) -> None:
        name = message_id(data)
        if name in self._seen:
            self.stats.duplicates += 1
            return
        await self._inbox(sender, data)
        self._remember(name)
        self.stats.accepted += 1
        self._notify()

    def _remember(self, name: bytes) -> None:
        self._seen[name] = None
        while len(self._seen) > SEEN_MESSAGES:
            self._seen.popitem(last=False)

    def _came(self, peer: str) -> None:
        self._book.succeeded(peer)
        try:
            self._arrivals.send_nowait(peer)
        except trio.WouldBlock:
            log.debug("arrival of %s waits for the next periodic sync", peer)
        self._notify()

    def _went(self, peer: str) -> None:
        self._book.lost(peer, trio.current_time())
        self._notify()

    async def _supervise(self, task_status: trio.TaskStatus[None]) -> None:
        pause = 1.0
        started = False
        while True:
            began = trio.current_time()
            try:
                async with self._open_parts():
                    if not started:
                        started = True
                        task_status.started()
                    await self._work()
            except Exception as error:  # a process edge: libp2p's own defects arrive here as exception groups
                if not started:
                    raise
                log.error("network host failed and is restarted", exc_info=error)
            finally:
                self._running = None
                self._notify()
            if trio.current_time() - began > 60.0:
                pause = 1.0
            self.stats.restarts += 1
            self._notify()
            await trio.sleep(pause * (0.5 + secrets.randbelow(1000) / 1000))
            pause = min(2 * pause, self._config.restart_max_s)

    @asynccontextmanager
    async def _open_parts(self) -> AsyncIterator[None]:
        host = hosts.create_host(
            self._config.secret,
            self._listen,
            announce=self._announce,
            report=lambda peer, reason: self.stats.refuse("stream that failed", peer, reason),
        )
        host.get_network().register_notifee(_Connections(self._came, self._went))
        gossip = Gossip(
            host,
            self._config.run,
            self._receive,
            self.stats,
            limits=self._config.gossip,
            changed=self._notify,
        )
        exchange = BlobExchange(
            host,
            self._store,
            self.stats,
            limits=self._config.blobs,
            may_serve=self._may_serve,
            changed=self._notify,
        )
        sync = Sync(
            host,
            self._config.run,
            self._receive,
            self.stats,
            summary=self._summary,
            missing=self._missing,
            known=self.known_addresses,
            learn=self._learn,
            limits=self._config.sync,
        )
        try:
            async with hosts.open_host(host, self._listen), gossip.run():
                self.addresses = hosts.full_addresses(host)
                # A restart must come back on the same port, or nobody finds it.
                self._listen = hosts.bound_address(host)
                self._running = _Running(host, gossip, exchange, sync)
                self._ready.set()
                self._ready = trio.Event()
                yield
        finally:
            gossip.close()

    async def _work(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_connected)
            nursery.start_soon(self._sync_on_arrival)
            nursery.start_soon(self._sync_periodically)

    def _learn(self, teller: str, addresses: Sequence[str]) -> None:
        for address in addresses:
            try:
                self._book.add(address, teller=teller)
            except MurmurError as error:
                log.debug("address from a peer ignored: %s", error)

    async def _keep_connected(self) -> None:
        running = await self._host_ready()
        while True:
            wanted = self._book.due(trio.current_time(), self.connected_peers(), self._config.target_peers)
            async with trio.open_nursery() as nursery:
                for peer in wanted:
                    nursery.start_soon(self._try_dial, running.host, peer)
            await trio.sleep(self._config.redial_s)

    async def _try_dial(self, host: IHost, peer: str) -> None:
        for address in self._book.addresses(peer):
            try:
                await hosts.connect(host, hosts.parse_address(address, with_peer=True))
                self._book.succeeded(peer)
                return
            except MurmurError as error:
                log.debug("dial %s: %s", address, error)
        self._book.failed(peer, trio.current_time())

    async def _sync_on_arrival(self) -> None:
        async with trio.open_nursery() as nursery:
            async for peer in self._arrived:
                nursery.start_soon(self._try_sync, peer)

    async def _sync_periodically(self) -> None:
        while True:
            await trio.sleep(self._config.sync_interval_s * (0.75 + secrets.randbelow(500) / 1000))
            peers = sorted(self.connected_peers())
            async with trio.open_nursery() as nursery:
                for peer in secrets.SystemRandom().sample(peers, min(2, len(peers))):
                    nursery.start_soon(self._try_sync, peer)

    async def _try_sync(self, peer: str) -> None:
        running = self._running
        if running is None:
            return
        try:
            await running.sync.ask(peer)
        except NetworkError as error:
            log.debug("%s", error)
        self._notify()


def _nothing_to_tell() -> tuple[int, Sequence[str]]:
    return 0, ()


def _nothing_missing(request: SyncRequest) -> Sequence[bytes]:
    return ()


@asynccontextmanager
async def open_network(
    config: NetworkConfig,
    *,
    store: BlobStore,
    inbox: MessageHandler,
    summary: Summary = _nothing_to_tell,
    missing: Missing = _nothing_missing,
    may_serve: Callable[[str, str], bool] = lambda peer, digest: True,
) -> AsyncIterator[Network]:
    """Take part in a run's network until the block ends.

    Args:
        inbox: takes every message, once, from gossip and from anti-entropy alike; see `MessageHandler`.
        summary: what we hold, for asking; `missing`: what an asker lacks. `sync.MessageLog` offers both.
        may_serve: (peer id, digest) -> whether that peer may download that blob.

    Raises:
        NetworkError: the address cannot be listened on.
        ConfigError: an address does not parse, or the installed libp2p is not the one the repairs fit.
    """
    network = Network(config, store, inbox, summary=summary, missing=missing, may_serve=may_serve)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(network._supervise)
            yield network
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # One cause deserves its own name: callers catch NetworkError, not a group that holds one.
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if error is group:
            raise
        raise error from error.__cause__

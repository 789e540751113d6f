"""A peer of a run: network, message pool, blob store and chain view, as node, verifier and coordinator share them."""

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from protocol.beacons import BEACONS_DIRECTORY, PUBLIC_ENDPOINTS, DrandClient, KeptSignatures, SignatureFiles
from protocol.blobs import BlobStore, check_digest
from protocol.chain import OPENING_ROUND, ChainView, Penalties
from protocol.daemon import (
    MANIFEST_FILE,
    PeerDaemonConfig,
    PeerRole,
    check_ledger,
    own_number,
    stop_on_signal,
    stored_manifest,
)
from protocol.errors import ConfigError, LedgerError, MurmurError, NetworkError, Premature, UsageError
from protocol.history import HISTORY_FILE, MessageHistory
from protocol.host import parse_address
from protocol.keys import PeerKey
from protocol.manifest import MAX_MANIFEST_BYTES, RunManifest
from protocol.messages import Body, Signed
from protocol.network import Network, NetworkConfig, open_network
from protocol.pool import MessagePool
from protocol.speakers import speaker_of
from protocol.succession import Succession
from protocol.sync import SyncRequest

log = logging.getLogger(__name__)

MANIFEST_WAIT_S = 180.0  # the coordinator may still be starting
MANIFEST_PAUSE_S = 0.5
SYNC_ROUNDS = 8  # how many rounds back anti-entropy always compares: so late may verdicts come
CHAIN_PAUSE_MAX_S = 5.0


@dataclass(frozen=True)
class PeerConfig:
    """Say where a peer keeps its things and whom it meets first."""

    directory: Path
    run: str
    listen: str = "/ip4/127.0.0.1/tcp/0"
    bootstrap: tuple[str, ...] = ()
    blobs: Path | None = None  # default: directory / "blobs"
    history: Path | None = (
        None  # file in which accepted messages are kept; None: a restart asks the peers again
    )
    max_blob_bytes: int | None = None  # cap of the store; the least recently used go first
    poll_s: float = 0.2  # between two looks at the chain
    sync_interval_s: float = 2.0  # between two rounds of anti-entropy
    manifest_wait_s: float | None = None  # how long to look for somebody who has the manifest
    drand: tuple[str, ...] = PUBLIC_ENDPOINTS
    beacons: Path | None = None  # kept drand signatures; default: directory / "beacons"

    def signatures(self) -> KeptSignatures:
        """Return where this peer finds drand signatures."""
        return KeptSignatures(
            SignatureFiles(self.beacons or self.directory / BEACONS_DIRECTORY), DrandClient(self.drand)
        )


class Peer:
    """Take part in one run. Open one with `open_peer`."""

    def __init__(
        self, config: PeerConfig, key: PeerKey, chain: ChainView, manifest: RunManifest, store: BlobStore
    ) -> None:
        self.config = config
        self.key = key
        self.chain = chain
        self.manifest = manifest
        self.run = config.run
        self.store = store
        speakers, succession = partial(speaker_of, chain), Succession(manifest, chain)
        self.pool = MessagePool(manifest, speakers, self._cases_of, succession, chain.forced)
        self.network: Network
        self.chain_error: str | None = None
        self.on_message: list[Callable[[Signed[Body]], None]] = []
        self.history: MessageHistory | None = None
        self.ask_since: int | None = None  # an observer asks anti-entropy for everything from this round on
        self._dirty = trio.Event()
        self._complete = 0  # rounds from the first on of which nothing that counts is missing

    async def publish(self, message: Signed[Body]) -> None:
        """Take a message of our own into the pool and tell the network; what gossip loses, anti-entropy brings."""
        self._admit(message)
        try:
            await self.network.publish(message.wire)
        except NetworkError as error:
            log.warning("announcement of a %s waits for anti-entropy: %s", message.body.kind, error)

    async def changed(self) -> None:
        """Return once a message was accepted, or the chain moved, fell silent or came back; for one caller only."""
        await self._dirty.wait()
        self._dirty = trio.Event()

    def touch(self) -> None:
        """Make `changed` return, for events of the caller's own."""
        self._dirty.set()

    async def fetch(
        self, digest: str, *, max_size: int, deadline_s: float, numbers: Sequence[int] = ()
    ) -> Path:
        """Fetch a blob by its address from the peers of those registration numbers, then from anybody.

        Of one number the blob is that peer's own, and it is asked alone while it delivers. Where several or none are
        named, many are likely to hold it, and what is large comes from several at once.

        Raises:
            NetworkError: nobody delivered bytes with this hash in time.
        """
        return await self.network.fetch(
            digest,
            max_size=max_size,
            deadline_s=deadline_s,
            providers=[*self._providers(numbers)],
            shared=len(numbers) != 1,
        )

    def _providers(self, numbers: Sequence[int]) -> Iterable[str]:
        ready = self.pool.ready()
        for number in numbers:
            if number in ready:
                yield from filter(_dialable, ready[number].body.addresses)
            operator = self.chain.operator(number)
            if operator is not None:
                yield operator.peer_id
        yield from self.config.bootstrap

    def _cases_of(self, round_: int) -> frozenset[tuple[int, int]]:
        return frozenset(case.label for case in self.chain.cases(round_))

    async def receive(self, sender: str, data: bytes) -> None:
        """Take a message from the network; raises what `MessagePool.accept` raises."""
        message = self.pool.accept(data)
        if message is not None:
            self._tell(message)

    def _admit(self, message: Signed[Body]) -> None:
        if self.pool.add(message) is not None:
            self._tell(message)

    def _tell(self, message: Signed[Body]) -> None:
        if self.history is not None:
            self.history.add(message)
        for callback in self.on_message:
            callback(message)
        self._dirty.set()

    def summary(self) -> tuple[int, Sequence[str]]:
        """Tell anti-entropy what we hold of the recent rounds, and from the first incomplete one on."""
        while self._is_complete(self._complete):
            self._complete += 1
        since = min(self._complete, max(0, self.pool.round - SYNC_ROUNDS))
        since = since if self.ask_since is None else self.ask_since
        return since, self.pool.wire_digests(since)

    def _is_complete(self, round_: int) -> bool:
        listed, record = self.pool.commitment_list(round_), self.pool.record(round_)
        if listed is None or record is None:
            return False
        merged = {unit.number for unit in record.body.units if unit.merged}
        heard = {number: message.id for number, message in self.pool.commitments(round_).items()}
        counted = [unit for unit in record.body.units if unit.counts]
        committed = all(heard.get(unit.number) == unit.commitment for unit in counted)
        received = {message.id for message in self.pool.receipts(round_).values()}
        return (
            committed and merged <= self.pool.reveals(round_).keys() and received >= set(record.body.receipts)
        )

    def missing(self, request: SyncRequest) -> Iterable[bytes]:
        """Tell anti-entropy what an asker lacks."""
        return self.pool.missing(request.since_round, request.have)

    async def remember(self, history: MessageHistory) -> None:
        """Take back into the pool what was heard before a restart, and keep from now on what is accepted."""
        for message in await trio.to_thread.run_sync(history.messages):
            try:
                self.pool.add(message)
            except MurmurError as error:
                log.info("a kept %s of round %d: %s", message.body.kind, message.round, error)
        self.history = history

    async def follow_chain(self) -> None:
        """Look at the chain for ever; a chain that does not answer is waited for, with its error on show."""
        pause = self.config.poll_s
        seen: tuple[int, str | None, str | None] | None = None
        while True:
            try:
                await trio.to_thread.run_sync(self.chain.refresh, abandon_on_cancel=True)
                pause = self.config.poll_s
                if self.chain_error is not None:
                    log.info("the chain answers again")
                self.chain_error = None
            except LedgerError as error:
                if self.chain_error is None:
                    log.warning("waiting for the chain: %s", error)
                self.chain_error = error.message
                pause = min(2 * pause, CHAIN_PAUSE_MAX_S)
            self.note_rounds()
            now = self.chain.height, self.chain_error, self.chain.assignment_beacon(self.pool.round)
            if now != seen:  # seen by us, not before this look: others may look in between
                seen = now
                self._dirty.set()
            await trio.sleep(pause)

    def note_rounds(self) -> None:
        """Let the pool hear of rounds that the chain has begun."""
        while self.chain.anchor(self.pool.round) is not None and self.pool.round + 1 < self.manifest.rounds:
            self.pool.round += 1


def _dialable(address: str) -> bool:
    """Tell whether an address is one; a peer that announces nonsense is simply not found there."""
    try:
        parse_address(address, with_peer=True)
    except ConfigError:
        return False
    return True


async def _fetch_manifest(network: Network, config: PeerConfig) -> RunManifest:
    """Fetch the manifest from whoever has it; one who is still starting is asked again."""
    patience = MANIFEST_WAIT_S if config.manifest_wait_s is None else config.manifest_wait_s
    deadline = trio.current_time() + patience
    while True:
        left = deadline - trio.current_time()
        try:
            path = await network.fetch(
                config.run, max_size=MAX_MANIFEST_BYTES, deadline_s=left, providers=config.bootstrap
            )
            return RunManifest.from_bytes(path.read_bytes())
        except NetworkError as error:
            if left < MANIFEST_PAUSE_S:
                raise NetworkError(
                    f"nobody has the manifest of run {config.run}: {error.message}",
                    hint="check --run and --bootstrap",
                ) from error
        await trio.sleep(MANIFEST_PAUSE_S)


@asynccontextmanager
async def open_peer(
    config: PeerConfig, key: PeerKey, chain: ChainView, manifest: RunManifest | None = None
) -> AsyncIterator[Peer]:
    """Join a run's network and follow its chain until the block ends.

    The manifest is the run id's preimage, so a peer fetches it from whoever has it.

    Raises:
        UsageError: `config.run` is not a run id.
        NetworkError: the address is taken, or nobody has the manifest.
        LedgerError: the chain does not answer at the start.
        ConfigError: the file of kept messages is not one.
    """
    try:
        check_digest(config.run)
    except ValueError as error:
        raise UsageError(f"{config.run!r} is not a run id", hint="--run takes 64 hex digits") from error
    store = BlobStore(config.blobs or config.directory / "blobs", max_bytes=config.max_blob_bytes)
    await trio.to_thread.run_sync(chain.refresh)
    peer: Peer | None = None

    async def inbox(sender: str, data: bytes) -> None:
        if peer is None:
            raise Premature("the manifest is not here yet")
        await peer.receive(sender, data)

    def summary() -> tuple[int, Sequence[str]]:
        return (0, ()) if peer is None else peer.summary()

    def missing(request: SyncRequest) -> Iterable[bytes]:
        return () if peer is None else peer.missing(request)

    network_config = NetworkConfig(
        secret=key.secret,
        run=config.run,
        listen=config.listen,
        bootstrap=config.bootstrap,
        sync_interval_s=config.sync_interval_s,
    )
    async with open_network(
        network_config, store=store, inbox=inbox, summary=summary, missing=missing
    ) as network:
        manifest = manifest or await _fetch_manifest(network, config)
        if manifest.run_id != config.run:
            raise MurmurError(f"the manifest at hand is of run {manifest.run_id}, not {config.run}")
        store.put(manifest.to_bytes())
        store.pin(config.run)
        chain.follow_beacon(manifest.beacon, config.signatures(), ahead=manifest.ahead)
        try:
            await trio.to_thread.run_sync(chain.refresh)
        except LedgerError as error:
            log.warning("no beacons yet: %s", error)  # the chain is followed from here on, and asked again
        opened = Peer(config, key, chain, manifest, store)
        opened.network = network
        if chain.anchor(OPENING_ROUND) is not None:
            opened.note_rounds()
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            if config.history is not None:
                await opened.remember(stack.enter_context(MessageHistory.open(config.history, config.run)))
                stack.callback(setattr, opened, "history", None)  # the network ends after the file is closed
            peer = opened
            nursery.start_soon(opened.follow_chain)
            for connected in network.connected_peers():
                nursery.start_soon(_sync_quietly, network, connected)
            yield opened
            nursery.cancel_scope.cancel()


async def _sync_quietly(network: Network, peer: str) -> None:
    try:
        await network.sync_now(peer)
    except NetworkError as error:
        log.debug("first sync: %s", error)


def check_penalties(manifest: RunManifest, chain: ChainView) -> None:
    """Make sure that the ledger takes for a fault what the manifest says.

    Raises:
        ConfigError: it holds something else; whoever joined would answer for more, or be protected by less.
    """
    held = chain.penalties()
    if held is not None and held != Penalties.of(manifest):
        raise ConfigError(
            f"the ledger holds other penalties for run {manifest.run_id} than its manifest: {held}",
            hint="do not join this run",
        )


@asynccontextmanager
async def join_run(
    config: PeerDaemonConfig, key: PeerKey, chain: ChainView, role: PeerRole
) -> AsyncIterator[tuple[Peer, int]]:
    """Take part in a run as a registered peer, known by its number; a signal cancels the block.

    Raises:
        ConfigError: stored manifest, ledger or registration do not fit.
        NetworkError: the address is taken, or nobody has the manifest.
        LedgerError: the chain does not answer at the start.
    """
    settings = PeerConfig(
        config.directory,
        config.run,
        config.listen,
        config.bootstrap,
        drand=config.drand,
        history=config.directory / HISTORY_FILE,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_on_signal, nursery.cancel_scope)
        stored = stored_manifest(config.directory, config.run)
        async with open_peer(settings, key, chain, stored) as peer:
            check_ledger(peer.manifest, config.ledger)
            check_penalties(peer.manifest, chain)
            (config.directory / MANIFEST_FILE).write_bytes(peer.manifest.to_bytes())
            yield peer, own_number(chain, key, role)

"""The coordinator's daemon: performs the effects of `coordinator.rounds` on database, network, chain and children.

A turn takes the events that have come in, steps the machine, and writes messages, decisions and signed statements in
one transaction. Only then is anything told, sent or published; so a kill at any moment costs what nobody has seen.
"""

import logging
import os
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import trio

from contracts.identity import open_peer_key
from contracts.run import ChainRun
from contracts.sender import Sender
from contracts.wallet import open_wallet
from coordinator import board, rounds, serving, succeeding
from coordinator.clerk import Clerk
from coordinator.config import CONTROL_DIRECTORY, CoordinatorConfig
from coordinator.files import Publisher, read_manifest
from coordinator.measure import EVALUATOR_NICE, Calculator, Measurements
from coordinator.sending import Sending
from coordinator.settling import settled_rounds
from coordinator.standin import check_author, check_stake, outlook
from coordinator.state import (
    Admitted,
    Adopted,
    Aggregate,
    Aggregated,
    Decision,
    Drawn,
    Effect,
    Event,
    Export,
    Fetched,
    FetchUpdate,
    Heard,
    Looked,
    Pending,
    Refused,
    Rewards,
    Ruled,
    Said,
    Say,
    State,
    Voided,
    Weigh,
    Weighed,
)
from coordinator.store import Store, StoredFacts
from coordinator.summary import summarize
from coordinator.tables import database_url
from coordinator.writer import Writer
from protocol.blobs import BlobStore
from protocol.chain import OPENING_ROUND
from protocol.checkpoints import Checkpoints
from protocol.clock import unix_time
from protocol.daemon import MANIFEST_FILE, STATUS_FILE, stop_on_signal, write_status
from protocol.errors import Malformed, MurmurError, NetworkError, Premature
from protocol.joint import max_joint_bytes
from protocol.keeper import Keeper
from protocol.keys import PeerKey
from protocol.lessons import Lessons
from protocol.messages import Body, Signed, parse_message, sign
from protocol.peer import Peer, PeerConfig, open_peer
from protocol.preferences import is_preference
from protocol.published import max_published_bytes
from protocol.speakers import speaker_name
from training.environments.pinned import check_environment
from training.judging import Docket
from training.merging import Merit
from training.outer import outer_layout
from verification.archive import Archive
from verification.duty import confirmed_record
from verification.experience import experience
from verification.fetch import folder_messages
from verification.merge import check_published
from verification.prover import Prover
from verification.witness import RoundReceipts

log = logging.getLogger(__name__)

STATUS_INTERVAL_S = 1.0
FETCH_DEADLINE_S = 20.0
FETCH_PAUSE_S = 0.5
PUBLISH_PAUSE_S = 1.0
UPDATE_DEADLINE_S = 5.0  # of one try, so that peers who do not deliver cannot hold the places of those who do
FETCHES_AT_ONCE = 32
MAX_WAITING_REFUSALS = 1000  # between two turns; what comes on top was logged by the network


class Service:
    """Run the coordinator of one run."""

    def __init__(
        self,
        config: CoordinatorConfig,
        peer: Peer,
        chain: ChainRun,
        key: PeerKey,
        store: Store,
        sender: Sender,
        archive: Archive,
        nursery: trio.Nursery,
    ) -> None:
        self._config = config
        self._peer = peer
        self._chain = chain
        self._key = key
        self._stands_in = config.operator is not None
        self._store = store
        self._nursery = nursery
        self._events: deque[Event] = deque()
        self._refusals: deque[tuple[str, str]] = deque(maxlen=MAX_WAITING_REFUSALS)
        self._database = trio.CapacityLimiter(1)
        self._fetches = trio.CapacityLimiter(FETCHES_AT_ONCE)
        self._sending = Sending(chain, sender, self._write, self._deliver)
        self._clerk = Clerk(chain, sender)
        self._prover = Prover(chain, sender, sender.address, config.directory, own=key.address)
        self._publisher = Publisher(archive)
        checkpoints = Checkpoints(config.checkpoints)
        self._keeper = Keeper(checkpoints, peer.store, config.checkpoint_mib << 20)
        self._aggregator = Calculator(config, peer.store, "aggregator")
        control = BlobStore(config.directory / CONTROL_DIRECTORY)
        self._measurements = Measurements(
            manifest=peer.manifest,
            chain=chain,
            calculator=Calculator(config, peer.store, "evaluator", nice=EVALUATOR_NICE),
            write=self._write,
            control_store=control,
            control=config.control,
            measured=store.measured(),
            described=store.described(),
            locals=store.locals(),
        )
        self._told = ""  # the last detail logged
        self._unpublished: list[Signed[Body]] = []  # said in an earlier life, and not confirmed yet
        self.api_port = 0
        self.state = self._restore(store.facts())

    def _published(self) -> dict[int, dict[int, str]]:
        """Return the blobs that units showed, merged or not, by round and number.

        Of recorded rounds that were not described yet, and of those before them, which the units there judge.
        """
        if self._peer.manifest.rollouts is None:
            return {}
        fresh = self.state.records.keys() - self._measurements.described
        told = self.state.records.keys() & (fresh | {round_ - 1 for round_ in fresh})
        shown = {round_: self._peer.pool.reveals(round_) for round_ in told}
        return {
            round_: {
                unit.number: unit.blob or shown[round_][unit.number].body.blob
                for unit in self.state.records[round_].body.units
                if unit.blob is not None or unit.number in shown[round_]
            }
            for round_ in told
        }

    def _restore(self, facts: StoredFacts) -> State:
        """Take up the run where the database left it."""
        peer = self._peer
        for message in (*facts.statements, *facts.heard):
            try:
                peer.pool.add(message)
            except Premature:
                if message in facts.statements:
                    self._unpublished.append(message)
            except MurmurError as error:
                log.warning("stored %s of round %d: %s", message.body.kind, message.round, error)
        known = self._stands_in or bool(facts.statements or facts.heard)
        begun = known and self._chain.anchor(OPENING_ROUND) is not None
        peer.on_message.append(lambda message: self._deliver(Heard(message)))
        peer.network.stats.on_refuse.append(self._note_refusal)
        return rounds.restore(
            peer.manifest,
            statements=facts.statements,
            heard=facts.heard,
            parameters=facts.parameters,
            decisions=facts.decisions,
            resumed_at=self._chain.height if begun else 0,
            stand_in=self._key.address if self._stands_in else "",
        )

    async def run(self) -> None:
        """Live the run until cancelled.

        Raises:
            ConfigError: this machine does not fit the run, or the API's port is taken.
        """
        async with trio.open_nursery() as nursery:
            listener = await serving.bind(self._config.api_port)
            self.api_port = listener.getsockname()[1]
            nursery.start_soon(self._serve_api, listener)
            nursery.start_soon(self._aggregator.prepare)  # before a round waits for it
            nursery.start_soon(self._measurements.run)
            nursery.start_soon(self._keeper.run)
            nursery.start_soon(board.keep_board, self._config)
            nursery.start_soon(self._show)
            for message in self._unpublished:
                nursery.start_soon(self._publish, message)
            if self._config.heard is not None:
                await self._take_folder(self._config.heard)
            while True:
                events = [*self._take(), Looked()]
                await self._turn(events)
                if succeeding.may_act(self.state, self._chain):
                    self._clerk.look(nursery)
                self._prover.look(self._peer.pool, nursery)
                if not self._events:
                    await self._peer.changed()

    async def _take_folder(self, folder: Path) -> None:
        """Hear what is in a public folder."""
        for wire in await trio.to_thread.run_sync(lambda: [*folder_messages(folder, self._peer.manifest)]):
            try:
                await self._peer.receive(str(folder), wire)
            except MurmurError as error:
                log.info("not taken from %s: %s", folder, error)

    async def close(self) -> None:
        """End the children."""
        await self._aggregator.stop()
        await self._measurements.calculator.stop()

    def _take(self) -> Iterator[Event]:
        yield self._rewards()
        while self._events:
            yield self._events.popleft()

    def _rewards(self) -> Rewards:
        epoch = len(self._chain.finalized())
        proposed = self._chain.proposed().get(epoch)
        pending = None if proposed is None else Pending(proposed.root.hex(), proposed.final_at)
        final = self._chain.finalized().get(epoch - 1)
        root = bytes(32) if final is None else final.root
        return Rewards(self._chain.height, epoch, pending, root.hex())

    def _deliver(self, event: Event) -> None:
        self._events.append(event)
        self._peer.touch()

    async def _turn(self, events: list[Event]) -> None:
        effects: list[Effect] = []
        for event in events:
            self.state, more = rounds.step(self.state, event, self._chain)
            effects += more
        said = [self._sign(effect) for effect in effects if isinstance(effect, Say)]
        refusals = [self._refusals.popleft() for _ in range(len(self._refusals))]
        if said or refusals or len(events) > 2 or effects:
            for message in await self._write(
                partial(_record, events, effects, said, refusals, self._key.address)
            ):
                self._deliver(Said(message))
                self._nursery.start_soon(self._publish, message)
        for effect in effects:
            self._perform(effect)
        await self._publisher.publish(self.state)
        here = self._peer.store.has if self._stands_in else lambda address: True
        parameters = {r: one for r, one in self.state.parameters.items() if here(one)}
        self._measurements.wake(parameters, self._published())
        self._keeper.wake(parameters, min(settled_rounds(self.state), self._measurements.pending))
        if self._stands_in:
            self._peer.ask_since = succeeding.asks_since(self.state, self._chain)
        if self.state.trouble and self.state.trouble != self._told:
            log.error("%s", self.state.trouble)
        self._told = self.state.trouble

    def _sign(self, effect: Say) -> Signed[Body]:
        return sign(self._key, self._peer.manifest, effect.round, "coordinator", effect.body)

    async def _write(self, change: Callable[[Writer], Any]) -> Any:
        def work() -> Any:
            with self._store.write() as tx:
                return change(tx)

        return await trio.to_thread.run_sync(work, limiter=self._database)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Say() | Admitted() | Drawn() | Ruled():
                return
            case Adopted(message):
                log.info("round %d: %s by %s counts", message.round, message.body.kind, message.author)
            case Voided(round_):
                log.warning("round %d is void: its record was anchored too late", round_)
            case Decision():
                about = f"case {effect.case} about number" if effect.case else "number"
                log.info("round %d, %s %d: %s", effect.round, about, effect.number, effect.outcome)
            case Refused():
                message = effect.message
                log.info("refused %s of round %d: %s", message.body.kind, message.round, effect.reason)
            case Export(dossier):
                self._publisher.add(dossier)
            case FetchUpdate():
                self._nursery.start_soon(self._fetch, effect)
            case Aggregate():
                self._nursery.start_soon(self._aggregate, effect)
            case Weigh():
                self._nursery.start_soon(self._weigh, effect)
            case _:
                self._nursery.start_soon(self._sending.perform, effect)

    async def _publish(self, message: Signed[Body]) -> None:
        log.info("round %d: %s", message.round, message.body.kind)
        while succeeding.is_said(self.state, message):
            try:
                await self._peer.publish(message)
            except Premature as error:  # a stand-in's: the chain moved meanwhile, and has to confirm it first
                log.info("our own %s of round %d waits: %s", message.body.kind, message.round, error)
                await trio.sleep(PUBLISH_PAUSE_S)
            except MurmurError as error:
                log.error("our own %s of round %d: %s", message.body.kind, message.round, error)
                return
            else:
                return

    async def _fetch(self, effect: FetchUpdate) -> None:
        """Fetch a revealed update while its reveal phase lasts, and decode it."""
        reveal, blob = effect.reveal, effect.blob
        manifest, body = self._peer.manifest, reveal.body
        limit = max_published_bytes(manifest)
        get = partial(self._peer.store.get, max_size=limit)
        while (current := self.state.current) is not None and current.round == reveal.round:
            receipts = {number: message.body for number, message in current.receipts.items()}
            numbers = (body.number, *RoundReceipts((), receipts).holders(blob))
            try:
                async with self._fetches:
                    await self._peer.fetch(
                        blob, max_size=limit, deadline_s=UPDATE_DEADLINE_S, numbers=numbers
                    )
                lessons = self._lessons(reveal.round)
                await self._bring(reveal.round, [one.blob for one in lessons.judged])
                data = await trio.to_thread.run_sync(get, blob)
                beacon = self._peer.chain.assignment_beacon(reveal.round) or ""  # there, or nobody reveals
                docket = Docket(manifest, beacon, reveal.round, lessons.judged, get)
                check = partial(
                    check_published, manifest, beacon, reveal.round, body, data, docket, address=blob
                )
                await trio.to_thread.run_sync(check)
            except Malformed as error:
                self._deliver(Fetched(reveal.round, body.number, blob, error.message))
                return
            except NetworkError as error:
                log.info("update of number %d: %s", body.number, error)
                await trio.sleep(FETCH_PAUSE_S)
            else:
                self._deliver(Fetched(reveal.round, body.number, blob))
                return

    def _lessons(self, round_: int) -> Lessons:
        """Return what a round's units build on.

        Raises:
            NetworkError: a record that says so is not here yet.
        """
        manifest, chain, pool = self._peer.manifest, self._peer.chain, self._peer.pool
        found = experience(manifest, lambda one: confirmed_record(manifest, chain, pool, one), round_)
        if found is None:
            raise NetworkError(f"a record that round {round_} builds on is not here")
        return found

    async def _aggregate(self, effect: Aggregate) -> None:
        """Take the outer step; blobs that this store has lost come from the peers."""
        await self._bring(effect.round, effect.request.blobs)
        found = await self._aggregator.insist("aggregate", effect.request.model_dump(mode="json"))
        self._deliver(Aggregated(effect.round + 1, str(found["parameters"])))

    async def _weigh(self, effect: Weigh) -> None:
        """Find out what the round's updates are worth, and how much it takes back."""
        request = effect.request
        await self._bring(request.round, request.blobs)
        found = await self._aggregator.insist("weigh", request.model_dump(mode="json"))
        merits = tuple(Merit(**one) for one in found["merits"])
        self._deliver(Weighed(request.round, merits, int(found["count"]), found["joint"]))

    async def _bring(self, round_: int, blobs: Iterable[str]) -> None:
        manifest = self._peer.manifest
        sizes = outer_layout(manifest).file_bytes, max_published_bytes(manifest), max_joint_bytes(manifest)
        for blob in blobs:
            while not self._peer.store.has(blob):
                try:
                    await self._peer.fetch(blob, max_size=max(sizes), deadline_s=FETCH_DEADLINE_S)
                except NetworkError as error:
                    log.error("blob of round %d: %s", round_, error)
                    await trio.sleep(FETCH_PAUSE_S)

    def _note_refusal(self, kind: str, sender: str, reason: str) -> None:
        self._refusals.append((sender, kind))
        self._peer.touch()

    async def _serve_api(self, listener: socket.socket) -> None:
        config = self._config
        url = config.database or database_url(config.directory)
        await serving.serve(
            listener, url, config.checkpoints, config.directory / "api.log", self._take_preference
        )

    async def _take_preference(self, wire: bytes) -> None:
        """Take in what a person brought to the API, and tell it to the network."""
        preference = is_preference(parse_message(wire))
        if preference is None:
            raise Malformed("only preferences are brought here")
        await self._peer.publish(preference)

    async def _show(self) -> None:
        while True:
            status = self.status()
            await trio.to_thread.run_sync(write_status, self._config.directory / STATUS_FILE, status)
            await self._write(partial(self._store_status, status))
            await trio.sleep(STATUS_INTERVAL_S)

    def _store_status(self, status: dict[str, Any], tx: Writer) -> None:
        tx.status(
            phase=status["phase"],
            round_=status["round"],
            detail=status["detail"],
            height=status["chain"]["height"],
            facts={"ledger": status["ledger"], "network": status["network"], "chain": status["chain"]},
        )
        tx.peers(self._chain.operators(), self._chain.slashed(), self.state.ready)
        for slash in self._chain.slashes():
            tx.slashed(slash.round, slash.number, slash.tx)

    def status(self, stopped: MurmurError | None = None) -> dict[str, Any]:
        """Return what the status file shows, as plain JSON data."""
        peer, chain = self._peer, self._chain
        summary = summarize(self.state, chain)
        trouble = "; ".join(self._sending.trouble.values())
        return {
            "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "pid": os.getpid(),
            "run": peer.run,
            "run_name": peer.manifest.name,
            "peer": self._key.address,
            "peer_id": peer.key.peer_id,
            "stands_in": self._stands_in,
            "phase": summary.phase,
            "round": summary.round,
            "rounds": peer.manifest.rounds,
            "detail": "; ".join(part for part in (summary.detail, trouble) if part),
            "measured": len(self._measurements.measured),
            "control_rounds": len(self._measurements.locals),
            "control": list(self._measurements.control or ()),
            "api": f"http://{serving.HOST}:{self.api_port}",
            "api_port": self.api_port,
            "ledger": self._ledger(),
            "equivocations": self._prover.status(),
            "chain": {"height": chain.height, "error": peer.chain_error},
            "network": peer.network.status(),
            "error": None if stopped is None else {"message": stopped.message, "hint": stopped.hint},
        }

    def _ledger(self) -> dict[str, Any]:
        chain = self._chain
        claimed: dict[str, int] = {}
        for claim in chain.claims():
            claimed[claim.account] = claimed.get(claim.account, 0) + claim.amount
        return {
            "chain_id": self._peer.manifest.chain_id,
            "ledger": self._peer.manifest.ledger,
            "funded_wei": str(chain.funded_wei),
            "paid_wei": str(sum(claimed.values())),
            "slashed_wei": str(sum(chain.slashed().values())),
            "commit_roots": sum(chain.commitments(r) is not None for r in range(self._peer.manifest.rounds)),
            "epochs_finalized": len(chain.finalized()),
            "claimed_wei": {account: str(amount) for account, amount in claimed.items()},
        }


def _record(
    events: list[Event],
    effects: list[Effect],
    said: list[Signed[Body]],
    refusals: list[tuple[str, str]],
    author: str,
    tx: Writer,
) -> list[Signed[Body]]:
    """Write one turn; return the statements that may be told."""
    for event in events:
        match event:
            case Heard(message) if message.role == "coordinator" and message.author == author:
                tx.say(message)  # of a life whose memory is lost
            case Heard(message):
                tx.heard(message)
            case Aggregated(round_, parameters):
                tx.parameters(round_, parameters)
            case _:
                pass
    for effect in effects:
        match effect:
            case Admitted():
                tx.admitted(effect)
            case FetchUpdate():
                tx.revealed(effect)
            case Drawn():
                tx.drawn(effect)
            case Decision():
                tx.decided(effect)
            case Ruled():
                tx.ruled(effect)
            case Voided(round_):
                tx.voided(round_)
            case Adopted(message):
                tx.adopted(message)
            case Refused(message, reason):
                tx.refused(speaker_name(message), reason)
            case _:
                pass
    for sender, kind in refusals:
        tx.refused(sender, kind)
    return [tx.say(message) for message in said]


async def run_coordinator(config: CoordinatorConfig) -> None:
    """Run a coordinator until a signal comes.

    Raises:
        ConfigError: key, wallet, stake, manifest or database do not fit, another process has the directory or sends
            with its wallet, or the API's port is taken.
        NetworkError: the address cannot be listened on.
        LedgerError: the chain does not answer at the start.
    """
    key = open_peer_key(config.home)
    manifest = read_manifest(config.directory / MANIFEST_FILE, config.run)
    check_environment(manifest)
    check_author(config, manifest, key)
    archive = Archive(config.public)
    with ExitStack() as stack:
        store = stack.enter_context(
            Store.open(config.directory, manifest, clock=unix_time, url=config.database)
        )
        archive.write_manifest(manifest)
        wallet = open_wallet(config.home, config.password_file)
        chain = ChainRun.connect(config.rpc, manifest.ledger, config.run, chain_id=manifest.chain_id)
        sender = stack.enter_context(_open_sender(Sender.open(chain.ledger.w3, wallet, config.home)))
        settings = PeerConfig(
            config.directory,
            config.run,
            config.listen,
            config.bootstrap,
            blobs=archive.blobs,
            drand=config.drand,
            beacons=archive.beacons.root,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_on_signal, nursery.cancel_scope)
            # The operator's own daemon is in the network under its key already.
            seen_as = PeerKey(secrets.token_bytes(32)) if config.operator else key
            async with open_peer(settings, seen_as, chain, manifest) as peer:
                if config.operator is not None:
                    check_stake(chain, key, wallet.address)
                    log.warning("standing in for %s: %s", manifest.coordinator, outlook(manifest, chain))
                await _live(config, peer, chain, key, store, sender, archive)


async def _live(
    config: CoordinatorConfig,
    peer: Peer,
    chain: ChainRun,
    key: PeerKey,
    store: Store,
    sender: Sender,
    archive: Archive,
) -> None:
    async with trio.open_nursery() as nursery:
        service = Service(config, peer, chain, key, store, sender, archive, nursery)
        try:
            await service.run()
        finally:
            with trio.CancelScope(shield=True):
                await service.close()


@contextmanager
def _open_sender(sender: Sender) -> Iterator[Sender]:
    try:
        sender.watch()
        yield sender
    finally:
        sender.close()

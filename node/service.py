"""The contributor's daemon: performs the effects of `node.machine` on network, chain, disk and the trainer."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio

from contracts.identity import open_peer_key
from node import machine
from node.cheats.casting import check_cheat, honesty_of
from node.config import NodeConfig
from node.events import (
    Cancel,
    Effect,
    Event,
    Force,
    Job,
    Prefetch,
    Progress,
    Publish,
    Receive,
    Received,
    Release,
    Start,
    Stop,
    StopReceiving,
    Sweep,
)
from node.facts import observe
from node.honesty import Honesty
from node.inclusion import Forcer, Forcing
from node.journal import Journal
from node.merging import shelved
from node.state import State, begin
from node.status import Tally
from node.telemetry import Telemetry
from node.unit import Unit
from node.workshop import Shop
from protocol.chain import OPENING_ROUND, ChainView, Operator
from protocol.checkpoints import CHECKPOINTS_DIRECTORY, Checkpoints
from protocol.daemon import JOURNAL_FILE, STATUS_FILE, check_key, settle_journal, write_status
from protocol.errors import Equivocation, Held, MurmurError, Premature
from protocol.keeper import Keeper
from protocol.keys import PeerKey
from protocol.messages import Body, Opening, Ready, Reveal, Signed, sign
from protocol.peer import Peer, join_run
from protocol.shelf import Shelf
from protocol.speakers import first_round
from training.outer import outer_layout

log = logging.getLogger(__name__)

STATUS_INTERVAL_S = 1.0
READY_ADDRESSES = 8
STOP_S = 5.0


AlertsOf = Callable[[int], Iterable[Mapping[str, Any]]]
"""Return what the owner of a registration number has to hear at once, as JSON data; does not block."""


OpenForcing = Callable[[PeerKey, Path], Forcing]
"""Reach the ledger with the hot key of a node's directory; may block."""


def no_alerts(number: int) -> Iterable[Mapping[str, Any]]:
    """Return nothing."""
    return ()


class Node:
    """Run one contributor in one run."""

    def __init__(
        self,
        config: NodeConfig,
        peer: Peer,
        journal: Journal,
        shop: Shop,
        honesty: Honesty,
        nursery: trio.Nursery,
        alerts: AlertsOf,
        forcing: Forcing | None,
        telemetry: Telemetry,
    ) -> None:
        self._config = config
        self._telemetry = telemetry
        self._alerts = alerts
        self._forcer = Forcer(forcing, peer.chain, shop.number)
        self._peer = peer
        self._journal = journal
        self._shop = shop
        self._shelf = Shelf(
            peer,
            parameter_bytes=outer_layout(peer.manifest).file_bytes,
            number=shop.number,
            max_bytes=config.public_bytes,
            holds=shelved(peer.manifest, peer.chain, shop.number),
        )
        self._keeper: Keeper | None = None
        if config.checkpoint_mib is not None:
            checkpoints = Checkpoints(config.directory / CHECKPOINTS_DIRECTORY)
            self._keeper = Keeper(checkpoints, peer.store, config.checkpoint_mib << 20)
        self._honesty = honesty
        self._nursery = nursery
        self._events: deque[Event] = deque()
        self._outbox: list[Signed[Body]] = []
        self._job: tuple[trio.CancelScope, trio.Event] | None = None
        self._receiving: list[tuple[trio.CancelScope, trio.Event]] = []
        self._tally = Tally(peer.manifest, peer.run, shop.number)
        self._round = -1
        self._finished = False
        self._fault: MurmurError | None = None
        progress = journal.progress(peer.run)
        units, released = journal.units(peer.run)
        self.state: State = begin(
            peer.manifest,
            peer.run,
            shop.number,
            progress=progress,
            units=units,
            released=released,
            has=peer.store.has,
            profile=shop.profile,
            receipts=journal.receipts(peer.run),
            state_cap=config.state_cap,
            signs_from=settle_journal(journal, peer.manifest, peer.chain),
            commits_from=self._first_round(),
        )
        peer.store.withheld = self.state.withheld

    def _first_round(self) -> int:
        """Return the first round whose roster has our key, and so counts what we commit to."""
        peer = self._peer
        found = first_round(peer.chain, self._shop.number, peer.key.address)
        if found and peer.chain.anchor(found - 1) is None:
            log.info("the key of number %d is new: it commits from round %d on", self._shop.number, found)
        return found

    async def run(self) -> None:
        """Say ready, then live the rounds until cancelled.

        Raises:
            ConfigError: this machine does not fit the run, or our number was given another key.
            MurmurError: our aggregation and the coordinator's record disagree.
        """
        self._nursery.start_soon(self._show)
        self._nursery.start_soon(self._forcer.watch)
        program = await self._shop.prepare()
        await self._say_ready(program)
        self._nursery.start_soon(self._shelf.run)
        if self._keeper is not None:
            self._nursery.start_soon(self._keeper.run)
        while True:
            if self._fault is not None:
                raise self._fault
            check_key(self._peer.chain, self._shop.number, self._peer.key)
            while self._events:
                await self._step(self._events.popleft())
            state = self.state
            others = state.others
            await self._step(
                observe(
                    state.manifest,
                    self._peer.chain,
                    self._peer.pool,
                    state.number,
                    round_=state.round,
                    others=others,
                    parameters=state.parameters,
                )
            )
            await self._flush()
            self._begin_round()
            if self._keeper is not None and self.state.held:
                self._keeper.wake({self.state.round: self.state.parameters})
            seen = self.state.round == state.round and self.state.others == others
            if not self._events and seen:
                await self._peer.changed()

    async def _step(self, event: Event) -> None:
        self.state, effects = machine.step(self.state, event)
        self._peer.store.withheld = self.state.withheld
        for effect in effects:
            await self._perform(effect)

    async def _perform(self, effect: Effect) -> None:
        run = self._peer.run
        match effect:
            case Start():
                self._start(effect.job)
            case Cancel():
                await self._cancel()
            case Publish(body=Reveal() | Opening()):
                # Beside everything else, because who is dishonest may take its time over what it shows.
                self._nursery.start_soon(self._show_work, effect, self.state.units[effect.round])
            case Publish():
                self._say(effect)
            case Force():
                self._nursery.start_soon(self._forcer.force, effect)
            case Receive():
                scope, done = trio.CancelScope(), trio.Event()
                running = [one for one in self._receiving if not one[1].is_set()]
                self._receiving = [*running, (scope, done)]
                self._nursery.start_soon(self._receive, effect, scope, done)
            case Prefetch():
                self._nursery.start_soon(self._shop.prefetch, effect.aggregate)
            case StopReceiving():
                await self._stop_receiving()
            case Progress():
                self._journal.advance(run, effect)
                log.info("round %d starts from parameters %s", effect.round, effect.parameters[:16])
            case Release():
                self._journal.release(run, effect.round)
            case Sweep():
                self._sweep(effect.keep)
            case Stop(error=None):
                self._finished = True
                log.info("the run is finished; serving what is here until stopped")
            case Stop():
                await self._flush()  # what makes us stop, others have to hear
                raise MurmurError(effect.error or "", hint=effect.hint)

    async def _show_work(self, effect: Publish, unit: Unit) -> None:
        body: Body | None = effect.body
        match body:
            case Reveal():
                body = await self._honesty.reveal(self._shop, unit, body)
            case Opening():
                body = await self._honesty.opening(self._shop, unit, body)
        if body is not None:
            self._say(replace(effect, body=body))
            self._peer.touch()

    def _say(self, effect: Publish) -> None:
        body, peer = effect.body, self._peer
        log.info("round %d: %s", effect.round, body.kind)
        try:
            message = self._journal.sign(peer.key, peer.manifest, effect.round, body, unit=effect.unit)
        except (Equivocation, Held) as error:
            # A chain that lost blocks draws anew; what was signed before stands, and nothing else is said.
            log.error("%s", error)
        else:
            self._outbox.append(message)
            if effect.unit is not None:
                self._nursery.start_soon(self._telemetry.add, effect.unit)

    async def _flush(self) -> None:
        """Publish what was signed; what the pool cannot judge yet waits for the next look."""
        waiting, self._outbox = self._outbox, []
        for message in waiting:
            try:
                await self._peer.publish(message)
            except Premature as error:
                log.warning("our %s waits: %s", message.body.kind, error)
                self._outbox.append(message)
            else:
                await self._honesty.published(self._shop, message)

    def _start(self, job: Job) -> None:
        scope, done = trio.CancelScope(), trio.Event()
        self._job = (scope, done)
        self._nursery.start_soon(self._do, job, scope, done)

    async def _do(self, job: Job, scope: trio.CancelScope, done: trio.Event) -> None:
        try:
            with scope:
                await self._shop.do(job, self._deliver)
        except MurmurError as error:
            self._fault = error
            self._peer.touch()
        finally:
            done.set()

    def _deliver(self, event: Event) -> None:
        self._events.append(event)
        self._peer.touch()

    async def _cancel(self) -> None:
        if self._job is None:
            return
        scope, done = self._job
        scope.cancel()
        await done.wait()
        # It may have delivered just before, but nobody wants that any more.
        self._events = deque(event for event in self._events if isinstance(event, Received))
        self._job = None

    async def _receive(self, effect: Receive, scope: trio.CancelScope, done: trio.Event) -> None:
        try:
            with scope:
                self._deliver(await self._shop.receive(effect))
        finally:
            done.set()

    async def _stop_receiving(self) -> None:
        receiving, self._receiving = self._receiving, []
        for scope, _ in receiving:
            scope.cancel()
        for _, done in receiving:
            await done.wait()

    def _sweep(self, keep: frozenset[str]) -> None:
        self._shelf.look()
        store, keep = self._peer.store, keep | self._shelf.kept
        for path in list(store.root.glob("[0-9a-f][0-9a-f]/*")):
            if path.name not in keep and path.name != self._peer.run:
                store.delete(path.name)
        for leftover in [*store.root.glob("partial/*"), *store.root.glob("scratch/*")]:
            if leftover.name not in keep:
                leftover.unlink(missing_ok=True)

    def _begin_round(self) -> None:
        opened = self._peer.chain.anchor(OPENING_ROUND) is not None
        if opened and self.state.round != self._round and not self.state.finished:
            self._round = self.state.round
            self._nursery.start_soon(self._honesty.round_begins, self._shop, self._round)

    async def _say_ready(self, program: str) -> None:
        # Not journalled: the latest word counts, since addresses change with every start.
        addresses = tuple(self._peer.network.addresses[:READY_ADDRESSES])
        body = Ready(number=self._shop.number, program=program, addresses=addresses)
        self._outbox.append(sign(self._peer.key, self._peer.manifest, 0, "contributor", body))
        await self._flush()

    async def _show(self) -> None:
        while True:
            self._tally.update(self._peer.chain, self._peer.pool)
            status = self.status()
            write_status(self._config.directory / STATUS_FILE, status)
            self._telemetry.show(status)
            await trio.sleep(STATUS_INTERVAL_S)

    def status(self, stopped: MurmurError | None = None) -> dict[str, Any]:
        """Return what the status file shows, as plain JSON data."""
        peer, state, number = self._peer, self.state, self._shop.number
        operator = peer.chain.operator(number)
        unit = state.units.get(state.round) or state.units.get(state.round - 1)
        figures = None if unit is None else unit.work.figures
        return {
            "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "pid": os.getpid(),
            "run": peer.run,
            "run_name": peer.manifest.name,
            "number": number,
            "profile": self._shop.profile,
            "peer": peer.key.address,
            "peer_id": peer.key.peer_id,
            "cheat": self._config.cheat,
            "stake_wei": "0" if operator is None else str(operator.stake_wei),
            "slashed_wei": str(peer.chain.slashed().get(number, 0)),
            "earned_wei": str(self._earned(operator)),
            "round": min(state.round, peer.manifest.rounds - 1),
            "rounds": peer.manifest.rounds,
            "phase": "finished" if self._finished else state.phase,
            "training": self._shop.progress,
            "loss": None if unit is None else unit.work.loss,
            "figures": None if figures is None else figures.to_json(),
            "metrics": self._telemetry.url,
            "parameters": state.parameters,
            "signs_from": state.signs_from,
            "units": {"trained": self._journal.trained(peer.run), **asdict(self._tally.counts)},
            "judged": list(self._tally.recent),
            "alerts": [dict(alert) for alert in self._alerts(number)],
            "warnings": self._forcer.warnings,
            "chain": {"height": peer.chain.height, "error": peer.chain_error},
            "network": peer.network.status(),
            "error": self._error(stopped),
        }

    def _earned(self, operator: Operator | None) -> int:
        table = self._peer.pool.newest_rewards()
        if operator is None or table is None:
            return 0
        entries = table.body.entries
        return next((e.cumulative_wei for e in entries if e.account.lower() == operator.wallet.lower()), 0)

    def _error(self, stopped: MurmurError | None) -> dict[str, str] | None:
        error = stopped or self._shop.trouble
        return None if error is None else {"message": error.message, "hint": error.hint}


async def run_node(
    config: NodeConfig,
    chain: ChainView,
    alerts: AlertsOf = no_alerts,
    open_forcing: OpenForcing | None = None,
) -> None:
    """Run a contributor until a signal comes.

    Args:
        alerts: says what its owner has to hear at once.
        open_forcing: reaches the ledger for commitments that the coordinator leaves out.

    Raises:
        ConfigError: key, journal, registration, dataset, device, program or way to cheat do not fit.
        NetworkError: the address is taken, or nobody has the manifest.
        LedgerError: the chain does not answer at the start.
        MurmurError: the coordinator's record contradicts our own aggregation.
    """
    config.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = open_peer_key(config.directory, config.peer_password_file)
    honesty = honesty_of(config.cheat)
    with Journal.open(config.directory / JOURNAL_FILE, key.address) as journal:
        async with join_run(config, key, chain, "contributor") as (peer, number):
            check_cheat(peer.manifest, config.cheat)
            shop = Shop(config, peer, number, honesty, dict(os.environ))
            forcing = None if open_forcing is None else open_forcing(key, config.directory)
            events = None if config.tensorboard is None else config.tensorboard / f"peer-{number}"
            try:
                with Telemetry(config.metrics_port, events, journal.history(peer.run)) as telemetry:
                    if telemetry.url is not None:
                        log.info("metrics are at %s", telemetry.url)
                    await _live(config, peer, journal, shop, honesty, alerts, forcing, telemetry)
            finally:
                if forcing is not None:
                    forcing.close()


async def _live(
    config: NodeConfig,
    peer: Peer,
    journal: Journal,
    shop: Shop,
    honesty: Honesty,
    alerts: AlertsOf,
    forcing: Forcing | None,
    telemetry: Telemetry,
) -> None:
    try:
        async with trio.open_nursery() as nursery:
            node = Node(config, peer, journal, shop, honesty, nursery, alerts, forcing, telemetry)
            try:
                await node.run()
            except MurmurError as error:
                write_status(config.directory / STATUS_FILE, node.status(error))
                raise
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(STOP_S):
            await shop.close()

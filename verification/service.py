"""The verifier's daemon: judge the units it is drawn for, beside the rounds that go on."""

import logging
import os
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import trio

from contracts.identity import open_peer_key
from protocol.chain import ChainView
from protocol.daemon import JOURNAL_FILE, STATUS_FILE, check_key, settle_journal, write_status
from protocol.errors import ConfigError, Malformed, MurmurError, Premature, ProofRejected
from protocol.keys import PeerKey
from protocol.messages import (
    INCONCLUSIVE,
    PASSED,
    PROVEN_FALSE,
    REJECTED,
    Body,
    Opening,
    Ready,
    Seal,
    Signed,
    Verdict,
    sign,
)
from protocol.peer import Peer, join_run
from protocol.shelf import Shelf
from training.outer import outer_layout
from verification.bench import NotServed, ReplayBench, check_connection
from verification.config import VerifierConfig
from verification.court import Court
from verification.duty import Duty, UnitKey, duties, is_over, round_draws
from verification.inquiry import Inquiry
from verification.journal import VerdictJournal
from verification.jury_service import JuryDuty
from verification.liars import honesty_of
from verification.opening import check_opening, needed_files
from verification.profile import Pair, describe, judging_pairs
from verification.prover import Prover
from verification.sample import Draw
from verification.seal import seal_digest
from verification.unit import ReplayReport, proven_false
from verification.watch import RootWatch

log = logging.getLogger(__name__)

STATUS_INTERVAL_S = 1.0
READY_ADDRESSES = 8
STOP_S = 5.0
FIRST_PAUSE_S = 0.5
PAUSE_MAX_S = 10.0
AT_ONCE = 4  # units whose files are fetched at the same time
NOT_OPENED = "not opened"


class Verifier:
    """Run one verifier in one run."""

    def __init__(
        self,
        config: VerifierConfig,
        peer: Peer,
        number: int,
        journal: VerdictJournal,
        bench: ReplayBench,
        nursery: trio.Nursery,
        court: Court | None = None,
    ) -> None:
        self._config = config
        self._peer = peer
        self._number = number
        self._journal = journal
        self._bench = bench
        self._honesty = honesty_of(config.cheat)
        self._shelf = Shelf(
            peer,
            parameter_bytes=outer_layout(peer.manifest).file_bytes,
            number=number,
            max_bytes=config.public_bytes,
        )
        self._nursery = nursery
        self._signs_from = settle_journal(journal, peer.manifest, peer.chain)
        self._draws: dict[int, tuple[Draw, ...]] = {}
        self._oldest = 0  # rounds before are over
        self._active: dict[UnitKey, Duty] = {}
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._trouble: MurmurError | None = None
        self._fatal: MurmurError | None = None
        self._judged = {_key(one): one for one in journal.verdicts(peer.run)}
        self._seals = {_key(one.message): one.message for one in journal.seals(peer.run)}
        self._reports: dict[UnitKey, ReplayReport] = {}  # verdicts that wait for others' seals
        self._moved = trio.Event()  # set, and replaced, whenever chain or messages moved
        self._heard: set[str] = set()  # ids of what this process has published
        self._inquiry = Inquiry(peer, bench, None if court is None else court.chain)
        self._jury: JuryDuty | None = None
        self._watch: RootWatch | None = None
        self._prover: Prover | None = None
        if court is not None:
            self._prover = court.prover(config.directory)
            disputes = config.dispute_rewards
            self._watch = RootWatch(court, self._inquiry, lambda: self._moved, disputes=disputes)
            self._jury = JuryDuty(court, journal, self._inquiry, nursery, lambda: self._moved, peer.touch)
        self._pin()

    async def run(self) -> None:
        """Say ready, then judge what is due until cancelled.

        Raises:
            ConfigError: this machine does not fit the run, or our number was given another key.
        """
        self._nursery.start_soon(self._show)
        self._nursery.start_soon(self._shelf.run)
        ready = await self._say_ready(await self._bench.prepare())
        if self._jury is not None and self._watch is not None:
            self._nursery.start_soon(self._jury.run)
            self._nursery.start_soon(self._watch.run)
        log.info("this machine is %s; it judges units of %s", self._bench.machine, describe(self._pairs()))
        for pair in self._pairs():
            if pair.replay is None:
                log.warning("units of %s are inconclusive here: %s", pair.unit.name, pair.reason)
        while True:
            if self._fatal is not None:
                raise self._fatal
            check_key(self._peer.chain, self._number, self._peer.key)
            if not ready:
                ready = await self._say_ready(self._peer.manifest.program)
            for duty in self._due():
                if duty.key not in self._active:
                    self._active[duty.key] = duty
                    self._nursery.start_soon(self._attend, duty)
            await self._repeat()
            if self._prover is not None:
                self._prover.look(self._peer.pool, self._nursery)
            await self._peer.changed()
            self._moved.set()
            self._moved = trio.Event()

    def _due(self) -> list[Duty]:
        """Return what is due in the open rounds, and let go of rounds that are over."""
        peer = self._peer
        manifest, chain, pool = peer.manifest, peer.chain, peer.pool
        found: list[Duty] = []
        for round_ in range(self._oldest, manifest.rounds):
            if chain.sampling_beacon(round_) is None:
                break
            drawn = self._draws.get(round_) or round_draws(manifest, chain, pool, round_)
            if drawn is None:
                continue
            self._draws[round_] = drawn
            if round_ == self._oldest and is_over(manifest, chain, pool, round_, drawn):
                self._oldest += 1
                del self._draws[round_]
                continue
            if round_ < self._signs_from:  # something else may have been said of it
                continue
            judged = self._judged.__contains__
            found += duties(manifest, chain, pool, self._number, round_, drawn, judged)
        return found

    async def _attend(self, duty: Duty) -> None:
        """Seal and judge one unit, again and again with growing pauses while the fault is on our side."""
        pause = FIRST_PAUSE_S
        try:
            while (current := self._still_due(duty)) is not None:
                moved = self._moved
                try:
                    if await self._take_step(current):
                        return
                except ConfigError as error:
                    self._fatal = error
                    return
                except MurmurError as error:
                    log.warning("%s: %s", _name_of(duty.key), error)
                    self._trouble = error
                    await trio.sleep(pause)
                    pause = min(2 * pause, PAUSE_MAX_S)
                else:
                    pause = FIRST_PAUSE_S
                    await moved.wait()
        finally:
            self._reports.pop(duty.key, None)
            del self._active[duty.key]
            self._peer.touch()

    async def _take_step(self, duty: Duty) -> bool:
        """Do what can be done about a unit now; tell whether nothing is left to do."""
        report = self._reports.get(duty.key)
        if report is None:
            async with self._limiter:
                report = await self._examine(duty)
        if report is None:
            return False
        self._reports[duty.key] = report
        self._trouble = None
        if report.fingerprint and not duty.may_speak:
            return False
        await self._say(duty, report)
        return True

    def _still_due(self, duty: Duty) -> Duty | None:
        return next((one for one in self._due() if one.key == duty.key), None)

    async def _examine(self, duty: Duty) -> ReplayReport | None:
        """Return what there is to say about a unit; None once a seal is out, until the end is served.

        Raises:
            MurmurError: nothing yet; the fault is ours or may still heal.
        """
        manifest, opening = self._peer.manifest, duty.opening
        if opening is None:
            check_connection(self._peer)
            return ReplayReport(REJECTED, f"{NOT_OPENED} in time")
        try:
            check_opening(manifest, duty.unit, opening)
        except ProofRejected as error:
            return proven_false(error)
        except Malformed as error:
            return ReplayReport(REJECTED, f"{NOT_OPENED}: {error.message}"[:200])
        pair = self._pair(duty.unit.commitment.body.profile)
        if pair.replay is None:
            return ReplayReport(INCONCLUSIVE, pair.reason[:200])
        sealed = self._journal.sealed(self._peer.run, *duty.key)
        if sealed is not None and not duty.ends_due:
            return None
        try:
            if sealed is not None:
                shown = sealed.fingerprint
                report = await self._honesty.compare(self._bench, duty.unit, opening, shown)
                return replace(report, fingerprint=shown) if report.fingerprint else report
            fingerprint, proven = await self._honesty.begin(self._bench, duty.unit, opening)
        except NotServed as error:
            if not (duty.overdue if sealed is None else duty.ends_overdue):
                raise
            check_connection(self._peer)
            return ReplayReport(REJECTED, f"{NOT_OPENED}: {error.message}"[:200])
        if proven is not None:
            return proven
        await self._seal(duty, opening, fingerprint)
        return None

    async def _seal(self, duty: Duty, opening: Signed[Opening], fingerprint: tuple[float, ...]) -> None:
        """Fix the fingerprint of our replay, on disk and in public."""
        peer, salt = self._peer, secrets.token_hex(32)
        commitment, segment = duty.unit.commitment.id, duty.draw.segment
        body = Seal(
            number=duty.draw.number,
            verifier=self._number,
            commitment=commitment,
            opening=opening.id,
            segment=segment,
            seal=seal_digest(
                peer.run,
                duty.round,
                number=duty.draw.number,
                verifier=self._number,
                commitment=commitment,
                opening=opening.id,
                segment=segment,
                fingerprint=fingerprint,
                salt=salt,
            ),
        )
        sealed = self._journal.seal(peer.key, peer.manifest, duty.round, body, fingerprint, salt)
        self._seals[duty.key] = sealed.message
        log.info("%s: sealed", _name_of(duty.key))
        await self._publish(sealed.message)

    def _pairs(self) -> tuple[Pair, ...]:
        machine = self._bench.machine
        return () if machine is None else judging_pairs(self._peer.manifest, machine)

    def _pair(self, profile: str) -> Pair:
        return next(pair for pair in self._pairs() if pair.unit.name == profile)

    async def _say(self, duty: Duty, report: ReplayReport) -> None:
        peer, opening = self._peer, duty.opening
        opened = opening is not None and not report.reason.startswith(NOT_OPENED)
        sealed = self._journal.sealed(peer.run, *duty.key) if report.fingerprint else None
        body = Verdict(
            number=duty.draw.number,
            verifier=self._number,
            outcome=report.outcome,
            commitment=duty.unit.commitment.id,
            opening=opening.id if opening is not None and opened else None,
            segment=duty.draw.segment,
            profile=self._replay_profile(duty),
            reason=report.reason,
            distance=report.distance,
            tensor=report.tensor,
            exact=report.exact,
            exact_distance=report.exact_distance,
            fingerprint=() if sealed is None else sealed.fingerprint,
            salt=None if sealed is None else sealed.salt,
            forged_residual=report.forged_residual,
            replay_cpu_s=report.cpu_s,
        )
        files: list[str] = []
        if opening is not None and opened:
            needed = needed_files(peer.manifest, duty.unit, opening.body)
            files = [one.address for one in needed if peer.store.has(one.address)]
        message = self._journal.sign(peer.key, peer.manifest, duty.round, body, files)
        self._judged[duty.key] = message
        log.info("%s: %s %s", _name_of(duty.key), _name(message.body.outcome), message.body.reason)
        self._pin()
        await self._publish(message)

    def _replay_profile(self, duty: Duty) -> str:
        """Name the profile under which a unit is replayed here; its own where nothing was replayed."""
        name = duty.unit.commitment.body.profile
        replay = self._pair(name).replay
        return name if replay is None else replay.name

    async def _repeat(self) -> None:
        """Publish what the pool has not taken yet, such as what was signed just before a restart."""
        said: list[tuple[UnitKey, Signed[Body]]] = [*self._seals.items(), *self._judged.items()]
        for (round_, _), message in said:
            if round_ >= self._oldest and message.id not in self._heard:
                await self._publish(message)

    async def _publish(self, message: Signed[Body]) -> None:
        if await self._tell(message):
            self._heard.add(message.id)

    async def _tell(self, message: Signed[Body]) -> bool:
        try:
            await self._peer.publish(message)
        except Premature as error:
            log.info("our %s waits: %s", message.body.kind, error)
            return False
        return True

    async def _say_ready(self, program: str) -> bool:
        addresses = tuple(self._peer.network.addresses[:READY_ADDRESSES])
        body = Ready(number=self._number, program=program, addresses=addresses)
        return await self._tell(sign(self._peer.key, self._peer.manifest, 0, "verifier", body))

    def _pin(self) -> None:
        """Keep the evidence of the newest verdicts and what units under way need; drop other files."""
        store = self._peer.store
        self._shelf.look()
        keep = self._journal.evidence(self._peer.run, self._config.evidence_units) | {self._peer.run}
        keep |= self._shelf.kept
        if self._jury is not None:
            keep = keep.union(*map(self._inquiry.files, self._jury.open_cases()))
        for duty in self._active.values():
            if (opening := self._peer.pool.openings(duty.round).get((duty.draw.number, 0))) is not None:
                needed = needed_files(self._peer.manifest, duty.unit, opening.body)
                keep |= {one.address for one in needed}
        for address in keep:
            store.pin(address)
        for path in list(store.root.glob("[0-9a-f][0-9a-f]/*")):
            if path.name not in keep:
                store.unpin(path.name)
                store.delete(path.name)

    async def _show(self) -> None:
        while True:
            write_status(self._config.directory / STATUS_FILE, self.status())
            await trio.sleep(STATUS_INTERVAL_S)

    def status(self, stopped: MurmurError | None = None) -> dict[str, Any]:
        """Return what the status file shows, as plain JSON data."""
        peer = self._peer
        operator = peer.chain.operator(self._number)
        verdicts = [message.body for message in self._judged.values()]
        outcomes = Counter(_name(verdict.outcome) for verdict in verdicts)
        error = stopped or self._trouble
        return {
            "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "pid": os.getpid(),
            "run": peer.run,
            "run_name": peer.manifest.name,
            "number": self._number,
            "peer": peer.key.address,
            "peer_id": peer.key.peer_id,
            "cheat": self._config.cheat,
            "stake_wei": "0" if operator is None else str(operator.stake_wei),
            "signs_from": self._signs_from,
            "phase": "replaying" if self._active else "waiting",
            "judging": [{"round": round_, "number": number} for round_, number in sorted(self._active)],
            "machine": None if self._bench.machine is None else self._bench.machine.model_dump(mode="json"),
            "judges": [pair.to_json() for pair in self._pairs()],
            "verdicts": {"passed": 0, "rejected": 0, "proven_false": 0, "inconclusive": 0, **outcomes},
            "replay_cpu_s": round(sum(verdict.replay_cpu_s for verdict in verdicts), 3),
            "largest_passed_distance": max(
                (verdict.distance for verdict in verdicts if verdict.outcome == PASSED), default=0.0
            ),
            "recent": [
                {
                    "round": message.round,
                    "number": message.body.number,
                    "outcome": _name(message.body.outcome),
                    "reason": message.body.reason,
                    "distance": message.body.distance,
                }
                for message in list(self._judged.values())[-8:]
            ],
            "jury": None if self._jury is None else self._jury.status(),
            "reward_roots": [] if self._watch is None else self._watch.status(),
            "equivocations": [] if self._prover is None else self._prover.status(),
            "alerts": [] if self._watch is None else self._watch.alerts(),
            "replayer_alive": self._bench.alive,
            "chain": {"height": peer.chain.height, "error": peer.chain_error},
            "network": peer.network.status(),
            "error": None if error is None else {"message": error.message, "hint": error.hint},
        }


def _key(message: Signed[Seal] | Signed[Verdict]) -> UnitKey:
    return message.round, message.body.number


def _name_of(key: UnitKey) -> str:
    round_, number = key
    return f"round {round_}, number {number}"


def _name(outcome: int) -> str:
    return {
        PASSED: "passed",
        REJECTED: "rejected",
        PROVEN_FALSE: "proven_false",
        INCONCLUSIVE: "inconclusive",
    }[outcome]


OpenCourt = Callable[[PeerKey, int], Court]
"""Reach the jury with a hot key and a registration number; raises `LedgerError`. Blocks."""


async def run_verifier(config: VerifierConfig, chain: ChainView, open_court: OpenCourt | None = None) -> None:
    """Run a verifier until a signal comes.

    Args:
        open_court: None: no jury is served.

    Raises:
        ConfigError: key, journal, registration, dataset, device or program do not fit.
        NetworkError: the address is taken, or nobody has the manifest.
        LedgerError: the chain does not answer at the start.
    """
    config.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = open_peer_key(config.directory, config.peer_password_file)
    with VerdictJournal.open(config.directory / JOURNAL_FILE, key.address) as journal:
        async with join_run(config, key, chain, "verifier") as (peer, number):
            court = None
            if open_court is not None:
                court = await trio.to_thread.run_sync(open_court, key, number, abandon_on_cancel=True)
            try:
                await _live(config, peer, journal, number, court)
            finally:
                if court is not None:
                    court.close()


async def _live(
    config: VerifierConfig, peer: Peer, journal: VerdictJournal, number: int, court: Court | None
) -> None:
    bench = ReplayBench(config, peer)
    try:
        async with trio.open_nursery() as nursery:
            verifier = Verifier(config, peer, number, journal, bench, nursery, court)
            try:
                await verifier.run()
            except MurmurError as error:
                write_status(config.directory / STATUS_FILE, verifier.status(error))
                raise
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(STOP_S):
            await bench.close()

"""What a case is about, found out: its unit, what was opened of it, and the files from whoever holds them.

Of a disputed reward root: the messages from which it is recomputed.
"""

import logging
from collections.abc import Iterable
from functools import partial
from typing import Protocol

import trio

from contracts.cases import CaseState
from contracts.events import RewardsProposed
from contracts.types import CaseKind, CaseOutcome
from protocol.beacons import BEACONS_DIRECTORY, SignatureFiles
from protocol.chain import ChainView
from protocol.errors import Malformed, NetworkError, OwnFault, ProofInconclusive, ProofRejected
from protocol.manifest import RunManifest
from protocol.messages import Opening, Signed
from protocol.peer import SYNC_ROUNDS, Peer
from protocol.pool import MessagePool
from verification.bench import NotServed, ReplayBench, check_connection
from verification.commit import holds_unit
from verification.duty import confirmed_entries, confirmed_record, told, unit_of
from verification.gather import anchored_rounds
from verification.lateness import is_void
from verification.opening import check_opening, needed_files, not_countable
from verification.public import AuditChain
from verification.rewards import first_gap, judge_root, known_run, proposal_of
from verification.unit import NO_RESULT, DrawnUnit, Finding, nothing_there

log = logging.getLogger(__name__)


class Finder(Protocol):
    """Find out what to vote for."""

    async def find(self, case: CaseState, holders: Iterable[int]) -> Finding:
        """Return what to vote for in a case.

        Args:
            holders: registration numbers that may hold the files too.

        Raises:
            NotServed: the accused has not opened the segment, or nobody delivers what it opened.
            MurmurError: it cannot be said yet; that is not the accused's doing.
        """
        ...

    def check_connection(self) -> None:
        """Refuse to call something not served while it may be us who are cut off; raises `NetworkError`."""
        ...

    async def ask_back(self, cases: Iterable[CaseState]) -> None:
        """Ask other peers for the messages that cases under way are about, however old."""
        ...


def accused_unit(
    manifest: RunManifest, chain: ChainView, pool: MessagePool, case: CaseState
) -> DrawnUnit | Finding:
    """Return the unit with the segment that a case is about; a finding where messages alone decide the case.

    Raises:
        NotServed: the commitment counts, and nobody has told it.
        NetworkError: a message of the coordinator is missing here, which is not the accused's doing.
    """
    round_, number = case.round, case.number
    if round_ >= manifest.rounds or case.segment >= manifest.segments:
        return nothing_there(f"the run has no segment {case.segment} in round {round_}")
    if is_void(manifest, chain, round_):
        # As if nobody had been listed: its units are let go at once.
        return nothing_there(f"round {round_} is void: its record was anchored too late")
    entries, record = confirmed_entries(chain, pool, round_), confirmed_record(manifest, chain, pool, round_)
    if entries is None or record is None:
        raise NetworkError(f"the commitment list or the record of round {round_} is not here")
    if all(entry.number != number for entry in entries) or not holds_unit(number, record):
        return nothing_there(f"number {number} has no commitment that counts in round {round_}")
    for place in (round_, round_ - 1):
        known = confirmed_entries(chain, pool, place) if place >= 0 else None
        standing = confirmed_record(manifest, chain, pool, place) if place >= 0 else None
        if known is None or standing is None or not holds_unit(number, standing):
            continue
        if any(entry.number == number for entry in known) and told(pool, known, place, number) is None:
            raise NotServed(f"the commitment of number {number} in round {place} is not served")
    unit = unit_of(manifest, chain, pool, round_, number, case.segment)
    if unit is None:
        raise NetworkError(f"what number {number} carries into round {round_} is not known here")
    if unit.commitment.body.parameters != record.parameters:
        return Finding(
            CaseOutcome.VOID, NO_RESULT, "commitment starts from other parameters than the round's"
        )
    finding = not_countable(manifest, unit)
    if finding is not None:
        return finding
    if case.segment >= unit.view(manifest).segments:
        return nothing_there(f"the unit of number {number} in round {round_} has no segment {case.segment}")
    return unit


def openings_of(manifest: RunManifest, pool: MessagePool, unit: DrawnUnit) -> list[Signed[Opening]]:
    """Return the openings of a unit's segment that give the committed roots, for whatever case they were made."""
    found = []
    for (number, _), opening in sorted(pool.openings(unit.round).items()):
        if number != unit.number:
            continue
        try:
            check_opening(manifest, unit, opening)
        except (Malformed, ProofRejected) as error:
            log.debug("opening of number %d in round %d: %s", number, unit.round, error)
        else:
            found.append(opening)
    return found


class Inquiry:
    """Find out by the messages of a run's peers and an exact replay (`Finder`)."""

    def __init__(self, peer: Peer, bench: ReplayBench, chain: AuditChain | None = None) -> None:
        """Bind a juror to its peer.

        Args:
            chain: the peer's, where it tells enough to recompute reward roots.
        """
        self._peer = peer
        self._bench = bench
        self._chain = chain
        self._complete = 0  # anchored rounds of which all that pay depends on is here
        self.recomputes = False  # messages of all rounds are asked for, though no case needs them

    async def find(self, case: CaseState, holders: Iterable[int]) -> Finding:
        """Return what to vote for in a case; see `Finder`."""
        peer = self._peer
        if case.kind is CaseKind.REWARDS:
            return await self.judge_proposal(proposal_of(self._followed, case))
        unit = accused_unit(peer.manifest, peer.chain, peer.pool, case)
        if isinstance(unit, Finding):
            return unit
        openings = openings_of(peer.manifest, peer.pool, unit)
        if not openings:
            raise NotServed(
                f"number {unit.number} has not opened segment {unit.segment} of round {unit.round}"
            )
        # All that give the committed roots name the same files.
        return await self._bench.find(unit, openings[0], tuple(holders))

    @property
    def _followed(self) -> AuditChain:
        if self._chain is None:
            raise OwnFault("without a ledger's events no reward root can be recomputed")
        return self._chain

    async def judge_proposal(self, proposed: RewardsProposed) -> Finding:
        """Return what to vote for about a proposed reward root.

        Raises:
            NotServed: nobody delivers a message that says which root is due.
        """
        peer, chain = self._peer, self._followed
        beacons = SignatureFiles(peer.config.beacons or peer.config.directory / BEACONS_DIRECTORY)
        pool = peer.pool.snapshot()

        def judge() -> Finding:
            before = chain.as_of(proposed.block - 1)
            return judge_root(known_run(peer.manifest, before, pool, beacons, proposed.proposer), proposed)

        try:
            return await trio.to_thread.run_sync(judge, abandon_on_cancel=True)
        except ProofInconclusive as error:
            self._complete = 0  # look again at every round
            raise NotServed(error.message) from error

    def check_connection(self) -> None:
        """Refuse to call something not served while we have no peers, or no chain; raises `NetworkError`."""
        check_connection(self._peer)

    async def ask_back(self, cases: Iterable[CaseState]) -> None:
        """Ask anti-entropy for the rounds of cases under way, older ones than it compares by itself."""
        cases = tuple(cases)
        rounds = [max(0, case.round - 1) for case in cases if case.kind is not CaseKind.REWARDS]
        if self.recomputes or len(rounds) < len(cases):
            rounds += [] if (gap := await self._gap()) is None else [gap]
        first = min(rounds, default=None)
        recent = max(0, self._peer.pool.round - SYNC_ROUNDS)
        self._peer.ask_since = first if first is not None and first < recent else None

    async def _gap(self) -> int | None:
        """Return the first round of which a message is missing that pay depends on."""
        peer, chain, start = self._peer, self._followed, self._complete
        known = len(anchored_rounds(peer.manifest, chain))
        look = partial(first_gap, peer.manifest, chain, peer.pool.snapshot(), start)
        gap = await trio.to_thread.run_sync(look, abandon_on_cancel=True)
        if self._complete == start:  # else a judgement has found something missing meanwhile
            self._complete = known if gap is None else gap
        return gap

    def files(self, case: CaseState) -> frozenset[str]:
        """Return the addresses of the files that a case is about, as far as they are known."""
        peer = self._peer
        if case.kind is CaseKind.REWARDS:
            return frozenset()
        try:
            unit = accused_unit(peer.manifest, peer.chain, peer.pool, case)
        except NetworkError:
            return frozenset()
        if isinstance(unit, Finding):
            return frozenset()
        openings = openings_of(peer.manifest, peer.pool, unit)[:1]
        return frozenset(
            one.address for opening in openings for one in needed_files(peer.manifest, unit, opening.body)
        )

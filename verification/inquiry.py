"""What a case is about, found out: its unit, what was opened of it, and the files from whoever holds them."""

import logging
from collections.abc import Iterable
from typing import Protocol

from contracts.cases import CaseState
from contracts.types import CaseKind, CaseOutcome
from protocol.chain import ChainView
from protocol.errors import Malformed, NetworkError, OwnFault, ProofRejected
from protocol.manifest import RunManifest
from protocol.messages import Opening, Signed
from protocol.peer import SYNC_ROUNDS, Peer
from protocol.pool import MessagePool
from verification.bench import NotServed, ReplayBench, check_connection
from verification.duty import confirmed_list, confirmed_record, listed_commitment, unit_of
from verification.lateness import is_void
from verification.opening import check_opening, needed_files, not_countable
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

    def ask_back(self, cases: Iterable[CaseState]) -> None:
        """Ask other peers for the messages that cases under way are about, however old."""
        ...


def accused_unit(
    manifest: RunManifest, chain: ChainView, pool: MessagePool, case: CaseState
) -> DrawnUnit | Finding:
    """Return the unit with the segment that a case is about; a finding where messages alone decide the case.

    Raises:
        NotServed: the commitment is listed, and nobody has told it.
        NetworkError: a message of the coordinator is missing here, which is not the accused's doing.
    """
    round_, number = case.round, case.number
    if round_ >= manifest.rounds or case.segment >= manifest.segments:
        return nothing_there(f"the run has no segment {case.segment} in round {round_}")
    if is_void(manifest, chain, round_):
        # As if nobody had been listed: its units are let go at once.
        return nothing_there(f"round {round_} is void: its record was anchored too late")
    listed, record = confirmed_list(chain, pool, round_), confirmed_record(manifest, chain, pool, round_)
    if listed is None or record is None:
        raise NetworkError(f"the commitment list or the record of round {round_} is not here")
    if all(entry.number != number for entry in listed.body.entries):
        return nothing_there(f"number {number} has no listed commitment in round {round_}")
    for place in (round_, round_ - 1):
        told = confirmed_list(chain, pool, place) if place >= 0 else None
        named = told is not None and any(entry.number == number for entry in told.body.entries)
        if told is not None and named and listed_commitment(pool, told, place, number) is None:
            raise NotServed(f"the commitment of number {number} in round {place} is not served")
    unit = unit_of(manifest, chain, pool, round_, number, case.segment)
    if unit is None:
        raise NetworkError(f"what number {number} carries into round {round_} is not known here")
    if unit.commitment.body.parameters != record.parameters:
        return Finding(
            CaseOutcome.VOID, NO_RESULT, "commitment starts from other parameters than the round's"
        )
    return not_countable(manifest, unit) or unit


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

    def __init__(self, peer: Peer, bench: ReplayBench) -> None:
        self._peer = peer
        self._bench = bench

    async def find(self, case: CaseState, holders: Iterable[int]) -> Finding:
        """Return what to vote for in a case; see `Finder`."""
        if case.kind is CaseKind.REWARDS:
            raise OwnFault("this program cannot judge reward roots")
        peer = self._peer
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

    def check_connection(self) -> None:
        """Refuse to call something not served while we have no peers, or no chain; raises `NetworkError`."""
        check_connection(self._peer)

    def ask_back(self, cases: Iterable[CaseState]) -> None:
        """Ask anti-entropy for the rounds of cases under way, older ones than it compares by itself."""
        first = min((max(0, case.round - 1) for case in cases), default=None)
        recent = max(0, self._peer.pool.round - SYNC_ROUNDS)
        self._peer.ask_since = first if first is not None and first < recent else None

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

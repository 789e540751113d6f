"""One run as the chain shows it: `protocol.chain.ChainView` over a ledger's events, and the beacons they fix."""

from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, Literal

from contracts.beacons import AT_ONCE, Beacons, beacons_of
from contracts.cases import CaseState, fold
from contracts.chain import connect
from contracts.client import Ledger
from contracts.events import (
    Claimed,
    CommitmentForced,
    CommitmentsPosted,
    Equivocated,
    Event,
    PeerRotated,
    RecordAnchored,
    Registered,
    RewardsCancelled,
    RewardsFinalized,
    RewardsProposed,
    RewardsReopened,
    RunCreated,
    RunFinished,
    RunFunded,
    RunOpened,
    Slashed,
    StakeChanged,
    StoodIn,
)
from contracts.index import EventIndex
from contracts.types import CaseKind, CaseOutcome, Role
from protocol.beacon_config import BlockBeacon, DrandBeacon
from protocol.beacons import SignatureSource
from protocol.chain import OPENING_ROUND, Case, LinkedKey, Operator, Penalties, PostedRoot
from protocol.errors import LedgerError
from protocol.keys import peer_id_of
from protocol.networks import Network

_OUTCOMES: Final[dict[int, Literal["passed", "void", "false"]]] = {
    CaseOutcome.RIGHT: "passed",
    CaseOutcome.VOID: "void",
    CaseOutcome.FALSE: "false",
    CaseOutcome.FORGED: "false",
    CaseOutcome.UNAVAILABLE: "false",
}
_ROLES = {Role.CONTRIBUTOR: "contributor", Role.VERIFIER: "verifier"}


@dataclass
class _Facts:
    """What the events say, folded once for each new set of them."""

    registered: dict[int, Registered] = field(default_factory=dict)
    keys: dict[int, list[LinkedKey]] = field(default_factory=dict)  # by number, oldest first
    stakes: list[StakeChanged] = field(default_factory=list)
    newest_stakes: dict[int, int] = field(default_factory=dict)  # wei by number, after all of these
    created: RunCreated | None = None
    opened: RunOpened | None = None
    stand_in: int = 0
    finished: RunFinished | None = None
    funded_wei: int = 0
    commitments: dict[int, CommitmentsPosted] = field(default_factory=dict)
    records: dict[int, RecordAnchored] = field(default_factory=dict)
    proposals: list[RewardsProposed] = field(default_factory=list)
    proposed: dict[int, RewardsProposed] = field(default_factory=dict)
    finalized: dict[int, RewardsFinalized] = field(default_factory=dict)
    claims: list[Claimed] = field(default_factory=list)
    slashes: list[Slashed] = field(default_factory=list)
    forced: dict[int, dict[int, CommitmentForced]] = field(default_factory=dict)  # by round and number
    equivocations: list[Equivocated] = field(default_factory=list)
    cases: dict[int, CaseState] = field(default_factory=dict)

    def add(self, event: Event, run: str) -> None:
        """Fold one event in; events of other runs say nothing here."""
        if getattr(event, "run", run) != run:
            return
        match event:
            case Registered():
                self.registered[event.number] = event
                self.keys[event.number] = [_linked(event)]
            case PeerRotated():
                self.keys.setdefault(event.number, []).append(_linked(event))
            case StakeChanged():
                self.stakes.append(event)
                self.newest_stakes[event.number] = event.stake
            case RunCreated():
                self.created = event
            case RunOpened():
                self.opened = event
            case StoodIn():
                self.stand_in = event.number
            case RunFinished():
                self.finished = event
            case RunFunded():
                self.funded_wei = event.total
            case CommitmentsPosted():
                self.commitments[event.round] = event
            case RecordAnchored():
                self.records[event.round] = event
            case RewardsProposed():
                self.proposals.append(event)
                self.proposed[event.epoch] = event
            case RewardsCancelled():
                self.proposed.pop(event.epoch, None)
            case RewardsReopened() if event.epoch in self.proposed:
                pending = self.proposed[event.epoch]
                self.proposed[event.epoch] = replace(pending, final_at=event.final_at)
            case RewardsFinalized():
                self.finalized[event.epoch] = event
            case Claimed():
                self.claims.append(event)
            case Slashed():
                self.slashes.append(event)
            case CommitmentForced():
                self.forced.setdefault(event.round, {})[event.number] = event
            case Equivocated():
                self.equivocations.append(event)
        fold(self.cases, event, run)


class ChainRun:
    """Follow one run. `refresh` talks to the chain and may run in a worker thread; all else reads what it brought."""

    def __init__(self, ledger: Ledger, run: str, *, start_block: int = 1) -> None:
        """Start before anything was read.

        Args:
            run: run id, 64 hex digits.
            start_block: the block that deployed the ledger, or an earlier one.
        """
        self.ledger = ledger
        self.run = run
        self._index = EventIndex(ledger, start_block)
        self._events: tuple[Event, ...] = ()
        self._facts = _Facts()
        self._beacons: Beacons | None = None
        self._ahead = 0
        self._rollbacks = 0
        self._height = 0

    @classmethod
    def connect(
        cls, network: Network | str, ledger: str, run: str, *, chain_id: int | None = None
    ) -> "ChainRun":
        """Connect to a chain and follow a run of a ledger on it.

        Raises:
            LedgerError: the chain is not there or another one, or the address is no ledger.
        """
        found = Ledger(connect(network, chain_id), ledger)
        found.verify()
        return cls(found, run)

    def refresh(self) -> None:
        """Read new blocks and events, and the beacons of those that anchor something.

        Raises:
            LedgerError: the chain does not answer, or nobody has a beacon that is due.
        """
        self._index.poll()
        # Read once here, so that nothing else needs the chain.
        _ = self.min_stake_wei, self.force_blocks, self.timeout_blocks
        events = self._index.events
        if self._index.rollbacks != self._rollbacks:
            self._rollbacks = self._index.rollbacks
            if self._beacons is not None:
                self._beacons.forget()
        if events is not self._events and events != self._events:
            self._facts, self._events = self._folded(events), events
        self._height = self._index.height
        if self._beacons is not None:
            self._beacons.update(self._index, self._anchors())

    def as_of(self, block: int) -> "ChainRun":
        """Return the run as it stood after a block, to be read and never refreshed.

        What that block's anchors fixed is known in it, though the block that gave their beacon may be a later one.
        """
        then = copy(self)
        then._events = tuple(event for event in self._events if event.block <= block)
        then._facts = self._folded(then._events)
        then._height = min(block, self._height)
        return then

    def _folded(self, events: tuple[Event, ...]) -> _Facts:
        facts = _Facts()
        for event in events:
            facts.add(event, self.run)
        return facts

    def follow_beacon(
        self,
        beacon: BlockBeacon | DrandBeacon,
        source: SignatureSource | None,
        *,
        at_once: int = AT_ONCE,
        ahead: int = 0,
    ) -> None:
        """Bring, from the next `refresh` on, the beacons that the run's manifest demands.

        Args:
            at_once: how many drand rounds one refresh looks for, the newest first.
            ahead: as in `protocol.chain`.
        """
        self._ahead = ahead
        self._beacons = beacons_of(beacon, source, at_once)

    def _anchors(self) -> list[int]:
        opened = {self._facts.opened.block} if self._facts.opened else set()
        records = {record.block for record in self._facts.records.values()}
        return sorted(opened | records)

    @property
    def height(self) -> int:
        """Return the newest block read."""
        return self._height

    @property
    def events(self) -> tuple[Event, ...]:
        """Return every event of the ledger up to `height`, in chain order."""
        return self._events

    @cached_property
    def force_blocks(self) -> int:
        """Return how long after a commitment root others can be forced in, during which no record is anchored."""
        return self.ledger.force_blocks

    @cached_property
    def timeout_blocks(self) -> int:
        """Return after how many blocks without progress others may act for the coordinator."""
        return self.ledger.timeout_blocks

    @cached_property
    def min_stake_wei(self) -> int:
        """Return the stake below which a peer is on no roster."""
        return self.ledger.min_stake

    def created(self) -> int | None:
        """Return the block in which the run was created."""
        return None if self._facts.created is None else self._facts.created.block

    def penalties(self) -> Penalties | None:
        """Return what the run was created with."""
        created = self._facts.created
        if created is None:
            return None
        return Penalties(created.fault_bps, created.equivocation_bps, created.window_blocks)

    def coordinator(self) -> RunCreated | None:
        """Return who created the run, and the key that signs for it."""
        return self._facts.created

    def anchor(self, round_: int) -> int | None:
        """Return the block that anchored a record; of OPENING_ROUND, the block that opened the run."""
        if round_ == OPENING_ROUND:
            return None if self._facts.opened is None else self._facts.opened.block
        record = self._facts.records.get(round_)
        return None if record is None else record.block

    def record_hash(self, round_: int) -> str | None:
        """Return the anchored hash of a round's record."""
        record = self._facts.records.get(round_)
        return None if record is None else record.record.hex()

    def activity(self) -> tuple[int, ...]:
        """Return the blocks in which the run made progress, in order: its opening, roots, records, final rewards, end.

        As the ledger counts: what becomes final after the end is no progress.
        """
        facts = self._facts
        ended = () if facts.finished is None else (facts.finished,)
        steps: tuple[Event, ...] = (
            *(() if facts.opened is None else (facts.opened,)),
            *facts.commitments.values(),
            *facts.records.values(),
            *(one for one in facts.finalized.values() if not ended or one.block <= ended[0].block),
            *ended,
        )
        return tuple(sorted(step.block for step in steps))

    def stand_in(self) -> int:
        """Return the number of who acts for the run's coordinator; 0 for nobody."""
        return self._facts.stand_in

    def reward_roots(self) -> frozenset[str]:
        """Return the reward roots that are pending or final."""
        facts = self._facts
        pending = {one.root.hex() for one in facts.proposed.values()}
        return frozenset(pending | {one.root.hex() for one in facts.finalized.values()})

    def commitments(self, round_: int) -> PostedRoot | None:
        """Return the commitment root of a round."""
        posted = self._facts.commitments.get(round_)
        return None if posted is None else PostedRoot(posted.root.hex(), posted.count, posted.block)

    def roster(self, round_: int) -> tuple[Operator, ...]:
        """Return the contributors of a round; none before its anchor is known."""
        block = self.anchor(round_ - 1)
        return () if block is None else self._staked(Role.CONTRIBUTOR, block)

    def verifiers(self, round_: int) -> tuple[Operator, ...]:
        """Return the verifiers of a round; none before its record is anchored."""
        block = self.anchor(round_)
        return () if block is None else self._staked(Role.VERIFIER, block)

    def assignment_beacon(self, round_: int) -> str | None:
        """Return the beacon of the block that anchored the round before; one earlier where outer steps are delayed."""
        return self._beacon_after(self.anchor(max(OPENING_ROUND, round_ - 1 - self._ahead)))

    def sampling_beacon(self, round_: int) -> str | None:
        """Return the beacon of the block that anchored the round."""
        return self._beacon_after(self.anchor(round_))

    def cases(self, round_: int) -> tuple[Case, ...]:
        """Return the cases about a round's units, oldest first, whatever became of them."""
        return tuple(case_view(one) for one in self.every_case() if one.round == round_ and one.number)

    def every_case(self) -> tuple[CaseState, ...]:
        """Return the run's cases, oldest first, disputes of its reward roots among them."""
        return tuple(self._facts.cases.values())

    def seed_proof(self, case: CaseState) -> bytes | None:
        """Return what draws a case's jury, as `Jury.draw` takes it; None before it is there. May block.

        Raises:
            LedgerError: it is due, and nobody has it; or no beacon is followed.
        """
        if self._beacons is None:
            raise LedgerError("no beacon is followed, so that no jury can be drawn")
        return self._beacons.seed_proof(case.seed_round, self._height)

    def forced(self, round_: int) -> dict[int, str]:
        """Return the message ids of the commitments forced into a round, by number, first forced first."""
        return {number: one.commitment.hex() for number, one in self._facts.forced.get(round_, {}).items()}

    def equivocations(self) -> tuple[Equivocated, ...]:
        """Return the equivocations that were proven in this run, in chain order."""
        return tuple(self._facts.equivocations)

    def drand_round(self, round_: int) -> int | None:
        """Return the drand round that a round's anchor fixes; None on a local chain, or before `refresh` saw it."""
        anchor = self.anchor(round_)
        return None if anchor is None or self._beacons is None else self._beacons.drand_round(anchor)

    def operators(self) -> tuple[Operator, ...]:
        """Return everybody registered, with the stake of the newest block read."""
        stakes = self._facts.newest_stakes
        return tuple(
            self._operator(number, stakes.get(number, 0), self._height)
            for number in sorted(self._facts.registered)
        )

    def operator(self, number: int) -> Operator | None:
        """Return one registered peer."""
        if number not in self._facts.registered:
            return None
        return self._operator(number, self._facts.newest_stakes.get(number, 0), self._height)

    def keys(self, number: int) -> tuple[LinkedKey, ...]:
        """Return every key that was linked to a number, oldest first."""
        return tuple(self._facts.keys.get(number, ()))

    def slashed(self) -> dict[int, int]:
        """Return what each number lost in this run."""
        lost: dict[int, int] = {}
        for event in self._facts.slashes:
            lost[event.number] = lost.get(event.number, 0) + event.amount
        return lost

    def slashes(self) -> tuple[Slashed, ...]:
        """Return the slashes of this run, in chain order."""
        return tuple(self._facts.slashes)

    def finished(self) -> str | None:
        """Return the final parameters' address."""
        return None if self._facts.finished is None else self._facts.finished.parameters.hex()

    @property
    def funded_wei(self) -> int:
        """Return all that was paid into the run's pot."""
        return self._facts.funded_wei

    def proposed(self) -> dict[int, RewardsProposed]:
        """Return the undisputed reward roots by epoch, final or not."""
        return dict(self._facts.proposed)

    def proposals(self) -> tuple[RewardsProposed, ...]:
        """Return every reward root that was proposed, whatever became of it, in chain order."""
        return tuple(self._facts.proposals)

    def pending(self) -> RewardsProposed | None:
        """Return the reward root that is neither final nor cancelled, with the block at which it can become final."""
        open_ = self._facts.proposed.keys() - self._facts.finalized.keys()
        return next((self._facts.proposed[epoch] for epoch in open_), None)

    def finalized(self) -> dict[int, RewardsFinalized]:
        """Return the final reward roots by epoch."""
        return dict(self._facts.finalized)

    def claims(self) -> tuple[Claimed, ...]:
        """Return the claims on this run's pot, in chain order."""
        return tuple(self._facts.claims)

    def _beacon_after(self, anchor: int | None) -> str | None:
        return None if anchor is None or self._beacons is None else self._beacons.after(anchor)

    def _stakes(self, block: int) -> dict[int, int]:
        return {change.number: change.stake for change in self._facts.stakes if change.block <= block}

    def _staked(self, role: Role, block: int) -> tuple[Operator, ...]:
        stakes = self._stakes(block)
        return tuple(
            self._operator(number, stakes[number], block)
            for number, registered in sorted(self._facts.registered.items())
            if registered.role == role
            and registered.block <= block
            and stakes.get(number, 0) >= self.min_stake_wei
        )

    def _operator(self, number: int, stake: int, block: int) -> Operator:
        """Return an operator with the peer key that it had at a block."""
        registered, keys = self._facts.registered[number], self._facts.keys[number]
        linked = next((one for one in reversed(keys) if one.block <= block), keys[0])
        return Operator(
            number=number,
            wallet=registered.wallet,
            peer=linked.peer,
            peer_id=linked.peer_id,
            role=_ROLES[Role(registered.role)],
            stake_wei=stake,
        )


def _linked(event: Registered | PeerRotated) -> LinkedKey:
    return LinkedKey(event.peer, peer_id_of(event.pub_x + event.pub_y.to_bytes(32, "big")), event.block)


def case_view(state: CaseState) -> Case:
    """Return what a case is to those who only need its outcome."""
    outcome: Literal["passed", "void", "false", "unjudged"] | None = None
    if state.closed:
        outcome = _OUTCOMES.get(state.outcome, "unjudged")
    return Case(
        case=state.case,
        round=state.round,
        number=state.number,
        segment=state.segment,
        contests=state.kind is CaseKind.CONTEST,
        block=state.block,
        outcome=outcome,
        forged_residual=state.closed and state.outcome == CaseOutcome.FORGED,
        refused=state.closed and state.outcome == CaseOutcome.UNAVAILABLE,
        closed_at=state.stage_block if state.closed else None,
    )

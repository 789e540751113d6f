"""The chain of a test: a `ChainView` over plain lists, with keys that follow from registration numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import TypeVar

from contracts.cases import CaseState, SeatState
from contracts.events import (
    Claimed,
    Equivocated,
    Event,
    RewardsFinalized,
    RewardsProposed,
    RunCreated,
    Slashed,
)
from contracts.jury import vote_digest
from contracts.run import case_view
from contracts.types import CaseKind, CaseStage
from protocol.canonical import digest
from protocol.chain import OPENING_ROUND, Case, LinkedKey, Operator, Penalties, PostedRoot
from protocol.keys import PeerKey
from protocol.manifest import RunManifest

E = TypeVar("E", bound=Event)

LEDGER = "0x" + "11" * 20
STAKE = 10**18


@cache
def key(number: int) -> PeerKey:
    """Return the hot key of a registration number; 0 is the coordinator."""
    return PeerKey(bytes([1 + number]) * 32)


@cache
def peer_id(number: int) -> str:
    return key(number).peer_id


@cache
def wallet(number: int) -> str:
    return PeerKey(bytes([101 + number]) * 32).address


def block_hash(block: int) -> str:
    return digest(f"block {block}".encode())


@dataclass
class SimChain:
    """A `ChainView`, and what an audit asks beyond it, over plain lists."""

    manifest: RunManifest
    numbers: dict[int, str]  # registration number -> role
    height: int = 10
    min_stake_wei: int = STAKE
    force_blocks: int = 0
    timeout_blocks: int = 50
    anchors: dict[int, int] = field(default_factory=lambda: {OPENING_ROUND: 10})
    records: dict[int, str] = field(default_factory=dict)
    posted: dict[int, PostedRoot] = field(default_factory=dict)
    linked: dict[int, list[LinkedKey]] = field(default_factory=dict)  # keys that were given later
    forcings: dict[int, dict[int, str]] = field(
        default_factory=dict
    )  # round -> number -> commitment, in order
    out: dict[int, int] = field(default_factory=dict)  # number -> block from which it has no stake
    left: set[int] = field(default_factory=set)  # numbers that have no stake now
    final: str | None = None
    opened: dict[int, CaseState] = field(default_factory=dict)  # by case
    doubles: list[Equivocated] = field(default_factory=list)
    funded_wei: int = 0
    final_at: int = 0  # block that closed the run
    proposed: list[RewardsProposed] = field(default_factory=list)
    rewards: dict[int, RewardsFinalized] = field(default_factory=dict)
    claimed: list[Claimed] = field(default_factory=list)
    slashings: list[Slashed] = field(default_factory=list)

    def refresh(self) -> None:
        return None

    def stand_in(self) -> int:
        return 0

    def activity(self) -> tuple[int, ...]:
        steps = [one.block for one in self.posted.values()], [one.block for one in self.rewards.values()]
        ended = () if self.final is None else (self.final_at,)
        return tuple(sorted((*self.anchors.values(), *steps[0], *steps[1], *ended)))

    def reward_roots(self) -> frozenset[str]:
        return frozenset(one.root.hex() for one in self.rewards.values())

    def created(self) -> int | None:
        return 1

    def coordinator(self) -> RunCreated | None:
        held = self.penalties()
        said = (held.fault_bps, held.equivocation_bps, held.window_blocks, 50)
        return RunCreated(1, 0, "0x", self.manifest.run_id, wallet(0), self.manifest.coordinator, *said)

    def penalties(self) -> Penalties:
        return Penalties.of(self.manifest)

    def anchor(self, round_: int) -> int | None:
        return self.anchors.get(round_)

    def record_hash(self, round_: int) -> str | None:
        return self.records.get(round_)

    def commitments(self, round_: int) -> PostedRoot | None:
        return self.posted.get(round_)

    def forced(self, round_: int) -> dict[int, str]:
        return dict(self.forcings.get(round_, {}))

    def _staked(self, role: str, block: int | None) -> tuple[Operator, ...]:
        if block is None:
            return ()
        return tuple(
            one
            for one in self.operators()
            if one.role == role and self.out.get(one.number, block + 1) > block
        )

    def roster(self, round_: int) -> tuple[Operator, ...]:
        return self._staked("contributor", self.anchor(round_ - 1))

    def verifiers(self, round_: int) -> tuple[Operator, ...]:
        return self._staked("verifier", self.anchor(round_))

    def follow_beacon(self, beacon: object, source: object, *, ahead: int = 0) -> None:
        """Beacons are hashes of blocks here, whatever a manifest demands."""

    def drand_round(self, round_: int) -> int | None:
        return None

    def assignment_beacon(self, round_: int) -> str | None:
        return self._after(self.anchor(max(-1, round_ - 1 - self.manifest.ahead)))

    def sampling_beacon(self, round_: int) -> str | None:
        return self._after(self.anchor(round_))

    def _after(self, block: int | None) -> str | None:
        return None if block is None or block + 1 > self.height else block_hash(block + 1)

    def cases(self, round_: int) -> tuple[Case, ...]:
        return tuple(case_view(one) for one in self.every_case() if one.round == round_)

    def every_case(self) -> tuple[CaseState, ...]:
        return tuple(one for one in self.opened.values() if one.block <= self.height)

    def equivocations(self) -> tuple[Equivocated, ...]:
        return tuple(self.doubles)

    def open_case(self, round_: int, number: int, segment: int, *, contests: bool = False) -> int:
        """Open a case in a block of its own; return its number."""
        self.height += 1
        case = len(self.opened) + 1
        kind = CaseKind.CONTEST if contests else CaseKind.ACCUSATION
        self.opened[case] = CaseState(
            case=case,
            run=self.manifest.run_id,
            kind=kind,
            round=round_,
            number=number,
            segment=segment,
            appellant=wallet(number if contests else 0),
            evidence=bytes(32),
            block=self.height,
        )
        return case

    def dispute(self, ground: int = 1) -> CaseState:
        """Dispute the newest proposed root in a block of its own."""
        self.height += 1
        case, about = len(self.opened) + 1, self.proposed[-1].block
        subject = (self.manifest.run_id, CaseKind.REWARDS, about, 0, ground)
        self.opened[case] = CaseState(case, *subject, wallet(0), bytes(32), block=self.height)
        return self.opened[case]

    def close_case(self, case: int, outcome: int, result: bytes = bytes(32)) -> None:
        """Let three jurors say the same, or (outcome 0) nothing, and close the case."""
        said = outcome > 0
        seats = tuple(SeatState(index, 90 + index, said, outcome, result) for index in range(3))
        self.opened[case] = replace(
            self.opened[case],
            stage=CaseStage.CLOSED,
            stage_block=self.height,
            juries=(seats, ()),
            outcome=outcome,
            vote=vote_digest(outcome, result) if said else b"",
        )

    def operators(self) -> tuple[Operator, ...]:
        return tuple(
            Operator(
                number,
                wallet(number),
                self.keys(number)[-1].peer,
                self.keys(number)[-1].peer_id,
                role,
                0 if number in self.left else STAKE,
            )
            for number, role in sorted(self.numbers.items())
        )

    def keys(self, number: int) -> tuple[LinkedKey, ...]:
        if number not in self.numbers:
            return ()
        return (LinkedKey(key(number).address, peer_id(number), 1), *self.linked.get(number, []))

    def rotate(self, number: int, new: PeerKey) -> None:
        """Give a number another key in a block of its own."""
        self.height += 1
        self.linked.setdefault(number, []).append(LinkedKey(new.address, new.peer_id, self.height))

    def operator(self, number: int) -> Operator | None:
        return next((one for one in self.operators() if one.number == number), None)

    def slashed(self) -> dict[int, int]:
        return {event.number: event.amount for event in self.slashings}

    def finished(self) -> str | None:
        return self.final

    def slashes(self) -> tuple[Slashed, ...]:
        return tuple(self.slashings)

    def as_of(self, block: int) -> SimChain:
        def before(events: list[E]) -> list[E]:
            return [one for one in events if one.block <= block]

        anchors = {round_: at for round_, at in self.anchors.items() if at <= block}
        return replace(
            self,
            height=min(self.height, block),
            anchors=anchors,
            records={round_: one for round_, one in self.records.items() if round_ in anchors},
            posted={round_: one for round_, one in self.posted.items() if one.block <= block},
            final=self.final if self.final_at <= block else None,
            opened={number: _as_of(one, block) for number, one in self.opened.items() if one.block <= block},
            doubles=before(self.doubles),
            rewards={epoch: one for epoch, one in self.rewards.items() if one.block <= block},
            proposed=before(self.proposed),
            claimed=before(self.claimed),
            slashings=before(self.slashings),
        )

    def proposals(self) -> tuple[RewardsProposed, ...]:
        return tuple(self.proposed)

    def pending(self) -> RewardsProposed | None:
        newest = self.proposed[-1:]
        return next((one for one in newest if one.epoch not in self.rewards), None)

    def propose(self, epoch: int, root: bytes, total: int, proposer: str = wallet(0)) -> RewardsProposed:
        """Propose a reward root in a block of its own."""
        self.height += 1
        run, final_at = self.manifest.run_id, self.height + 5
        self.proposed.append(
            RewardsProposed(self.height, 0, "0x", run, epoch, root, total, final_at, proposer)
        )
        return self.proposed[-1]

    def finalized(self) -> dict[int, RewardsFinalized]:
        return dict(self.rewards)

    def claims(self) -> tuple[Claimed, ...]:
        return tuple(self.claimed)


def _as_of(case: CaseState, block: int) -> CaseState:
    if not case.closed or case.stage_block <= block:
        return case
    return replace(case, stage=CaseStage.CALLED, stage_block=case.block, juries=((), ()), outcome=0, vote=b"")

"""A chain whose blocks are mined by the test."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from coordinator.state import Pending
from protocol.canonical import digest
from protocol.chain import Case, LinkedKey, Operator, Penalties, PostedRoot


@dataclass
class SimulatedChain:
    """A `ChainView` whose blocks are mined by the test."""

    ahead: int = 0
    height: int = 1
    min_stake_wei: int = 100
    force_blocks: int = 0
    timeout_blocks: int = 50
    dispute_blocks: int = 3
    fork: str = "main"
    members: dict[int, Operator] = field(default_factory=dict)
    created_at: int | None = 1
    opened_at: int | None = None
    roots: dict[int, PostedRoot] = field(default_factory=dict)
    forcings: dict[int, dict[int, str]] = field(
        default_factory=dict
    )  # round -> number -> commitment, in order
    records: dict[int, tuple[str, int]] = field(default_factory=dict)
    rosters: dict[int, tuple[Operator, ...]] = field(default_factory=dict)
    lost: dict[int, int] = field(default_factory=dict)
    final: str | None = None
    opened: dict[int, Case] = field(default_factory=dict)  # cases before the jury, by number
    window: int = 1200  # blocks for cases about a round
    pending: Pending | None = None
    finalized: list[str] = field(default_factory=list)
    settled_at: list[int] = field(default_factory=list)  # blocks that made a root final
    acting: int = 0  # number of who stands in

    def stand_in(self) -> int:
        return self.acting

    def activity(self) -> tuple[int, ...]:
        opened = () if self.opened_at is None else (self.opened_at,)
        steps = [one.block for one in self.roots.values()], [block for _, block in self.records.values()]
        return tuple(sorted((*opened, *steps[0], *steps[1], *self.settled_at)))

    def reward_roots(self) -> frozenset[str]:
        return frozenset(self.finalized) | (frozenset() if self.pending is None else {self.pending.root})

    def refresh(self) -> None:
        return None

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.height += 1
            self.rosters[self.height] = tuple(self.members[number] for number in sorted(self.members))

    def created(self) -> int | None:
        return self.created_at

    def anchor(self, round_: int) -> int | None:
        if round_ < 0:
            return self.opened_at
        return self.records[round_][1] if round_ in self.records else None

    def record_hash(self, round_: int) -> str | None:
        return self.records[round_][0] if round_ in self.records else None

    def commitments(self, round_: int) -> PostedRoot | None:
        return self.roots.get(round_)

    def forced(self, round_: int) -> dict[int, str]:
        return dict(self.forcings.get(round_, {}))

    def _staked(self, role: str, block: int | None) -> tuple[Operator, ...]:
        if block is None:
            return ()
        return tuple(
            one for one in self.rosters[block] if one.role == role and one.stake_wei >= self.min_stake_wei
        )

    def roster(self, round_: int) -> tuple[Operator, ...]:
        return self._staked("contributor", self.anchor(round_ - 1))

    def verifiers(self, round_: int) -> tuple[Operator, ...]:
        return self._staked("verifier", self.anchor(round_))

    def _hash(self, block: int) -> str | None:
        return digest(f"{self.fork} {block}".encode()) if block <= self.height else None

    def follow_beacon(self, beacon: object, source: object, *, ahead: int = 0) -> None:
        """Beacons are hashes of blocks here, whatever a manifest demands."""
        self.ahead = ahead

    def assignment_beacon(self, round_: int) -> str | None:
        block = self.anchor(max(-1, round_ - 1 - self.ahead))
        return None if block is None else self._hash(block + 1)

    def sampling_beacon(self, round_: int) -> str | None:
        block = self.anchor(round_)
        return None if block is None else self._hash(block + 1)

    def penalties(self) -> Penalties | None:
        return None if self.created_at is None else Penalties(10_000, 1000, self.window)

    def cases(self, round_: int) -> tuple[Case, ...]:
        return tuple(one for one in self.opened.values() if one.round == round_ and one.block <= self.height)

    def open_case(self, round_: int, number: int, segment: int, *, contests: bool = False) -> int:
        """Bring a segment before the jury, in a block of its own; return the case's number."""
        self.mine()
        case = len(self.opened) + 1
        self.opened[case] = Case(case, round_, number, segment, contests, self.height)
        return case

    def rule(
        self,
        case: int,
        outcome: Literal["passed", "void", "false", "unjudged"],
        *,
        forged_residual: bool = False,
        refused: bool = False,
    ) -> None:
        """Close a case as its jury would, in a block of its own; stake moves with it."""
        self.mine()
        self.opened[case] = replace(
            self.opened[case],
            outcome=outcome,
            forged_residual=forged_residual,
            refused=refused,
            closed_at=self.height,
        )
        if outcome == "false":
            self.slash(self.opened[case].number)

    def operators(self) -> tuple[Operator, ...]:
        return tuple(self.members[number] for number in sorted(self.members))

    def operator(self, number: int) -> Operator | None:
        return self.members.get(number)

    def keys(self, number: int) -> tuple[LinkedKey, ...]:
        one = self.members.get(number)
        return () if one is None else (LinkedKey(one.peer, one.peer_id, 1),)

    def slashed(self) -> dict[int, int]:
        return self.lost

    def finished(self) -> str | None:
        return self.final

    @property
    def final_root(self) -> str:
        """The last final reward root; zero before the first."""
        return self.finalized[-1] if self.finalized else "00" * 32

    def slash(self, number: int) -> None:
        self.lost[number] = self.members[number].stake_wei
        self.members[number] = replace(self.members[number], stake_wei=0)

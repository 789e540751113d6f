"""What a run needs to know of its chain, as a seam: `contracts.run` reads a real one, tests bring their own."""

from dataclasses import dataclass
from typing import Literal, Protocol

from protocol.beacon_config import BlockBeacon, DrandBeacon
from protocol.beacons import SignatureSource
from protocol.manifest import RunManifest

OPENING_ROUND = -1
"""The 'round' anchored by the run's opening block, from which round 0 takes roster and beacon."""


@dataclass(frozen=True)
class Operator:
    """Name a registered peer as the chain saw it at some block."""

    number: int  # registration number, never reused or changed
    wallet: str
    peer: str  # address of the hot key
    peer_id: str  # libp2p peer id of the same key
    role: str  # "contributor" or "verifier"
    stake_wei: int


@dataclass(frozen=True)
class LinkedKey:
    """Name a hot key that was linked to a number; what it may sign, `protocol.speakers` says."""

    peer: str  # address
    peer_id: str  # libp2p peer id of the same key
    block: int  # that linked it


@dataclass(frozen=True)
class PostedRoot:
    """Give a round's commitment root on chain."""

    root: str  # 64 hex digits
    count: int
    block: int


@dataclass(frozen=True)
class Case:
    """A bonded case before the jury about one segment of a unit.

    Its owner contests what was said of it; anybody else accuses it. The accusation itself announces that the segment
    has to be opened.
    """

    case: int  # the jury's number of it, from 1, over all runs
    round: int
    number: int  # whose unit
    segment: int
    contests: bool
    block: int  # that opened it
    outcome: Literal["passed", "void", "false", "unjudged"] | None = None  # None: it is open
    forged_residual: bool = False  # false: what it carries on does not follow
    refused: bool = False  # false: nobody could fetch what had to be opened
    closed_at: int | None = None  # block; None: it is open

    @property
    def label(self) -> tuple[int, int]:
        """Return (number, case)."""
        return self.number, self.case


@dataclass(frozen=True)
class Penalties:
    """What the chain holds of a run's penalties and time."""

    fault_bps: int
    equivocation_bps: int
    window_blocks: int

    @classmethod
    def of(cls, manifest: RunManifest) -> "Penalties":
        """Return what a manifest wants the chain to hold."""
        said = manifest.penalties
        return cls(said.fault_percent * 100, said.equivocation_percent * 100, said.window)


class ChainView(Protocol):
    """Show one run on one chain. `refresh` blocks on I/O; everything else only reads what it brought."""

    def refresh(self) -> None:
        """Read what is new. Raises LedgerError when the chain does not answer, or nobody has a beacon that is due."""

    @property
    def height(self) -> int:
        """Return the newest block seen."""

    @property
    def min_stake_wei(self) -> int:
        """Return the stake below which a peer is on no roster."""

    @property
    def force_blocks(self) -> int:
        """Return how long after a commitment root others can be forced in, during which no record is anchored."""

    @property
    def timeout_blocks(self) -> int:
        """Return after how many blocks without progress others may act for the run's coordinator."""

    def activity(self) -> tuple[int, ...]:
        """Return the blocks of the run's progress, in order: its opening, roots, records, final rewards, end."""

    def stand_in(self) -> int:
        """Return the number of who acts for the run's coordinator since it was gone; 0: nobody does."""

    def reward_roots(self) -> frozenset[str]:
        """Return the reward roots that are pending or final, 64 hex digits each."""

    def created(self) -> int | None:
        """Return the block in which the run was created and funded."""

    def penalties(self) -> Penalties | None:
        """Return what the run was created with."""

    def anchor(self, round_: int) -> int | None:
        """Return the block that anchored the record of a round; of OPENING_ROUND, the block that opened the run."""

    def record_hash(self, round_: int) -> str | None:
        """Return the anchored hash of a round's record, 64 hex digits."""

    def commitments(self, round_: int) -> PostedRoot | None:
        """Return the commitment root of a round."""

    def forced(self, round_: int) -> dict[int, str]:
        """Return the message ids of the commitments forced into a round, by number, first forced first."""

    def roster(self, round_: int) -> tuple[Operator, ...]:
        """Return the contributors of a round, by number: registered and staked at the anchor before it."""

    def verifiers(self, round_: int) -> tuple[Operator, ...]:
        """Return the verifiers of a round, by number: registered and staked at its own anchor."""

    def follow_beacon(
        self, beacon: BlockBeacon | DrandBeacon, source: SignatureSource | None, *, ahead: int = 0
    ) -> None:
        """Bring, from the next `refresh` on, the beacons that the run's manifest demands.

        Args:
            source: where signatures come from; needed for drand.
            ahead: rounds before its own opening at whose opening a round's batches are assigned.
        """

    def assignment_beacon(self, round_: int) -> str | None:
        """Return the beacon that assigns a round's batches, 64 hex digits, once it exists.

        The anchor of the round before fixes it; where outer steps are delayed, the one before that, since units begin
        before the round is open.
        """

    def sampling_beacon(self, round_: int) -> str | None:
        """Return the beacon fixed by the round's own anchor, 64 hex digits, once it exists."""

    def cases(self, round_: int) -> tuple[Case, ...]:
        """Return the cases about a round's units, oldest first; whether they count is not the chain's to say."""

    def operators(self) -> tuple[Operator, ...]:
        """Return everybody registered, with the stake of the newest block seen."""

    def operator(self, number: int) -> Operator | None:
        """Return one registered peer."""

    def keys(self, number: int) -> tuple[LinkedKey, ...]:
        """Return every key that was linked to a number, oldest first: the last is the one it has now."""

    def slashed(self) -> dict[int, int]:
        """Return what each number lost in this run, in wei."""

    def finished(self) -> str | None:
        """Return the final parameters' address that the coordinator put on chain at the end."""

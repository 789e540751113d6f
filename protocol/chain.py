"""What a run needs to know of its chain, as a seam: `contracts.run` reads a real one, tests bring their own."""

from dataclasses import dataclass
from typing import Protocol

from protocol.beacons import SignatureSource
from protocol.manifest import BlockBeacon, DrandBeacon

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
class PostedRoot:
    """Give a round's commitment root on chain."""

    root: str  # 64 hex digits
    count: int
    block: int


@dataclass(frozen=True)
class Appeal:
    """Ask, with a bond, that one segment of a unit be judged by fresh ranks of verifiers.

    Its owner contests what was said of it; anybody else accuses it.
    """

    case: int  # the ledger's number of it, from 1, over all runs
    round: int
    number: int  # whose unit
    segment: int
    appellant: int  # registration number
    bond_wei: int
    block: int  # that holds it, and fixes its beacon

    @property
    def contests(self) -> bool:
        """Tell whether the unit's owner appeals."""
        return self.appellant == self.number


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

    def created(self) -> int | None:
        """Return the block in which the run was created and funded."""

    def anchor(self, round_: int) -> int | None:
        """Return the block that anchored the record of a round; of OPENING_ROUND, the block that opened the run."""

    def record_hash(self, round_: int) -> str | None:
        """Return the anchored hash of a round's record, 64 hex digits."""

    def commitments(self, round_: int) -> PostedRoot | None:
        """Return the commitment root of a round."""

    def roster(self, round_: int) -> tuple[Operator, ...]:
        """Return the contributors of a round, by number: registered and staked at the anchor before it."""

    def verifiers(self, round_: int) -> tuple[Operator, ...]:
        """Return the verifiers of a round, by number: registered and staked at its own anchor."""

    def follow_beacon(self, beacon: BlockBeacon | DrandBeacon, source: SignatureSource | None) -> None:
        """Bring, from the next `refresh` on, the beacons that the run's manifest demands.

        Args:
            source: where signatures come from; needed for drand.
        """

    def assignment_beacon(self, round_: int) -> str | None:
        """Return the beacon fixed by the anchor of the round before, 64 hex digits, once it exists."""

    def sampling_beacon(self, round_: int) -> str | None:
        """Return the beacon fixed by the round's own anchor, 64 hex digits, once it exists."""

    def appeals(self, round_: int) -> tuple[Appeal, ...]:
        """Return the appeals about a round's units, oldest first; whether they count is not the chain's to say."""

    def appeal_beacon(self, case: int) -> str | None:
        """Return the beacon fixed by the block that holds an appeal, 64 hex digits, once it exists."""

    def operators(self) -> tuple[Operator, ...]:
        """Return everybody registered, with the stake of the newest block seen."""

    def operator(self, number: int) -> Operator | None:
        """Return one registered peer."""

    def slashed(self) -> dict[int, int]:
        """Return what each number lost in this run, in wei."""

    def finished(self) -> str | None:
        """Return the final parameters' address that the coordinator put on chain at the end."""

"""What the ledger stores, typed. Wei are integers, run ids 64 hex digits, addresses checksummed."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Role(IntEnum):
    """Say what an operator registered as."""

    CONTRIBUTOR = 1
    VERIFIER = 2


class RunStatus(IntEnum):
    """Say how far a run has come."""

    CREATED = 1
    OPEN = 2
    FINISHED = 3


class AppealStatus(IntEnum):
    """Say what became of an appeal."""

    OPEN = 1
    UPHELD = 2
    REFUSED = 3
    RELEASED = 4  # nobody settled it in time


@dataclass(frozen=True)
class Operator:
    """A registered contributor or verifier."""

    number: int  # registration number, from 1, never changes
    wallet: str
    peer: str  # address of the hot peer key
    role: Role
    stake_wei: int  # bonded
    unbonding_wei: int  # on its way out, can still be slashed
    unbonding_at: int  # first block at which it can be withdrawn; 0 when nothing unbonds


@dataclass(frozen=True)
class RunInfo:
    """A run and its pot."""

    run: str
    coordinator: str  # wallet
    coordinator_key: str  # address of the hot key that signs the coordinator's messages
    status: RunStatus
    committed_rounds: int
    anchored_rounds: int
    next_epoch: int  # the epoch that can be proposed or is pending
    funded_wei: int  # all that was paid in
    claimed_wei: int  # all that was paid out
    final_total_wei: int  # sum of the final reward tree
    final_root: bytes  # 32 zero bytes before the first


@dataclass(frozen=True)
class PendingRewards:
    """A proposed reward root within or after its window."""

    epoch: int
    root: bytes
    total_wei: int
    final_at: int  # first block at which it can be made final, and no longer be disputed


@dataclass(frozen=True)
class AppealInfo:
    """An appeal about one segment of a unit, and what became of it."""

    case: int  # from 1, over all runs
    run: str
    round: int
    number: int  # registration number of the unit's owner
    segment: int
    appellant: int  # registration number; the owner's own makes it a contest
    block: int  # that holds the appeal
    status: AppealStatus
    outcome: int  # 1 passed, 2 rejected, 3 proven false; 0 while nobody has settled it


@dataclass(frozen=True)
class SignedVerdict:
    """A verifier's signature under a verdict, as `Ledger.slash` and `Ledger.settleAppeal` take it."""

    verifier: int  # registration number
    evidence: bytes  # 32 bytes
    signature: bytes  # 65 bytes, v 27 or 28


@dataclass(frozen=True)
class Receipt:
    """A mined transaction."""

    tx: str  # 0x and 64 hex digits
    block: int
    block_hash: bytes
    gas_used: int
    fee_wei: int  # paid for gas, in the chain's own coin
    contract: str | None  # address of the contract that it created


class PeerSigner(Protocol):
    """The hot peer key, or whatever signs in its place (`protocol.keys.PeerKey` is one)."""

    @property
    def address(self) -> str:
        """Return the checksummed address of the public key."""
        ...

    @property
    def public(self) -> bytes:
        """Return the public key x || y, 64 bytes."""
        ...

    def sign(self, digest: bytes) -> bytes:
        """Sign a 32-byte digest; returns r || s || v with v 27 or 28 and low s."""
        ...

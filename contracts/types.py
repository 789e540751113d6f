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


class CaseKind(IntEnum):
    """Say what a case is about."""

    ACCUSATION = 1
    CONTEST = 2
    REWARDS = 3
    REFUSAL = 4  # an accusation: the owner does not open the segment


class CaseOutcome(IntEnum):
    """Say what a juror found, or a jury ruled, of a segment; 0 on chain: nothing yet, or hung."""

    RIGHT = 1
    VOID = 2  # of a reward root: wrong
    FALSE = 3
    FORGED = 4  # false, and what it carries on does not follow
    UNAVAILABLE = 5  # nobody could fetch what had to be opened


class CaseStage(IntEnum):
    """Say how far a case has come."""

    CALLED = 1  # waits for the beacon that draws its jury
    VOTING = 2
    REVEALING = 3
    RULED = 4  # a second jury may be called
    CLOSED = 5


@dataclass(frozen=True)
class Operator:
    """A registered contributor or verifier."""

    number: int  # registration number, from 1, never changes
    wallet: str
    peer: str  # address of the hot peer key
    role: Role
    cases: int  # open ones about it; it can withdraw nothing before they are over
    equivocations: int
    stake_wei: int  # bonded
    unbonding_wei: int  # on its way out, can still be slashed
    unbonding_at: int  # first block at which it can be withdrawn; 0 when nothing unbonds


@dataclass(frozen=True)
class Ladder:
    """What a run's manifest says of penalties and time, as the chain holds it."""

    fault_bps: int  # share of all stake that a proven fault or a refusal costs
    equivocation_bps: int  # share that a first and a second equivocation cost
    window_blocks: int  # from the anchor of a round, in which its units can be accused and contested


@dataclass(frozen=True)
class RunInfo:
    """A run and its pot."""

    run: str
    coordinator: str  # wallet
    coordinator_key: str  # address of the hot key that signs the coordinator's messages
    ladder: Ladder
    status: RunStatus
    stand_in: int  # registration number of who acts for the coordinator, 0 for nobody
    opened_at: int  # block
    committed_rounds: int
    anchored_rounds: int
    next_epoch: int  # the epoch that can be proposed or is pending
    funded_wei: int  # all that was paid in
    claimed_wei: int  # all that was paid out
    active_at: int  # block of the last progress
    final_total_wei: int  # sum of the final reward tree
    bond_wei: int  # what is left of the coordinator's
    final_root: bytes  # 32 zero bytes before the first


@dataclass(frozen=True)
class PendingRewards:
    """A proposed reward root within or after its window."""

    epoch: int
    root: bytes
    total_wei: int
    final_at: int  # first block at which it can be made final, and no longer be disputed
    proposer: str
    open: int  # disputes that no jury has ruled
    proposed_at: int  # block, which names it


@dataclass(frozen=True)
class LedgerTerms:
    """What is fixed when a ledger is deployed; amounts in wei."""

    min_stake: int
    run_bond: int
    proposal_bond: int
    unbonding_blocks: int
    dispute_blocks: int
    force_blocks: int
    timeout_blocks: int


@dataclass(frozen=True)
class JuryTerms:
    """What is fixed when a jury is deployed; amounts in wei. `contracts/src/interfaces/IJury.sol` explains each."""

    slot_stake: int
    silent_penalty: int
    fee: int
    case_bond: int
    seats: int
    draw_blocks: int
    vote_blocks: int
    reveal_blocks: int
    appeal_blocks: int
    unbonding_blocks: int


@dataclass(frozen=True)
class JurorInfo:
    """An operator in its role as juror."""

    number: int
    slots: int
    serving: int  # seats in cases that are not over
    leaving_at: int  # first block at which `leaving_wei` can be withdrawn
    bonded_wei: int  # less than the stake of all slots: it owes for silence and is not drawn
    leaving_wei: int


@dataclass(frozen=True)
class Seat:
    """A seat on a jury."""

    index: int
    juror: int  # registration number
    outcome: int  # that it revealed, 0 before
    vote: bytes  # sealed; zero before


@dataclass(frozen=True)
class CaseInfo:
    """A case as the jury holds it."""

    case: int  # from 1, over all runs
    kind: CaseKind
    stage: CaseStage
    run: str
    round: int  # of rewards, the block that names the disputed root
    number: int  # registration number of the unit's owner; of rewards 0
    segment: int  # of rewards, the ground
    appellant: str
    finder: str
    evidence: bytes
    opened_at: int
    stage_at: int
    seed_round: int
    second: bool  # the present jury is the second
    outcome: int  # of the ruling, 0: none, or hung
    vote: bytes  # keccak(abi.encode(outcome, result)) of the ruling


@dataclass(frozen=True)
class OpenedCase:
    """A case that was opened, and the transaction that did it."""

    case: int
    receipt: "Receipt"


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

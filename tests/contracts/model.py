"""What ledger and jury must do, in plain Python: the ledger's half. `model_court.py` adds the jury's.

Written from the interfaces' words (contracts/src/interfaces). A method does what the call of the same name does in
block `block`, or raises `Refused` with the error that the contract must give; the caller throws away what a refused
call has changed. Amounts in wei, accounts in lower case, runs and roots as 32 bytes.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from contracts.types import JuryTerms, Ladder, LedgerTerms
from protocol.merkle import reward_leaf, verify_proof

CONTRIBUTOR, VERIFIER = 1, 2
CREATED, OPEN, FINISHED = 1, 2, 3
BPS = 10_000
UINT128 = 2**128
ARITHMETIC, NO_INDEX = 0x11, 0x32  # Solidity's panics
ZERO = bytes(32)
NOBODY = "0x" + "00" * 20


class Refused(Exception):
    """Say by which error, with which arguments, a call must revert."""

    def __init__(self, name: str, *arguments: int | str | bytes) -> None:
        super().__init__(name, *arguments)
        self.what = (name, *arguments)


def require(holds: bool, name: str, *arguments: int | str | bytes) -> None:
    if not holds:
        raise Refused(name, *arguments)


def narrow(amount: int) -> int:
    """Refuse what does not fit 128 bits."""
    require(amount < UINT128, "SafeCastOverflowedUintDowncast", 128, amount)
    return amount


def add(total: int, amount: int) -> int:
    require(total + narrow(amount) < UINT128, "Panic", ARITHMETIC)
    return total + amount


@dataclass
class Operator:
    wallet: str
    role: int
    peer: str
    stake: int
    unbonding: int = 0
    unbonding_at: int = 0
    cases: int = 0
    equivocations: int = 0


@dataclass
class Run:
    coordinator: str
    key: str
    ladder: Ladder
    bond: int
    status: int = CREATED
    stand_in: int = 0
    opened_at: int = 0
    committed: int = 0
    anchored: int = 0
    epoch: int = 0
    active_at: int = 0
    funded: int = 0
    claimed: int = 0
    final_total: int = 0
    final_root: bytes = ZERO


@dataclass
class Round:
    posted_at: int
    count: int
    anchored_at: int = 0


@dataclass
class Pending:
    root: bytes
    total: int
    final_at: int
    proposer: str
    proposed_at: int
    open: int = 0
    grounds: frozenset[int] = frozenset()


@dataclass
class LedgerModel:
    """Accounts, operators, runs and rewards."""

    terms: LedgerTerms
    court: JuryTerms
    ledger: str  # address
    jury: str
    block: int
    supply: int
    balances: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    operators: dict[int, Operator] = field(default_factory=dict)  # by number
    number_of: dict[str, int] = field(default_factory=dict)
    number_of_peer: dict[str, int] = field(default_factory=dict)
    retired_at: dict[str, int] = field(default_factory=dict)
    runs: dict[bytes, Run] = field(default_factory=dict)
    rounds: dict[tuple[bytes, int], Round] = field(default_factory=dict)
    forced: dict[tuple[bytes, int, int], bytes] = field(default_factory=dict)
    pending: dict[bytes, Pending] = field(default_factory=dict)
    claimed: defaultdict[tuple[bytes, str], int] = field(default_factory=lambda: defaultdict(int))

    # Token

    def move(self, source: str, target: str, amount: int) -> None:
        held = self.balances[source]
        require(held >= amount, "ERC20InsufficientBalance", source, held, amount)
        self.balances[source] -= amount
        self.balances[target] += amount

    def burn(self, source: str, amount: int) -> None:
        self.balances[source] -= amount
        self.supply -= amount

    # Stake

    def operator_of(self, wallet: str) -> tuple[int, Operator]:
        number = self.number_of.get(wallet, 0)
        require(number != 0, "NotRegistered")
        return number, self.operators[number]

    def link(self, number: int, peer: str, valid: bool) -> None:
        require(peer not in self.number_of_peer, "PeerTaken", peer)
        require(valid, "BadPeerLink")
        self.number_of_peer[peer] = number

    def register(self, sender: str, role: int, peer: str, valid: bool, amount: int) -> None:
        require(role in (CONTRIBUTOR, VERIFIER), "UnknownRole", role)
        require(amount >= self.terms.min_stake, "StakeTooLow", amount, self.terms.min_stake)
        require(sender not in self.number_of, "WalletTaken", sender)
        number = len(self.operators) + 1
        self.operators[number] = Operator(sender, role, peer, narrow(amount))
        self.number_of[sender] = number
        self.link(number, peer, valid)
        self.move(sender, self.ledger, amount)

    def rotate_peer(self, sender: str, peer: str, valid: bool) -> None:
        number, one = self.operator_of(sender)
        self.link(number, peer, valid)
        self.retired_at[one.peer] = self.block
        one.peer = peer

    def deposit(self, sender: str, amount: int) -> None:
        require(amount != 0, "ZeroValue")
        _, one = self.operator_of(sender)
        one.stake = add(one.stake, amount)
        self.move(sender, self.ledger, amount)

    def unbond(self, sender: str, amount: int) -> None:
        require(amount != 0, "ZeroValue")
        _, one = self.operator_of(sender)
        require(amount <= one.stake, "InsufficientStake", one.stake, amount)
        one.stake -= amount
        one.unbonding += amount
        one.unbonding_at = self.block + self.terms.unbonding_blocks

    def cancel_unbond(self, sender: str) -> None:
        _, one = self.operator_of(sender)
        require(one.unbonding != 0, "NothingUnbonding")
        one.stake += one.unbonding
        one.unbonding = one.unbonding_at = 0

    def withdraw(self, sender: str) -> None:
        _, one = self.operator_of(sender)
        require(one.unbonding != 0, "NothingUnbonding")
        require(self.block >= one.unbonding_at, "StillUnbonding", one.unbonding_at)
        require(one.cases == 0, "CasesOpen", one.cases)
        self.move(self.ledger, sender, one.unbonding)
        one.unbonding = one.unbonding_at = 0

    def answers_for(self, peer: str) -> int:
        retired = self.retired_at.get(peer)
        if retired is not None and self.block >= retired + self.terms.unbonding_blocks:
            return 0
        return self.number_of_peer.get(peer, 0)

    def slash(self, number: int, bps: int) -> int:
        """Take a share of stake and unbonding funds, stake first, rounded for the operator."""
        one = self.operators[number]
        amount = (one.stake + one.unbonding) * bps // BPS
        from_stake = min(amount, one.stake)
        one.stake -= from_stake
        one.unbonding -= amount - from_stake
        if not one.unbonding:
            one.unbonding_at = 0
        self.move(self.ledger, self.jury, amount)
        return amount

    # Runs

    @property
    def case_blocks(self) -> int:
        jury = self.court
        return 2 * (jury.draw_blocks + jury.vote_blocks + jury.reveal_blocks) + jury.appeal_blocks

    def create_run(self, sender: str, run: bytes, key: str, ladder: Ladder, funding: int) -> None:
        require(run != ZERO and key != NOBODY and ladder.window_blocks != 0, "ZeroValue")
        fits = 5000 <= ladder.fault_bps <= BPS and 100 <= ladder.equivocation_bps <= BPS
        require(fits, "LadderOutOfBounds")
        terms = self.terms
        needed = terms.force_blocks + 2 * terms.timeout_blocks + ladder.window_blocks
        needed += self.case_blocks + terms.dispute_blocks
        require(needed < terms.unbonding_blocks, "UnbondingTooShort", terms.unbonding_blocks, needed)
        require(run not in self.runs, "RunExists", run)
        self.runs[run] = Run(sender, key, ladder, terms.run_bond, funded=narrow(funding))
        self.move(sender, self.ledger, terms.run_bond + funding)

    def known(self, run: bytes) -> Run:
        require(run in self.runs, "UnknownRun", run)
        return self.runs[run]

    def own(self, sender: str, run: bytes, status: int) -> Run:
        one = self.known(run)
        require(one.coordinator == sender, "NotCoordinator")
        require(one.status == status, "WrongRunStatus", one.status)
        return one

    def fund(self, sender: str, run: bytes, amount: int) -> None:
        require(amount != 0, "ZeroValue")
        one = self.known(run)
        one.funded = add(one.funded, amount)
        self.move(sender, self.ledger, amount)

    def open_run(self, sender: str, run: bytes) -> None:
        one = self.own(sender, run, CREATED)
        one.status, one.opened_at, one.active_at = OPEN, self.block, self.block

    def finish_run(self, sender: str, run: bytes, parameters: bytes) -> None:
        require(parameters != ZERO, "ZeroValue")
        one = self.own(sender, run, OPEN)
        one.status, one.active_at = FINISHED, self.block

    def release_run_bond(self, sender: str, run: bytes) -> None:
        one = self.own(sender, run, FINISHED)
        ready = one.active_at + self.terms.unbonding_blocks
        require(self.block >= ready, "StillUnbonding", ready)
        require(one.bond != 0, "NothingUnbonding")
        self.move(self.ledger, sender, one.bond)
        one.bond = 0

    def may_act(self, sender: str, one: Run) -> None:
        late = self.block > one.active_at + self.terms.timeout_blocks
        stands_in = one.stand_in != 0 and one.stand_in == self.number_of.get(sender, 0)
        require(sender == one.coordinator or late or stands_in, "NotCoordinator")

    def posting(self, sender: str, run: bytes) -> tuple[Run, int]:
        """Return the run, and who posts: 0 is its coordinator."""
        one = self.known(run)
        require(one.status == OPEN, "WrongRunStatus", one.status)
        self.may_act(sender, one)
        number = 0
        if sender != one.coordinator:
            number, op = self.operator_of(sender)
            require(op.stake >= self.terms.min_stake, "StakeTooLow", op.stake, self.terms.min_stake)
        return one, number

    def post_commitments(self, sender: str, run: bytes, round_: int, root: bytes, count: int) -> None:
        one, number = self.posting(sender, run)
        in_turn = one.committed == one.anchored and round_ == one.committed
        require(in_turn, "WrongRound", one.committed, round_)
        require((root == ZERO) == (count == 0), "RootCountMismatch")
        one.committed += 1
        one.active_at, one.stand_in = self.block, number
        self.rounds[run, round_] = Round(self.block, count)

    def force_commitment(self, sender: str, run: bytes, round_: int, commitment: bytes) -> None:
        require(commitment != ZERO, "ZeroValue")
        number = self.number_of.get(sender, 0)
        if not number:
            number = self.number_of_peer.get(sender, 0)
            require(number != 0 and self.operators[number].peer == sender, "NotRegistered")
        op = self.operators[number]
        require(op.role == CONTRIBUTOR, "NotAContributor", number)
        require(op.stake >= self.terms.min_stake, "StakeTooLow", op.stake, self.terms.min_stake)
        times = self.rounds.get((run, round_))
        if times is None or times.anchored_at:
            raise Refused("RoundNotPosted", round_)
        last = times.posted_at + self.terms.force_blocks
        require(self.block <= last, "WindowClosed", last)
        require((run, round_, number) not in self.forced, "AlreadyForced")
        self.forced[run, round_, number] = commitment

    def anchor_record(self, sender: str, run: bytes, round_: int, record: bytes) -> None:
        require(record != ZERO, "ZeroValue")
        one, number = self.posting(sender, run)
        in_turn = one.anchored < one.committed and round_ == one.anchored
        require(in_turn, "WrongRound", one.anchored, round_)
        times = self.rounds[run, round_]
        first = times.posted_at + self.terms.force_blocks + 1
        require(self.block >= first, "WindowOpen", first)
        times.anchored_at = one.active_at = self.block
        one.anchored += 1
        one.stand_in = number

    # Rewards

    def propose_rewards(
        self, sender: str, run: bytes, epoch: int, previous: bytes, root: bytes, total: int
    ) -> None:
        require(root != ZERO, "ZeroValue")
        one = self.runs.get(run)
        if one is None or one.status == CREATED:
            raise Refused("WrongRunStatus", one.status if one else 0)
        self.may_act(sender, one)
        require(epoch == one.epoch, "WrongEpoch", one.epoch, epoch)
        require(previous == one.final_root, "WrongPreviousRoot", one.final_root, previous)
        require(run not in self.pending, "RewardsPending")
        require(total >= one.final_total, "TotalFell", one.final_total, total)
        require(total <= one.funded, "TotalExceedsFunding", one.funded, total)
        final_at = self.block + self.terms.dispute_blocks
        self.pending[run] = Pending(root, total, final_at, sender, self.block)
        self.move(sender, self.ledger, self.terms.proposal_bond)

    def finalize_rewards(self, sender: str, run: bytes) -> None:
        one = self.pending.get(run)
        if one is None:
            raise Refused("NoPendingRewards")
        require(one.open == 0, "CasesOpen", one.open)
        require(self.block >= one.final_at, "WindowOpen", one.final_at)
        del self.pending[run]
        info = self.runs[run]
        info.epoch += 1
        if info.status == OPEN:
            info.active_at = self.block
        info.final_root, info.final_total = one.root, one.total
        self.move(self.ledger, one.proposer, self.terms.proposal_bond)

    def claim(self, sender: str, run: bytes, account: str, cumulative: int, proof: list[bytes]) -> None:
        one = self.runs.get(run)
        proven = one is not None and verify_proof(one.final_root, reward_leaf(account, cumulative), proof)
        if one is None or not proven:
            raise Refused("BadProof")
        amount = cumulative - self.claimed[run, account]
        require(amount > 0, "NothingToClaim")
        claims = one.claimed + amount
        require(claims <= one.final_total, "ClaimsExceedTotal", one.final_total, claims)
        one.claimed = claims
        self.claimed[run, account] = cumulative
        self.move(self.ledger, account, amount)

    def ledger_owes(self) -> int:
        """Return what the ledger's balance must be: stakes, bonds, and what the pots have not paid."""
        stakes = sum(one.stake + one.unbonding for one in self.operators.values())
        pots = sum(one.bond + one.funded - one.claimed for one in self.runs.values())
        return stakes + pots + self.terms.proposal_bond * len(self.pending)

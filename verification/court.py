"""The jury as a juror's daemon reaches it: what it reads of the chain, and what it sends with the hot peer key.

Everything here blocks and may run in a worker thread. The hot key pays gas and can do nothing else than vote: stake,
slots and what votes earn belong to the wallet. What it sends is written down in the daemon's directory first, so that
a process that was killed goes on with what it had sent, and sends nothing twice.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eth_account import Account
from eth_utils.address import to_checksum_address

from contracts.chain import ledger_errors
from contracts.clerk import due_step, take_step
from contracts.equivocation import Contradiction
from contracts.events import RewardsProposed
from contracts.jury import sealed_vote
from contracts.run import ChainRun
from contracts.sender import Sender
from contracts.types import CaseKind, JurorInfo, Receipt
from protocol.errors import LedgerError
from protocol.keys import PeerKey
from verification.juror import TURNS, Chore, RevealVote, SealVote, Vote
from verification.prover import Prover

TURN_BLOCKS: Final = 4  # of a verifier that proves an equivocation
GROUND_ROOT: Final = 1  # of a dispute: the root is not what the rules give
GAS_A_VOTE: Final = 300_000  # to seal and reveal it, with the margin that senders add
VOTES_AHEAD: Final = 5  # for so many a slot the hot key should hold coin


@dataclass(frozen=True)
class Standing:
    """What the chain holds of a juror, in wei."""

    info: JurorInfo
    owes_wei: int  # for silence: until it is paid, no slot of the juror is drawn
    coin_wei: int  # the hot key's, for gas
    gas_wei: int  # that a few votes cost at the present price

    @property
    def needs_coin(self) -> bool:
        """Tell whether votes may fail for want of gas."""
        return self.info.slots > 0 and self.coin_wei < self.gas_wei


class Court:
    """Read and act for one juror."""

    def __init__(self, chain: ChainRun, sender: Sender, number: int) -> None:
        """Bind a juror to the jury of a run's ledger.

        Args:
            sender: of the hot peer key.
            number: registration number.
        """
        self.chain = chain
        self.number = number
        self._sender = sender
        self._jury = chain.ledger.jury
        self.terms = self._jury.terms

    @classmethod
    def open(cls, chain: ChainRun, directory: Path, key: PeerKey, number: int) -> "Court":
        """Reach the jury with a peer's hot key, whose outbox lies in a directory.

        Raises:
            LedgerError: the chain does not answer.
            ConfigError: another process sends with this key from there, or the outbox is damaged.
        """
        sender = Sender.open(chain.ledger.w3, Account.from_key(key.secret), directory)
        sender.watch()
        return cls(chain, sender, number)

    @property
    def address(self) -> str:
        """Return the hot key's address."""
        return self._sender.address

    def close(self) -> None:
        """Make every transaction that still waits give up."""
        self._sender.close()

    def standing(self) -> Standing:
        """Read what the juror holds.

        Raises:
            LedgerError: the chain does not answer.
        """
        info = self._jury.juror(self.number)
        w3 = self.chain.ledger.w3
        with ledger_errors():
            coin = int(w3.eth.get_balance(to_checksum_address(self._sender.address)))
            price = int(w3.eth.gas_price)
        votes = VOTES_AHEAD * max(1, info.slots)
        owes = info.slots * self.terms.slot_stake - info.bonded_wei
        return Standing(info, owes, coin, votes * GAS_A_VOTE * price)

    def act(self, task: SealVote | RevealVote | Chore) -> Receipt | None:
        """Send what a task asks for, and wait until it is mined; None where it is not due yet.

        Raises:
            LedgerRevert: the jury refuses it, mostly because somebody was quicker.
            LedgerError: the chain does not answer, or the hot key has no coin for gas.
        """
        with self._sender.intent(_intent(self.chain.run, task)):
            receipt = self._send(task)
        if receipt is not None:
            self._sender.acknowledge(receipt)
        return receipt

    def _send(self, task: SealVote | RevealVote | Chore) -> Receipt | None:
        match task:
            case SealVote(case, vote):
                return self._jury.commit_vote(self._sender, case.case, vote.seat, self.digest(vote))
            case RevealVote(case, vote):
                said = (int(vote.outcome), vote.result, vote.salt)
                return self._jury.reveal_vote(self._sender, case.case, vote.seat, *said)
            case Chore(case, step):
                if due_step(self.chain, case) != step:
                    return None
                return take_step(self.chain, self._sender, case, step)

    def dispute(self, proposed: RewardsProposed) -> int | None:
        """Dispute a reward root as wrong with tokens of the hot key; returns the case, None if there is one already.

        Raises:
            LedgerError: the chain does not answer, or the hot key has not the bond, or no coin for gas.
        """
        chain, jury, bond = self.chain, self._jury, self.terms.case_bond
        if jury.case_of(chain.run, proposed.block, 0, GROUND_ROOT, CaseKind.REWARDS) is not None:
            return None
        held = chain.ledger.balance_of(self.address)
        if held < bond:
            raise LedgerError(
                f"the hot key {self.address} holds {held} wei of tokens, and the bond of a dispute is {bond}"
            )
        with self._sender.intent(f"{chain.run} dispute of the root of block {proposed.block}"):
            opened = jury.dispute_rewards(self._sender, chain.run, proposed.block, GROUND_ROOT)
        self._sender.acknowledge(opened.receipt)
        return opened.case

    def prover(self, directory: Path) -> Prover:
        """Return who proves equivocations for this verifier; its wallet is paid.

        The coordinator proves those of contributors at once, so that verifiers wait for it; and for each other.
        """
        operator = self.chain.operator(self.number)
        assert operator is not None, "it is registered"
        turn = self.number % TURNS * TURN_BLOCKS

        def patience(proof: Contradiction) -> int:
            return turn if proof.record else TURNS * TURN_BLOCKS + turn

        return Prover(
            self.chain, self._sender, operator.wallet, directory, own=self.address, patience=patience
        )

    def digest(self, vote: Vote) -> bytes:
        """Return the 32 bytes that seal a vote."""
        return sealed_vote(
            self.chain.ledger.chain_id,
            self._jury.address,
            vote.case,
            second=vote.second,
            seat=vote.seat,
            juror=self.number,
            outcome=int(vote.outcome),
            result=vote.result,
            salt=vote.salt,
        )


def _intent(run: str, task: SealVote | RevealVote | Chore) -> str:
    jury = f"{run} case {task.case.case} {'second' if task.case.second else 'first'} jury"
    match task:
        case Chore(step=step):
            return f"{jury} {step}"
        case SealVote(vote=vote):
            return f"{jury} seat {vote.seat} seal"
        case RevealVote(vote=vote):
            return f"{jury} seat {vote.seat} reveal"

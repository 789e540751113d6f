"""The jury, typed: one method per verb of `contracts/src/interfaces/IJury.sol`, where each is specified.

Every method that writes takes the `Sender` of the account that acts, waits until the transaction is mined, and returns
its `Receipt`, or the case that it opened. Every method can raise `LedgerRevert` or `LedgerError`.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from eth_abi.abi import encode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from web3 import Web3
from web3.contract import Contract

from contracts.artifacts import artifact
from contracts.chain import ledger_errors
from contracts.sender import Sender
from contracts.types import CaseInfo, CaseKind, CaseStage, JurorInfo, JuryTerms, OpenedCase, Receipt, Seat
from protocol.errors import LedgerError


def run_bytes(run: str) -> bytes:
    """Return a run id as 32 bytes.

    Raises:
        LedgerError: it is not 64 hex digits.
    """
    if not re.fullmatch("[0-9a-f]{64}", run):
        raise LedgerError(f"{run!r} is not a run id: 64 hex digits, none of them a capital")
    return bytes.fromhex(run)


def allow(sender: Sender, token: Contract, spender: str, amount: int) -> None:
    """Let a contract take `amount` wei of the sender's tokens, unless it may already."""
    with ledger_errors():
        allowance = token.functions.allowance(sender.address, spender).call()
    if allowance < amount:
        sender.send(token.functions.approve(to_checksum_address(spender), amount))


def sealed_vote(
    chain_id: int,
    jury: str,
    case: int,
    *,
    second: bool,
    seat: int,
    juror: int,
    outcome: int,
    result: bytes,
    salt: bytes,
) -> bytes:
    """Return the 32 bytes that seal a vote.

    Args:
        juror: registration number.
        outcome: 1 to 5, see `IJury.Case`.
        result: 32 bytes, digest of the reference that the replay gave.
        salt: 32 random bytes.
    """
    types = ("uint256", "address", "uint64", "bool", "uint8", "uint64", "uint8", "bytes32", "bytes32")
    return keccak(encode(types, (chain_id, jury, case, second, seat, juror, outcome, result, salt)))


def vote_digest(outcome: int, result: bytes) -> bytes:
    """Return what a ruling names: keccak(abi.encode(outcome, result))."""
    return keccak(encode(("uint8", "bytes32"), (outcome, result)))


class Jury:
    """A deployed jury."""

    def __init__(self, w3: Web3, address: str) -> None:
        """Bind to a deployed jury; `Ledger.verify` checks what is really there."""
        self.w3 = w3
        self.address = str(to_checksum_address(address))
        self.contract: Contract = w3.eth.contract(
            address=to_checksum_address(self.address), abi=artifact("Jury").abi
        )

    # Parameters, fixed when it was deployed

    @cached_property
    def terms(self) -> JuryTerms:
        """Return its bonds, fees and times."""
        return JuryTerms(*self._read("terms"))

    @cached_property
    def case_blocks(self) -> int:
        """Return how many blocks a case with its appeal takes at most."""
        return int(self._read("CASE_BLOCKS"))

    @cached_property
    def ledger(self) -> str:
        """Return the address of its ledger."""
        return str(self._read("LEDGER"))

    @cached_property
    def beacon(self) -> str:
        """Return the address of the beacon that draws."""
        return str(self._read("BEACON"))

    @cached_property
    def token(self) -> Contract:
        """Return the token in which it is paid, as a web3 contract."""
        abi = artifact("Ledger").abi
        ledger = self.w3.eth.contract(address=to_checksum_address(self.ledger), abi=abi)
        with ledger_errors():
            address = ledger.functions.TOKEN().call()
        return self.w3.eth.contract(address=to_checksum_address(address), abi=artifact("Token").abi)

    # State

    def case(self, case: int) -> CaseInfo | None:
        """Return a case, or None if there is none of this number."""
        found = self._read("caseInfo", case)
        run, evidence, vote, round_, number, segment, opened, seed_round, stage_at, _, kind = found[:11]
        stage, outcome, _, second, _, _, appellant, finder, _ = found[11:]
        if kind == 0:
            return None
        return CaseInfo(
            case=case,
            kind=CaseKind(kind),
            stage=CaseStage(stage),
            run=bytes(run).hex(),
            round=round_,
            number=number,
            segment=segment,
            appellant=appellant,
            finder=finder,
            evidence=bytes(evidence),
            opened_at=opened,
            stage_at=stage_at,
            seed_round=seed_round,
            second=second,
            outcome=outcome,
            vote=bytes(vote),
        )

    def case_count(self) -> int:
        """Return how many cases there have been, over all runs, which is the last one's number."""
        return int(self._read("caseCount"))

    def case_of(self, run: str, round_: int, number: int, segment: int, kind: CaseKind) -> int | None:
        """Return the case about a segment of a unit that is open or was ruled, or None."""
        return int(self._read("caseOf", run_bytes(run), round_, number, segment, int(kind))) or None

    def seats(self, case: int, *, second: bool) -> tuple[Seat, ...]:
        """Return the seats of the first or the second jury of a case."""
        found = self._read("seatsOf", case, second)
        return tuple(Seat(i, juror, outcome, bytes(vote)) for i, (juror, outcome, vote) in enumerate(found))

    def juror(self, number: int) -> JurorInfo:
        """Return an operator in its role as juror."""
        slots, serving, leaving_at, bonded, leaving = self._read("juror", number)
        return JurorInfo(number, slots, serving, leaving_at, bonded, leaving)

    def slot_count(self) -> int:
        """Return how many slots there are."""
        return int(self._read("slotCount"))

    def slots(self) -> tuple[int, ...]:
        """Return whose each slot is."""
        with ledger_errors():
            block = self.w3.eth.block_number
        count = int(self._read("slotCount", block=block))
        return tuple(int(self._read("slot", index, block=block)) for index in range(count))

    def punished(self, run: str, round_: int, number: int) -> bool:
        """Tell whether a number lost stake for its unit of a round; nobody does twice."""
        return bool(self._read("punished", run_bytes(run), round_, number))

    def credit(self, account: str) -> int:
        """Return the wei that an account can withdraw."""
        return int(self._read("credit", to_checksum_address(account)))

    # Jurors

    def join(self, sender: Sender, count: int) -> Receipt:
        """Take slots for the sender's verifier, and make up what silence has cost."""
        self._allow(sender, self._due(sender, count))
        return sender.send(self.contract.functions.join(count))

    def resign(self, sender: Sender, indices: Sequence[int]) -> Receipt:
        """Give up slots by their indices."""
        return sender.send(self.contract.functions.resign(sorted(indices, reverse=True)))

    def withdraw(self, sender: Sender) -> Receipt:
        """Pay the stake of slots that were given up."""
        return sender.send(self.contract.functions.withdraw())

    def withdraw_credit(self, sender: Sender, account: str) -> Receipt:
        """Pay an account what it was credited with."""
        return sender.send(self.contract.functions.withdrawCredit(to_checksum_address(account)))

    def commit_vote(self, sender: Sender, case: int, seat: int, digest: bytes) -> Receipt:
        """Seal the vote of a seat; by its juror's wallet or peer key."""
        return sender.send(self.contract.functions.commitVote(case, seat, digest))

    def reveal_vote(
        self, sender: Sender, case: int, seat: int, outcome: int, result: bytes, salt: bytes
    ) -> Receipt:
        """Reveal the vote of a seat."""
        return sender.send(self.contract.functions.revealVote(case, seat, outcome, result, salt))

    # Cases

    def accuse(
        self,
        sender: Sender,
        run: str,
        round_: int,
        number: int,
        segment: int,
        finder: str,
        evidence: bytes = bytes(32),
        *,
        refusal: bool = False,
    ) -> OpenedCase:
        """Accuse a segment of a unit with the case's bond; returns the case.

        Args:
            number: registration number of the unit's owner.
            finder: account that is paid if a fault is proven.
            evidence: 32 bytes, hash of what the accuser shows.
            refusal: what is claimed is that the owner did not open it to the verifiers; the run's coordinator only.
        """
        self._allow(sender, self.terms.case_bond)
        said = (run_bytes(run), round_, number, segment, to_checksum_address(finder), evidence, refusal)
        receipt = sender.send(self.contract.functions.accuse(*said))
        return self._opened(
            receipt, run, round_, number, segment, CaseKind.REFUSAL if refusal else CaseKind.ACCUSATION
        )

    def contest(
        self,
        sender: Sender,
        run: str,
        round_: int,
        number: int,
        segment: int,
        evidence: bytes = bytes(32),
    ) -> OpenedCase:
        """Contest, as the unit's owner, what was said of a segment of it; returns the case."""
        self._allow(sender, self.terms.case_bond)
        receipt = sender.send(self.contract.functions.contest(run_bytes(run), round_, segment, evidence))
        return self._opened(receipt, run, round_, number, segment, CaseKind.CONTEST)

    def dispute_rewards(
        self, sender: Sender, run: str, proposed_at: int, ground: int, evidence: bytes = bytes(32)
    ) -> OpenedCase:
        """Dispute the pending reward root of a run; returns the case.

        Args:
            proposed_at: block of the pending root, which names it.
            ground: 1 it is not what the rules give, 2 what is needed to recompute it cannot be fetched.
        """
        self._allow(sender, self.terms.case_bond)
        receipt = sender.send(self.contract.functions.disputeRewards(run_bytes(run), ground, evidence))
        return self._opened(receipt, run, proposed_at, 0, ground, CaseKind.REWARDS)

    def draw(self, sender: Sender, case: int, proof: bytes = b"") -> Receipt:
        """Draw the jury of a case once its beacon has come; a drand beacon wants its signature as proof."""
        return sender.send(self.contract.functions.draw(case, proof))

    def rule(self, sender: Sender, case: int) -> Receipt:
        """Count the votes."""
        return sender.send(self.contract.functions.rule(case))

    def appeal(self, sender: Sender, case: int) -> Receipt:
        """Call a second jury with three times the bond."""
        self._allow(sender, 3 * self.terms.case_bond)
        return sender.send(self.contract.functions.appeal(case))

    def close(self, sender: Sender, case: int) -> Receipt:
        """End a case whose ruling stands, or whose jury was not drawn in time."""
        return sender.send(self.contract.functions.close(case))

    def prove_equivocation(
        self,
        sender: Sender,
        run: str,
        round_: int,
        a: tuple[bytes, bytes],
        b: tuple[bytes, bytes],
        finder: str,
        *,
        record: bool,
    ) -> Receipt:
        """Prove that one key signed two commitments, or two records, for one round.

        Args:
            a, b: digest of the message's body, and the signature.
            finder: account that is paid.
        """
        account = to_checksum_address(finder)
        call = self.contract.functions.proveEquivocation(run_bytes(run), round_, record, a, b, account)
        return sender.send(call)

    def _opened(
        self, receipt: Receipt, run: str, round_: int, number: int, segment: int, kind: CaseKind
    ) -> OpenedCase:
        case = self.case_of(run, round_, number, segment, kind)
        if case is None:
            raise LedgerError("the case was mined but is gone: the chain was reorganised")
        return OpenedCase(case, receipt)

    def _due(self, sender: Sender, count: int) -> int:
        """Return what taking so many slots costs, debts for silence included."""
        ledger = self.w3.eth.contract(address=to_checksum_address(self.ledger), abi=artifact("Ledger").abi)
        with ledger_errors():
            number = int(ledger.functions.numberOf(sender.address).call())
        one = self.juror(number)
        return (one.slots + count) * self.terms.slot_stake - one.bonded_wei

    def _allow(self, sender: Sender, amount: int) -> None:
        allow(sender, self.token, self.address, amount)

    def _read(self, function: str, *arguments: Any, block: int | None = None) -> Any:
        with ledger_errors():
            call = self.contract.functions[function](*arguments)
            return call.call(block_identifier="latest" if block is None else block)

"""The ledger, typed: one method per verb of `contracts/src/interfaces/ILedger.sol`, where each is specified.

Every method that writes takes the `Sender` of the wallet that acts, waits until the transaction is mined, and
returns its `Receipt`. Every method can raise `LedgerRevert` (the contract refuses, by name) or `LedgerError`
(there is no usable chain).
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from eth_abi.abi import encode
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from web3 import Web3
from web3.contract import Contract

from contracts.artifacts import Artifact, artifact
from contracts.chain import get_block, ledger_errors
from contracts.sender import Sender
from contracts.types import (
    AppealInfo,
    AppealStatus,
    Operator,
    PeerSigner,
    PendingRewards,
    Receipt,
    Role,
    RunInfo,
    RunStatus,
    SignedVerdict,
)
from protocol.errors import LedgerError

DOMAIN_NAME = "Murmur"
DOMAIN_VERSION = "1"
PERMIT_LIFE_S = 3600

_DOMAIN_TYPE = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_PEER_LINK_TYPE = keccak(b"PeerLink(address wallet,bytes32 pubX,uint256 pubY)")
_PERMIT_TYPES = {
    "Permit": [
        {"name": "owner", "type": "address"},
        {"name": "spender", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "nonce", "type": "uint256"},
        {"name": "deadline", "type": "uint256"},
    ]
}


def domain_separator(chain_id: int, ledger: str) -> bytes:
    """Return the EIP-712 domain separator of a ledger, 32 bytes."""
    types = ("bytes32", "bytes32", "bytes32", "uint256", "address")
    name, version = keccak(DOMAIN_NAME.encode()), keccak(DOMAIN_VERSION.encode())
    return keccak(encode(types, (_DOMAIN_TYPE, name, version, chain_id, ledger)))


def peer_link_digest(chain_id: int, ledger: str, wallet: str, public: bytes) -> bytes:
    """Return the EIP-712 digest by which a peer key accepts a wallet; `public` is x || y, 64 bytes."""
    types = ("bytes32", "address", "bytes32", "uint256")
    link = keccak(encode(types, (_PEER_LINK_TYPE, wallet, public[:32], int.from_bytes(public[32:], "big"))))
    return keccak(b"\x19\x01" + domain_separator(chain_id, ledger) + link)


class Ledger:
    """A deployed ledger and its token."""

    def __init__(self, w3: Web3, address: str, *, deployed_block: int | None = None) -> None:
        """Bind to a deployed ledger; `verify` checks what is really there.

        Args:
            w3: the chain.
            address: the ledger's address.
            deployed_block: the block that created it, where event indexes start, if known.

        Raises:
            LedgerError: not an address.
        """
        self.w3 = w3
        try:
            self.address = str(to_checksum_address(address))
        except (ValueError, TypeError) as error:
            raise LedgerError(f"{address!r} is not the address of a ledger", hint="check --ledger") from error
        self.deployed_block = deployed_block
        self.contract: Contract = w3.eth.contract(
            address=to_checksum_address(self.address), abi=artifact("Ledger").abi
        )

    @classmethod
    def deploy(
        cls,
        w3: Web3,
        account: LocalAccount,
        *,
        supply: int,
        min_stake: int,
        unbonding_blocks: int,
        dispute_blocks: int,
        appeal_bond: int,
        appeal_blocks: int,
    ) -> "Ledger":
        """Deploy a token, whose whole supply goes to `account`, and a ledger; check the code on chain.

        Args:
            w3: the chain; the ledger's constructor refuses any but 31337.
            account: pays the gas and receives the supply.
            supply: wei of the token.
            min_stake: wei.
            unbonding_blocks: waiting time of unbonding funds.
            dispute_blocks: dispute window of a reward root.
            appeal_bond: wei that an appeal puts up; a tenth of `min_stake` deters idle ones and bars nobody.
            appeal_blocks: after which an unsettled appeal's bond can be taken back; longer than any judging
                takes, or who is about to lose takes it back first.

        Raises:
            LedgerRevert: `WrongChain`, or a parameter is zero.
            LedgerError: the chain is not there, or the code is not that of the artifacts.
        """
        sender = Sender(w3, account)
        token = _create(sender, artifact("Token"), sender.address, supply)
        parameters = (min_stake, unbonding_blocks, dispute_blocks, appeal_bond, appeal_blocks)
        receipt = _create(sender, artifact("Ledger"), token.contract, *parameters)
        ledger = cls(w3, str(receipt.contract), deployed_block=receipt.block)
        ledger.verify()
        return ledger

    def verify(self) -> None:
        """Compare the code of ledger and token on chain with the artifacts, immutables aside.

        Raises:
            LedgerError: it is not this ledger, or its token is not this token.
        """
        with ledger_errors():
            code = bytes(self.w3.eth.get_code(to_checksum_address(self.address)))
        if not artifact("Ledger").matches(code):
            raise LedgerError(
                f"there is no ledger of this version at {self.address}", hint="check chain and address"
            )
        with ledger_errors():
            code = bytes(self.w3.eth.get_code(self.token.address))
        if not artifact("Token").matches(code):
            raise LedgerError(f"the ledger's token at {self.token.address} is not Murmur's")

    # Parameters, fixed when it was deployed

    @cached_property
    def chain_id(self) -> int:
        """Return the id of the chain."""
        with ledger_errors():
            return int(self.w3.eth.chain_id)

    @cached_property
    def token(self) -> Contract:
        """Return the token as a web3 contract."""
        return self.w3.eth.contract(
            address=to_checksum_address(self._read("TOKEN")), abi=artifact("Token").abi
        )

    @cached_property
    def min_stake(self) -> int:
        """Return the least stake in wei to register, be drawn, dispute, appeal and judge."""
        return int(self._read("MIN_STAKE"))

    @cached_property
    def unbonding_blocks(self) -> int:
        """Return the waiting time of unbonding funds, in blocks."""
        return int(self._read("UNBONDING_BLOCKS"))

    @cached_property
    def dispute_blocks(self) -> int:
        """Return the dispute window of a reward root, in blocks."""
        return int(self._read("DISPUTE_BLOCKS"))

    @cached_property
    def appeal_bond(self) -> int:
        """Return what an appeal puts up, in wei."""
        return int(self._read("APPEAL_BOND"))

    @cached_property
    def appeal_blocks(self) -> int:
        """Return after how many blocks an appeal that nobody settled can be released."""
        return int(self._read("APPEAL_BLOCKS"))

    # State

    def operator(self, number: int) -> Operator | None:
        """Return the operator with a registration number, or None."""
        found = self._read("operator", number)
        wallet, role, unbonding_at, peer, stake, unbonding = found
        if role == 0:
            return None
        return Operator(number, wallet, peer, Role(role), stake, unbonding, unbonding_at)

    def operator_count(self) -> int:
        """Return how many operators have registered, which is the last registration number."""
        return int(self._read("operatorCount"))

    def number_of(self, wallet: str) -> int | None:
        """Return the registration number of a wallet, or None."""
        return int(self._read("numberOf", to_checksum_address(wallet))) or None

    def number_of_peer(self, peer: str) -> int | None:
        """Return the registration number of a peer key's address, or None."""
        return int(self._read("numberOfPeer", to_checksum_address(peer))) or None

    def run_info(self, run: str) -> RunInfo | None:
        """Return a run, or None if it was not created."""
        coordinator, status, key, committed, anchored, epoch, funded, claimed, total, root = self._read(
            "runInfo", _run(run)
        )
        if status == 0:
            return None
        return RunInfo(
            run=run,
            coordinator=coordinator,
            coordinator_key=key,
            status=RunStatus(status),
            committed_rounds=committed,
            anchored_rounds=anchored,
            next_epoch=epoch,
            funded_wei=funded,
            claimed_wei=claimed,
            final_total_wei=total,
            final_root=bytes(root),
        )

    def pending_rewards(self, run: str) -> PendingRewards | None:
        """Return the run's pending reward root, or None."""
        with ledger_errors():
            block = self.w3.eth.block_number
        root, total, final_at = self._read("pendingRewards", _run(run), block=block)
        if final_at == 0:
            return None
        epoch = self._read("runInfo", _run(run), block=block)[5]
        return PendingRewards(epoch=epoch, root=bytes(root), total_wei=total, final_at=final_at)

    def claimed(self, run: str, account: str) -> int:
        """Return the wei that an account has been paid by a run."""
        return int(self._read("claimed", _run(run), to_checksum_address(account)))

    def slashed(self, run: str, round_: int, number: int) -> bool:
        """Tell whether a contributor was slashed for a round of a run."""
        return bool(self._read("slashed", _run(run), round_, number))

    def domain_separator(self) -> bytes:
        """Return the EIP-712 domain separator that the contract uses."""
        return bytes(self._read("DOMAIN_SEPARATOR"))

    def appeal_info(self, case: int) -> AppealInfo | None:
        """Return an appeal, or None if there is none of this number."""
        run, round_, number, segment, appellant, block, status, outcome = self._read("appealInfo", case)
        if status == 0:
            return None
        return AppealInfo(
            case=case,
            run=bytes(run).hex(),
            round=round_,
            number=number,
            segment=segment,
            appellant=appellant,
            block=block,
            status=AppealStatus(status),
            outcome=outcome,
        )

    def appeal_count(self) -> int:
        """Return how many appeals there have been, over all runs, which is the last one's number."""
        return int(self._read("appealCount"))

    def case_of(self, run: str, round_: int, number: int, segment: int, *, contest: bool) -> int | None:
        """Return the number of the contest, or else of the accusation, of a unit's segment, or None."""
        return int(self._read("caseOf", _run(run), round_, number, segment, contest)) or None

    def verdict_digest(
        self, run: str, round_: int, number: int, case: int, verifier: int, outcome: int, evidence: bytes
    ) -> bytes:
        """Return the digest of a verdict as the contract computes it; case 0 is the beacon's draw."""
        said = (_run(run), round_, number, case, verifier, outcome, evidence)
        return bytes(self._read("verdictDigest", *said))

    # Token

    def balance_of(self, account: str) -> int:
        """Return an account's tokens in wei."""
        with ledger_errors():
            return int(self.token.functions.balanceOf(to_checksum_address(account)).call())

    def total_supply(self) -> int:
        """Return the wei of the token that exist; slashing lowers it."""
        with ledger_errors():
            return int(self.token.functions.totalSupply().call())

    def transfer(self, sender: Sender, to: str, amount: int) -> Receipt:
        """Send tokens (wei) to an account."""
        return sender.send(self.token.functions.transfer(to_checksum_address(to), amount))

    # Stake

    def register(self, sender: Sender, role: Role, peer: PeerSigner, amount: int) -> int:
        """Register the wallet with a peer key and stake wei by permit; returns the registration number."""
        link = peer.sign(peer_link_digest(self.chain_id, self.address, sender.address, peer.public))
        deadline, v, r, s = self._permit(sender.account, amount)
        x, y = peer.public[:32], int.from_bytes(peer.public[32:], "big")
        sender.send(
            self.contract.functions.registerWithPermit(int(role), x, y, link, amount, deadline, v, r, s)
        )
        number = self.number_of(sender.address)
        if number is None:
            raise LedgerError("the registration was mined but is gone: the chain was reorganised")
        return number

    def deposit(self, sender: Sender, amount: int) -> Receipt:
        """Add wei to the wallet's stake."""
        self._allow(sender, amount)
        return sender.send(self.contract.functions.deposit(amount))

    def unbond(self, sender: Sender, amount: int) -> Receipt:
        """Start to unbond wei; the waiting time of all unbonding funds starts again."""
        return sender.send(self.contract.functions.unbond(amount))

    def cancel_unbond(self, sender: Sender) -> Receipt:
        """Bond all unbonding funds again."""
        return sender.send(self.contract.functions.cancelUnbond())

    def withdraw(self, sender: Sender) -> Receipt:
        """Pay the unbonding funds back to the wallet."""
        return sender.send(self.contract.functions.withdraw())

    # Runs

    def create_run(self, sender: Sender, run: str, coordinator_key: str, funding: int = 0) -> Receipt:
        """Create a run with the sender as coordinator and pay wei into its pot."""
        self._allow(sender, funding)
        key = to_checksum_address(coordinator_key)
        return sender.send(self.contract.functions.createRun(_run(run), key, funding))

    def fund(self, sender: Sender, run: str, amount: int) -> Receipt:
        """Pay wei into a run's pot."""
        self._allow(sender, amount)
        return sender.send(self.contract.functions.fund(_run(run), amount))

    def open_run(self, sender: Sender, run: str) -> Receipt:
        """Open a run; its schedule starts from the block of this transaction."""
        return sender.send(self.contract.functions.openRun(_run(run)))

    def finish_run(self, sender: Sender, run: str, parameters: bytes) -> Receipt:
        """End a run with the 32-byte address of its global parameters."""
        return sender.send(self.contract.functions.finishRun(_run(run), parameters))

    def post_commitments(self, sender: Sender, run: str, round_: int, root: bytes, count: int) -> Receipt:
        """Post the one root of a round's commitments: 32 zero bytes if and only if there are none."""
        return sender.send(self.contract.functions.postCommitments(_run(run), round_, root, count))

    def anchor_record(self, sender: Sender, run: str, round_: int, record: bytes) -> Receipt:
        """Anchor the 32-byte hash of a round's record."""
        return sender.send(self.contract.functions.anchorRecord(_run(run), round_, record))

    # Rewards

    def propose_rewards(self, sender: Sender, run: str, epoch: int, root: bytes, total: int) -> Receipt:
        """Propose a cumulative reward root whose amounts sum to `total` wei."""
        return sender.send(self.contract.functions.proposeRewards(_run(run), epoch, root, total))

    def dispute_rewards(self, sender: Sender, run: str, reason: bytes) -> Receipt:
        """Cancel the pending reward root; `reason` is the 32-byte hash of what is wrong with it."""
        return sender.send(self.contract.functions.disputeRewards(_run(run), reason))

    def finalize_rewards(self, sender: Sender, run: str) -> Receipt:
        """Make the pending reward root final after its window."""
        return sender.send(self.contract.functions.finalizeRewards(_run(run)))

    def claim(
        self, sender: Sender, run: str, account: str, cumulative: int, proof: Sequence[bytes]
    ) -> Receipt:
        """Pay `account` what its cumulative wei exceed earlier claims by; the sender only pays the gas."""
        call = self.contract.functions.claim(_run(run), to_checksum_address(account), cumulative, list(proof))
        return sender.send(call)

    # Appeals

    def appeal(self, sender: Sender, run: str, round_: int, number: int, segment: int) -> int:
        """Put up the bond that a segment of a unit be judged; returns the case's number.

        The unit's owner contests what was said of it, anybody else accuses it.
        """
        self._allow(sender, self.appeal_bond)
        sender.send(self.contract.functions.appeal(_run(run), round_, number, segment))
        contest = self.number_of(sender.address) == number
        case = self.case_of(run, round_, number, segment, contest=contest)
        if case is None:
            raise LedgerError("the appeal was mined but is gone: the chain was reorganised")
        return case

    def settle_appeal(
        self, sender: Sender, case: int, outcome: int, a: SignedVerdict, b: SignedVerdict
    ) -> Receipt:
        """End an appeal on two verifiers' verdicts of the same outcome: 1 passed, 2 rejected, 3 proven false."""
        return sender.send(self.contract.functions.settleAppeal(case, outcome, _tuple(a), _tuple(b)))

    def release_appeal(self, sender: Sender, case: int) -> Receipt:
        """Give the bond of an appeal that nobody settled in time back to its appellant."""
        return sender.send(self.contract.functions.releaseAppeal(case))

    # Slashing

    def slash(
        self,
        sender: Sender,
        run: str,
        round_: int,
        number: int,
        case: int,
        a: SignedVerdict,
        b: SignedVerdict,
    ) -> Receipt:
        """Burn all that a contributor has at stake, on two verifiers' verdicts of one case (0: the beacon's draw)."""
        call = self.contract.functions.slash(_run(run), round_, number, case, _tuple(a), _tuple(b))
        return sender.send(call)

    def _read(self, function: str, *arguments: Any, block: int | None = None) -> Any:
        with ledger_errors():
            call = self.contract.functions[function](*arguments)
            return call.call(block_identifier="latest" if block is None else block)

    def _allow(self, sender: Sender, amount: int) -> None:
        with ledger_errors():
            allowance = self.token.functions.allowance(sender.address, self.address).call()
        if allowance < amount:
            sender.send(self.token.functions.approve(self.address, amount))

    def _permit(self, account: LocalAccount, amount: int) -> tuple[int, int, bytes, bytes]:
        """Sign an ERC-2612 permit; returns deadline, v, r, s."""
        latest = get_block(self.w3, "latest")
        if latest is None:
            raise LedgerError("the chain has no blocks")
        deadline = int(latest["timestamp"]) + PERMIT_LIFE_S
        with ledger_errors():
            nonce = self.token.functions.nonces(account.address).call()
        signed = account.sign_typed_data(
            domain_data={
                "name": DOMAIN_NAME,
                "version": DOMAIN_VERSION,
                "chainId": self.chain_id,
                "verifyingContract": self.token.address,
            },
            message_types=_PERMIT_TYPES,
            message_data={
                "owner": account.address,
                "spender": self.address,
                "value": amount,
                "nonce": nonce,
                "deadline": deadline,
            },
        )
        return deadline, signed.v, signed.r.to_bytes(32, "big"), signed.s.to_bytes(32, "big")


def _run(run: str) -> bytes:
    if not re.fullmatch("[0-9a-f]{64}", run):
        raise LedgerError(f"{run!r} is not a run id: 64 hex digits, none of them a capital")
    return bytes.fromhex(run)


def _tuple(verdict: SignedVerdict) -> tuple[int, bytes, bytes]:
    return verdict.verifier, verdict.evidence, verdict.signature


def _create(sender: Sender, compiled: Artifact, *arguments: Any) -> Receipt:
    factory = sender.w3.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
    receipt = sender.send(factory.constructor(*arguments))
    if receipt.contract is None:
        raise LedgerError(f"{receipt.tx} created no contract")
    return receipt

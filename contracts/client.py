"""The ledger, typed: one method per verb of `contracts/src/interfaces/ILedger.sol`, where each is specified.

Every method that writes takes the `Sender` of the wallet that acts, waits until the transaction is mined, and
returns its `Receipt`. Every method can raise `LedgerRevert` (the contract refuses, by name) or `LedgerError`
(there is no usable chain).
"""

from collections.abc import Sequence
from dataclasses import astuple
from functools import cached_property
from typing import Any

import rlp
from eth_abi.abi import encode
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from web3 import Web3
from web3.contract import Contract

from contracts.artifacts import Artifact, artifact
from contracts.chain import get_block, ledger_errors, read_together
from contracts.drand import follows_quicknet, quicknet_arguments
from contracts.jury import Jury, allow, run_bytes
from contracts.sender import Sender
from contracts.types import (
    JuryTerms,
    Ladder,
    LedgerTerms,
    Operator,
    PeerSigner,
    PendingRewards,
    Receipt,
    Role,
    RunInfo,
    RunStatus,
)
from protocol.errors import LedgerError
from protocol.manifest import LOCAL_CHAIN_ID

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


def created_address(account: str, nonce: int) -> str:
    """Return the address of the contract that an account's transaction of this nonce creates."""
    return str(to_checksum_address(keccak(rlp.encode([bytes.fromhex(account[2:]), nonce]))[12:]))


class Ledger:
    """A deployed ledger, its token and its jury."""

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
        cls, w3: Web3, account: LocalAccount, *, supply: int, terms: LedgerTerms, jury: JuryTerms
    ) -> "Ledger":
        """Deploy a token, whose whole supply goes to `account`, a ledger and its jury; check the code on chain.

        On the local chain (31337) a later block draws juries, elsewhere drand's quicknet, whose signatures the chain
        must be able to check (EIP-2537).

        Args:
            account: pays the gas and receives the supply.
            supply: wei of the token.

        Raises:
            LedgerRevert: a parameter is zero or out of bounds; `BadSeedProof`: this chain cannot check drand.
            LedgerError: the chain is not there, or the code is not that of the artifacts.
        """
        sender = Sender(w3, account)
        token = _create(sender, artifact("Token"), sender.address, supply)
        with ledger_errors():
            local = w3.eth.chain_id == LOCAL_CHAIN_ID
        if local:
            beacon = _create(sender, artifact("BlockBeacon"))
        else:
            beacon = _create(sender, artifact("DrandBeacon"), *quicknet_arguments())
        with ledger_errors():
            nonce = w3.eth.get_transaction_count(account.address)
        # Each of the two names the other, and neither has a setter: the second address is known beforehand.
        place = created_address(account.address, nonce + 1)
        created = _create(sender, artifact("Ledger"), token.contract, place, astuple(terms))
        court = _create(sender, artifact("Jury"), created.contract, beacon.contract, astuple(jury))
        if court.contract != place:
            raise LedgerError("the jury was created elsewhere than the ledger expects", hint="deploy again")
        ledger = cls(w3, str(created.contract), deployed_block=created.block)
        ledger.verify()
        return ledger

    def verify(self) -> None:
        """Compare the code of ledger, token, jury and beacon on chain with the artifacts, immutables aside.

        Raises:
            LedgerError: it is not this ledger, or what it names is not what belongs to it.
        """
        if not artifact("Ledger").matches(self._code(self.address)):
            raise LedgerError(
                f"there is no ledger of this version at {self.address}", hint="check chain and address"
            )
        if not artifact("Token").matches(self._code(self.token.address)):
            raise LedgerError(f"the ledger's token at {self.token.address} is not Murmur's")
        if not artifact("Jury").matches(self._code(self.jury.address)) or self.jury.ledger != self.address:
            raise LedgerError(f"the ledger's jury at {self.jury.address} is not Murmur's")
        beacon = self._code(self.jury.beacon)
        if not artifact("BlockBeacon").matches(beacon) and not artifact("DrandBeacon").matches(beacon):
            raise LedgerError(f"the jury's beacon at {self.jury.beacon} is not Murmur's")
        if artifact("DrandBeacon").matches(beacon) and not follows_quicknet(self.w3, self.jury.beacon):
            raise LedgerError(f"the jury's beacon at {self.jury.beacon} is not drand's quicknet")

    def _code(self, address: str) -> bytes:
        with ledger_errors():
            return bytes(self.w3.eth.get_code(to_checksum_address(address)))

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
    def jury(self) -> Jury:
        """Return the jury of this ledger."""
        return Jury(self.w3, self._read("JURY"))

    @cached_property
    def min_stake(self) -> int:
        """Return the least stake in wei to register, be drawn and stand in for a coordinator."""
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
    def force_blocks(self) -> int:
        """Return how long after a commitment root a left-out commitment can be forced in, in blocks."""
        return int(self._read("FORCE_BLOCKS"))

    @cached_property
    def timeout_blocks(self) -> int:
        """Return after how many blocks without progress of a run others may act for its coordinator."""
        return int(self._read("TIMEOUT_BLOCKS"))

    @cached_property
    def run_bond(self) -> int:
        """Return what a coordinator puts up for a run, in wei."""
        return int(self._read("RUN_BOND"))

    @cached_property
    def proposal_bond(self) -> int:
        """Return what a proposed reward root puts up, in wei."""
        return int(self._read("PROPOSAL_BOND"))

    # State

    def operator(self, number: int) -> Operator | None:
        """Return the operator with a registration number, or None."""
        found = self._read("operator", number)
        wallet, role, unbonding_at, peer, cases, equivocations, stake, unbonding = found
        if role == 0:
            return None
        return Operator(
            number, wallet, peer, Role(role), cases, equivocations, stake, unbonding, unbonding_at
        )

    def operator_count(self) -> int:
        """Return how many operators have registered, which is the last registration number."""
        return int(self._read("operatorCount"))

    def number_of(self, wallet: str) -> int | None:
        """Return the registration number of a wallet, or None."""
        return int(self._read("numberOf", to_checksum_address(wallet))) or None

    def number_of_peer(self, peer: str) -> int | None:
        """Return the registration number of a peer key's address, rotated away or not, or None."""
        return int(self._read("numberOfPeer", to_checksum_address(peer))) or None

    def answers_for(self, peer: str) -> int | None:
        """Return the operator that answers for what a peer key signs now, or None."""
        return int(self._read("answersFor", to_checksum_address(peer))) or None

    def run_info(self, run: str) -> RunInfo | None:
        """Return a run, or None if it was not created."""
        return _run_info(run, self._read("runInfo", run_bytes(run)))

    def run_and_claimed(self, run: str, account: str) -> tuple[RunInfo | None, int]:
        """Return a run, or None if it was not created, and the wei that it has paid an account; both of one block."""
        functions, key = self.contract.functions, run_bytes(run)
        wanted = functions.runInfo(key), functions.claimed(key, to_checksum_address(account))
        _, (found, claimed) = read_together(self.w3, wanted)
        return _run_info(run, found), int(claimed)

    def pending_rewards(self, run: str) -> PendingRewards | None:
        """Return the run's pending reward root, or None."""
        functions, key = self.contract.functions, run_bytes(run)
        _, (found, of_run) = read_together(self.w3, (functions.pendingRewards(key), functions.runInfo(key)))
        root, total, final_at, proposer, open_, _, proposed_at = found
        info = _run_info(run, of_run)
        if info is None or final_at == 0:
            return None
        return PendingRewards(info.next_epoch, bytes(root), total, final_at, proposer, open_, proposed_at)

    def claimed(self, run: str, account: str) -> int:
        """Return the wei that an account has been paid by a run."""
        return int(self._read("claimed", run_bytes(run), to_checksum_address(account)))

    def forced(self, run: str, round_: int, number: int) -> bytes | None:
        """Return the message id of the commitment that a contributor forced into a round, or None."""
        found = bytes(self._read("forced", run_bytes(run), round_, number))
        return found if any(found) else None

    def domain_separator(self) -> bytes:
        """Return the EIP-712 domain separator that the contract uses."""
        return bytes(self._read("DOMAIN_SEPARATOR"))

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

    def rotate_peer(self, sender: Sender, peer: PeerSigner) -> Receipt:
        """Give the wallet's operator another peer key, from the next roster on."""
        link = peer.sign(peer_link_digest(self.chain_id, self.address, sender.address, peer.public))
        x, y = peer.public[:32], int.from_bytes(peer.public[32:], "big")
        return sender.send(self.contract.functions.rotatePeer(x, y, link))

    def cancel_unbond(self, sender: Sender) -> Receipt:
        """Bond all unbonding funds again."""
        return sender.send(self.contract.functions.cancelUnbond())

    def withdraw(self, sender: Sender) -> Receipt:
        """Pay the unbonding funds back to the wallet."""
        return sender.send(self.contract.functions.withdraw())

    # Runs

    def create_run(
        self, sender: Sender, run: str, coordinator_key: str, ladder: Ladder, funding: int = 0
    ) -> Receipt:
        """Create a run with the sender as coordinator, who puts up the run's bond, and pay wei into its pot."""
        self._allow(sender, self.run_bond + funding)
        key = to_checksum_address(coordinator_key)
        return sender.send(self.contract.functions.createRun(run_bytes(run), key, astuple(ladder), funding))

    def fund(self, sender: Sender, run: str, amount: int) -> Receipt:
        """Pay wei into a run's pot."""
        self._allow(sender, amount)
        return sender.send(self.contract.functions.fund(run_bytes(run), amount))

    def open_run(self, sender: Sender, run: str) -> Receipt:
        """Open a run; its schedule starts from the block of this transaction."""
        return sender.send(self.contract.functions.openRun(run_bytes(run)))

    def finish_run(self, sender: Sender, run: str, parameters: bytes) -> Receipt:
        """End a run with the 32-byte address of its global parameters."""
        return sender.send(self.contract.functions.finishRun(run_bytes(run), parameters))

    def post_commitments(self, sender: Sender, run: str, round_: int, root: bytes, count: int) -> Receipt:
        """Post the one root of a round's commitments: 32 zero bytes if and only if there are none."""
        return sender.send(self.contract.functions.postCommitments(run_bytes(run), round_, root, count))

    def force_commitment(self, sender: Sender, run: str, round_: int, commitment: bytes) -> Receipt:
        """Add the message id of the sender's commitment to a round whose posted root leaves it out."""
        return sender.send(self.contract.functions.forceCommitment(run_bytes(run), round_, commitment))

    def release_run_bond(self, sender: Sender, run: str) -> Receipt:
        """Give the coordinator of a finished run its bond back."""
        return sender.send(self.contract.functions.releaseRunBond(run_bytes(run)))

    def anchor_record(self, sender: Sender, run: str, round_: int, record: bytes) -> Receipt:
        """Anchor the 32-byte hash of a round's record."""
        return sender.send(self.contract.functions.anchorRecord(run_bytes(run), round_, record))

    # Rewards

    def propose_rewards(
        self, sender: Sender, run: str, epoch: int, previous: bytes, root: bytes, total: int
    ) -> Receipt:
        """Propose, with the proposal's bond, a cumulative reward root whose amounts sum to `total` wei.

        Args:
            previous: the last final root, 32 zero bytes before the first.
        """
        self._allow(sender, self.proposal_bond)
        call = self.contract.functions.proposeRewards(run_bytes(run), epoch, previous, root, total)
        return sender.send(call)

    def finalize_rewards(self, sender: Sender, run: str) -> Receipt:
        """Make the pending reward root final after its window."""
        return sender.send(self.contract.functions.finalizeRewards(run_bytes(run)))

    def claim(
        self, sender: Sender, run: str, account: str, cumulative: int, proof: Sequence[bytes]
    ) -> Receipt:
        """Pay `account` what its cumulative wei exceed earlier claims by; the sender only pays the gas."""
        call = self.contract.functions.claim(
            run_bytes(run), to_checksum_address(account), cumulative, list(proof)
        )
        return sender.send(call)

    def _read(self, function: str, *arguments: Any, block: int | None = None) -> Any:
        with ledger_errors():
            call = self.contract.functions[function](*arguments)
            return call.call(block_identifier="latest" if block is None else block)

    def _allow(self, sender: Sender, amount: int) -> None:
        allow(sender, self.token, self.address, amount)

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


def _create(sender: Sender, compiled: Artifact, *arguments: Any) -> Receipt:
    factory = sender.w3.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
    receipt = sender.send(factory.constructor(*arguments))
    if receipt.contract is None:
        raise LedgerError(f"{receipt.tx} created no contract")
    return receipt


def _run_info(run: str, found: Any) -> RunInfo | None:
    """Return what the contract gives of a run, or None if it was not created."""
    coordinator, status, stand_in, ladder, key, opened, committed, anchored, epoch, active = found[:10]
    funded, claimed, total, bond, root = found[10:]
    if status == 0:
        return None
    return RunInfo(
        run=run,
        coordinator=coordinator,
        coordinator_key=key,
        ladder=Ladder(*ladder),
        status=RunStatus(status),
        stand_in=stand_in,
        opened_at=opened,
        committed_rounds=committed,
        anchored_rounds=anchored,
        next_epoch=epoch,
        funded_wei=funded,
        claimed_wei=claimed,
        active_at=active,
        final_total_wei=total,
        bond_wei=bond,
        final_root=bytes(root),
    )

"""What a command is about to send: unsigned transactions, what they cost, and when waiting times end.

A plan needs the wallet's address and no key, so that it can be shown before any password is asked for, and carried
to a wallet that never touches a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from eth_utils.address import to_checksum_address
from web3 import Web3
from web3.contract.contract import ContractFunction
from web3.types import Nonce, TxParams, Wei

from contracts.chain import get_block, ledger_errors, network_of
from contracts.client import Ledger, peer_link_digest
from contracts.fees import gas_price
from contracts.jury import run_bytes
from contracts.types import PeerSigner, Role
from protocol.errors import LedgerError

GAS_MARGIN_PERCENT = 120
BLOCK_TIME_SPAN = 1000  # blocks over which their time is averaged

# Ceilings for what cannot be estimated before an earlier step is mined; tests hold the ledger to them.
REGISTER_GAS = 230_000
DEPOSIT_GAS = 90_000
FUND_GAS = 90_000
PROPOSE_GAS = 180_000


@dataclass(frozen=True)
class Step:
    """One transaction of a plan."""

    what: str
    call: ContractFunction
    gas: int | None = None  # ceiling, where it cannot be estimated yet


@dataclass(frozen=True)
class Unsigned:
    """An EIP-1559 transaction without its signature."""

    what: str
    to: str
    data: str  # hex
    chain_id: int
    nonce: int
    gas: int
    max_fee_wei: int  # for a unit of gas
    tip_wei: int  # of it, for the block's builder

    def to_json(self) -> dict[str, Any]:
        """Return the transaction under the names of JSON-RPC, as `eth_account` signs it, and what it is for."""
        return {
            "what": self.what,
            "type": 2,
            "chainId": self.chain_id,
            "nonce": self.nonce,
            "to": self.to,
            "value": 0,
            "data": self.data,
            "gas": self.gas,
            "maxFeePerGas": self.max_fee_wei,
            "maxPriorityFeePerGas": self.tip_wei,
        }


@dataclass(frozen=True)
class Quote:
    """The transactions of a plan and what they cost in the chain's own coin."""

    transactions: tuple[Unsigned, ...]
    fee_wei: int  # at the price of gas now
    max_fee_wei: int  # if the price rises to the cap


def quote(w3: Web3, wallet: str, steps: Sequence[Step]) -> Quote:
    """Return the transactions of a plan with their gas, price and nonces; sends nothing and needs no key.

    Raises:
        LedgerRevert: the contract would refuse one.
        LedgerError: the chain is not there.
    """
    sender = to_checksum_address(wallet)
    with ledger_errors():
        price = gas_price(w3, network_of(w3).max_fee_wei)
        nonce = int(w3.eth.get_transaction_count(sender, "pending"))
        chain_id = int(w3.eth.chain_id)
        found, fee = [], 0
        for index, step in enumerate(steps):
            needed = step.gas or int(step.call.estimate_gas({"from": sender}))
            limit = step.gas or needed * GAS_MARGIN_PERCENT // 100
            wanted: TxParams = {
                "from": sender,
                "chainId": chain_id,
                "nonce": Nonce(nonce + index),
                "gas": limit,
                "maxFeePerGas": Wei(price.most),
                "maxPriorityFeePerGas": Wei(price.tip),
            }
            fields = step.call.build_transaction(wanted)
            data = fields["data"]
            text = data if isinstance(data, str) else w3.to_hex(data)
            found.append(
                Unsigned(
                    step.what, str(fields["to"]), text, chain_id, nonce + index, limit, price.most, price.tip
                )
            )
            fee += needed * (price.base + price.tip)
    return Quote(tuple(found), fee, sum(one.gas for one in found) * price.most)


def register_steps(ledger: Ledger, wallet: str, role: Role, peer: PeerSigner, amount: int) -> list[Step]:
    """Return what registers a wallet with a peer key and stakes wei; only the peer key signs here."""
    link = peer.sign(peer_link_digest(ledger.chain_id, ledger.address, wallet, peer.public))
    x, y = peer.public[:32], int.from_bytes(peer.public[32:], "big")
    register = ledger.contract.functions.register(int(role), x, y, link, amount)
    approve = approve_steps(ledger, wallet, amount)
    return [*approve, Step(f"register as {role.name.lower()}", register, REGISTER_GAS if approve else None)]


def deposit_steps(ledger: Ledger, wallet: str, amount: int) -> list[Step]:
    """Return what adds wei to a registered wallet's stake."""
    approve = approve_steps(ledger, wallet, amount)
    deposit = ledger.contract.functions.deposit(amount)
    return [*approve, Step("deposit", deposit, DEPOSIT_GAS if approve else None)]


def unbond_steps(ledger: Ledger, amount: int) -> list[Step]:
    """Return what starts to take wei of stake back."""
    return [Step("unbond", ledger.contract.functions.unbond(amount))]


def rebond_steps(ledger: Ledger) -> list[Step]:
    """Return what bonds all unbonding funds again."""
    return [Step("rebond", ledger.contract.functions.cancelUnbond())]


def withdraw_steps(ledger: Ledger) -> list[Step]:
    """Return what pays unbonded funds to the wallet."""
    return [Step("withdraw", ledger.contract.functions.withdraw())]


def rotate_steps(ledger: Ledger, wallet: str, peer: PeerSigner) -> list[Step]:
    """Return what gives a wallet's number another peer key; only the new key signs here."""
    link = peer.sign(peer_link_digest(ledger.chain_id, ledger.address, wallet, peer.public))
    x, y = peer.public[:32], int.from_bytes(peer.public[32:], "big")
    return [Step("replace the peer key", ledger.contract.functions.rotatePeer(x, y, link))]


def claim_steps(
    ledger: Ledger, run: str, account: str, cumulative: int, proof: Sequence[bytes]
) -> list[Step]:
    """Return what pays an account its cumulative wei of a run."""
    call = ledger.contract.functions.claim(
        bytes.fromhex(run), to_checksum_address(account), cumulative, list(proof)
    )
    return [Step("claim", call)]


def time_of_block(w3: Web3, number: int) -> datetime | None:
    """Return about when a block comes, judged by the newest thousand; its own time if it is there already.

    None on a chain whose blocks bear no times to judge by.

    Raises:
        LedgerError: the chain does not answer, or has no blocks.
    """
    latest = get_block(w3, "latest")
    if latest is None:
        raise LedgerError("the chain has no blocks")
    height, now = int(latest["number"]), int(latest["timestamp"])
    if number <= height:
        block = get_block(w3, number)
        return None if block is None else datetime.fromtimestamp(int(block["timestamp"]), UTC)
    # Block 0 is left out: on local chains it is as old as the program's defaults.
    first = get_block(w3, max(1, height - BLOCK_TIME_SPAN))
    if first is None or int(first["number"]) >= height or int(first["timestamp"]) >= now:
        return None
    seconds = (now - int(first["timestamp"])) / (height - int(first["number"]))
    return datetime.fromtimestamp(now + seconds * (number - height), UTC)


def fund_steps(ledger: Ledger, wallet: str, run: str, amount: int) -> list[Step]:
    """Return what pays wei into a run's pot."""
    call = ledger.contract.functions.fund(run_bytes(run), amount)
    approval = approve_steps(ledger, wallet, amount)
    return [*approval, Step("fund", call, FUND_GAS if approval else None)]


def propose_steps(
    ledger: Ledger, wallet: str, run: str, epoch: int, previous: bytes, root: bytes, total: int
) -> list[Step]:
    """Return what proposes a reward root whose amounts sum to `total` wei, with the proposal's bond."""
    call = ledger.contract.functions.proposeRewards(run_bytes(run), epoch, previous, root, total)
    approval = approve_steps(ledger, wallet, ledger.proposal_bond)
    return [*approval, Step("propose", call, PROPOSE_GAS if approval else None)]


def finalize_steps(ledger: Ledger, run: str) -> list[Step]:
    """Return what makes the pending reward root of a run final."""
    return [Step("finalize", ledger.contract.functions.finalizeRewards(run_bytes(run)))]


def release_bond_steps(ledger: Ledger, run: str) -> list[Step]:
    """Return what gives the coordinator of a finished run its bond back."""
    return [Step("release bond", ledger.contract.functions.releaseRunBond(run_bytes(run)))]


def approve_steps(ledger: Ledger, wallet: str, amount: int, *, jury: bool = False) -> list[Step]:
    """Return what lets the ledger, or its jury, take wei of a wallet's tokens; nothing where it may already."""
    taker, name = (ledger.jury.address, "jury") if jury else (ledger.address, "ledger")
    with ledger_errors():
        owner, spender = to_checksum_address(wallet), to_checksum_address(taker)
        allowance = ledger.token.functions.allowance(owner, spender).call()
    if allowance >= amount:
        return []
    call = ledger.token.functions.approve(spender, amount)
    return [Step(f"let the {name} take the tokens", call)]

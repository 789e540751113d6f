"""What one wallet has sent and what became of it: each transaction is written down, said, pushed and watched.

Knows nothing of threads and waiting; `contracts.sender` orders the calls.
"""

import logging
from dataclasses import dataclass
from time import monotonic
from typing import Any

from eth_account.signers.local import LocalAccount
from web3 import Web3
from web3.exceptions import TransactionNotFound, Web3RPCError
from web3.types import TxReceipt

from contracts.chain import final_height, refusal
from contracts.endpoints import ALREADY_KNOWN
from contracts.fees import gas_price
from contracts.outbox import Call, Intent, Outbox, SignedVersion, State
from protocol.clock import unix_time
from protocol.errors import LedgerError

log = logging.getLogger(__name__)

REBROADCAST_S = 10.0
WATCH_S = 5.0
GAP = "fill a gap"

# What nodes say of a transaction that they did not take and that cannot hurt later.
_REFUSALS = (
    "insufficient funds",
    "intrinsic gas",
    "exceeds block gas limit",
    "exceeds the block gas limit",
    "gas limit too high",
    "transaction gas limit",
    "exceeds the configured cap",
    "invalid chain id",
    "invalid sender",
)


@dataclass(eq=False)
class Pending:
    """An intent, and what this process knows of it."""

    intent: Intent
    claimed: bool  # somebody waits for it, or was given its receipt
    receipt: TxReceipt | None = None
    sent_at: float = 0.0  # monotonic seconds; of the newest version, the first time
    said_at: float = 0.0  # the last time that nodes were told of it
    looked: bool = False  # whether a receipt was asked for since it was sent
    trouble: str = ""
    inherited: bool = False  # from a process before this one


class _NonceTaken(Exception):
    """Say that a node has mined another transaction of this nonce, or a version of this one."""


class Courier:
    """Bring the transactions of one wallet to the chain."""

    def __init__(
        self,
        w3: Web3,
        account: LocalAccount,
        outbox: Outbox,
        *,
        chain_id: int,
        max_fee_wei: int,
        stall_s: float,
    ) -> None:
        """Go on with what the outbox holds.

        Args:
            chain_id: of the chain, which every signature binds.
            max_fee_wei: most that is paid for a unit of gas.
            stall_s: after this long without a receipt the fee is raised.
        """
        self.w3 = w3
        self.pending = [Pending(one, claimed=False, inherited=True) for one in outbox.unfinished()]
        self._account = account
        self._outbox = outbox
        self._chain_id = chain_id
        self._max_fee_wei = max_fee_wei
        self._stall_s = stall_s
        self._watched_at = 0.0
        self._watched = b""  # hash of the newest block then

    def close(self) -> None:
        """Close the outbox; what callers were given counts as known to them."""
        for one in tuple(self.pending):
            if one.claimed and one.receipt is not None and not one.intent.told:
                self.tell(one)
        self.pending = []
        self._outbox.close()

    def begin(self, key: str, call: Call) -> Pending:
        """Write a transaction down under the next nonce and send it.

        Raises:
            LedgerError: the fee cap is too low, or other programs keep taking the nonces.
            Web3RPCError: the nodes refuse it; unless they certainly have not kept it, it stays written down.
        """
        fees = self._fees()
        floor = 0
        for _ in range(3):
            counted = self.w3.eth.get_transaction_count(self._account.address, "pending")
            nonce = max(int(counted), self._outbox.next_nonce(), floor)
            try:
                return self._first_send(Intent(key, nonce, call, unix_time()), fees)
            except _NonceTaken:  # by another program with this key, a moment ago
                floor = nonce + 1
        raise LedgerError(
            f"other programs take the nonces of wallet {self._account.address}",
            hint="let one program send with a key",
        )

    def tend(self) -> None:
        """Look once after everything that is not final."""
        for one in self.pending:
            if one.intent.state == State.OPEN and not one.looked:
                one.looked = True
                self._look(one)  # many chains have mined it by now: one request is enough then
        open_ = [one for one in self.pending if one.intent.state == State.OPEN]
        taken_back = False
        if open_:
            count = int(self.w3.eth.get_transaction_count(self._account.address, "latest"))
            taken_back = any(
                one.intent.state == State.MINED and one.intent.nonce >= count for one in self.pending
            )
            for one in open_:
                if one.intent.nonce < count:
                    self._settle(one)
                else:
                    self._push(one, count)
            if count < min(one.intent.nonce for one in open_) and not taken_back:
                self._fill_gap(count, open_)
        for one in self.pending:
            if one.claimed and one.receipt is None and one.intent.tx is not None:
                one.receipt = self._receipt(one.intent.tx)
        due = monotonic() - self._watched_at >= WATCH_S
        if taken_back or (due and any(one.intent.state == State.MINED for one in self.pending)):
            self.watch()

    def tell(self, one: Pending) -> None:
        """Note that its caller knows what became of it."""
        one.intent.told = True
        self._outbox.update(one.intent)
        if one.intent.state == State.FINAL:
            self.pending.remove(one)

    def name_of(self, one: Pending) -> str:
        """Return how a message names it."""
        return f"transaction {self.w3.to_hex(one.intent.versions[-1].hash)}"

    def _first_send(self, intent: Intent, fees: tuple[int, int]) -> Pending:
        intent.versions.append(self._sign(intent, *fees))
        self._outbox.add(intent)
        one = Pending(intent, claimed=True, sent_at=monotonic(), said_at=monotonic())
        self.pending.append(one)
        try:
            self._say(intent.versions[0])
        except _NonceTaken:
            self._forget(one)
            raise
        except Web3RPCError as error:
            one.claimed = False
            if any(words in str(error).lower() for words in _REFUSALS):
                self._forget(one)  # it is in no node's pool
            raise
        except BaseException:
            one.claimed = False  # whether it went out is not known: it stays written down
            raise
        return one

    def _forget(self, one: Pending) -> None:
        self._outbox.remove(one.intent)
        self.pending.remove(one)

    def _fees(self) -> tuple[int, int]:
        """Return what to pay for a unit of gas at most, and the tip in it, in wei."""
        price = gas_price(self.w3, self._max_fee_wei)
        return price.most, price.tip

    def _sign(self, intent: Intent, max_fee: int, tip: int) -> SignedVersion:
        call = intent.call
        fields: dict[str, Any] = {
            "type": 2,
            "chainId": self._chain_id,
            "nonce": intent.nonce,
            "gas": call.gas,
            "value": call.value,
            "data": call.data,
            "maxFeePerGas": max_fee,
            "maxPriorityFeePerGas": tip,
            **({} if call.to is None else {"to": call.to}),
        }
        signed = self._account.sign_transaction(fields)
        return SignedVersion(bytes(signed.hash), bytes(signed.raw_transaction), max_fee, tip)

    def _say(self, version: SignedVersion) -> None:
        """Tell the chain of a signed transaction; it may know it already."""
        try:
            self.w3.eth.send_raw_transaction(version.raw)
        except Web3RPCError as error:
            said = str(error).lower()
            if any(words in said for words in ALREADY_KNOWN):
                return
            if "nonce too low" in said or "nonce is too low" in said:
                raise _NonceTaken from error
            raise

    def _settle(self, one: Pending) -> None:
        """Find out which transaction took the nonce."""
        intent = one.intent
        if self._look(one):
            return
        final = final_height(self.w3)
        if int(self.w3.eth.get_transaction_count(self._account.address, final)) > intent.nonce:
            intent.state, intent.told = State.DISPLACED, True
            self._outbox.update(intent)
            log.error("another program with the key of %s took nonce %d", self._account.address, intent.nonce)

    def _look(self, one: Pending) -> bool:
        """Tell whether a version of it was mined."""
        receipt = self._find_receipt(one.intent)
        if receipt is None:
            return False
        one.receipt = receipt
        one.intent.state, one.intent.tx = State.MINED, bytes(receipt["transactionHash"])
        one.intent.block = int(receipt["blockNumber"])
        self._outbox.update(one.intent)
        return True

    def _find_receipt(self, intent: Intent) -> TxReceipt | None:
        for version in reversed(intent.versions):
            receipt = self._receipt(version.hash)
            if receipt is not None:
                return receipt
        return None

    def _receipt(self, tx: bytes) -> TxReceipt | None:
        try:
            return self.w3.eth.get_transaction_receipt(tx)  # type: ignore[arg-type]
        except TransactionNotFound:
            return None

    def _push(self, one: Pending, count: int) -> None:
        """Say it again, and pay more if it is its turn and it stalls."""
        now = monotonic()
        intent = one.intent
        stalled = one.sent_at and now - one.sent_at > self._stall_s and intent.nonce == count
        if not stalled and one.said_at and now - one.said_at < REBROADCAST_S:
            return
        one.said_at = now
        one.sent_at = one.sent_at or now
        try:
            if stalled:
                one.sent_at, one.trouble = now, ""
                self._raise_fee(one)
            self._say(intent.versions[-1])
        except _NonceTaken:  # mined a moment ago
            pass
        except Web3RPCError as error:
            if "underpriced" not in refusal(error).lower():  # an earlier version pays enough for this node
                self._note(one, refusal(error))

    def _raise_fee(self, one: Pending) -> None:
        old = one.intent.versions[-1]
        try:
            max_fee, tip = self._fees()
        except LedgerError as error:
            self._note(one, error.message)
            return
        # Nodes take a replacement only if it pays at least a tenth more; some want an eighth.
        raised = [
            max(new, before * 1125 // 1000 + 1) for new, before in ((max_fee, old.max_fee), (tip, old.tip))
        ]
        if raised[0] > self._max_fee_wei:
            self._note(one, f"the cap of {self._max_fee_wei} wei per gas allows no higher fee")
            return
        self._outbox.add_version(one.intent, self._sign(one.intent, raised[0], min(raised)))

    def _note(self, one: Pending, trouble: str) -> None:
        if one.trouble != trouble:
            log.warning("%s waits: %s", self.name_of(one), trouble)
        one.trouble = trouble

    def _fill_gap(self, count: int, open_: list[Pending]) -> None:
        """Take a nonce below ours that no pool holds: without it nothing of ours is ever mined.

        It was some other program's, and was dropped.
        """
        first = min(open_, key=lambda one: one.intent.nonce)
        if monotonic() - first.sent_at < self._stall_s:
            return
        if int(self.w3.eth.get_transaction_count(self._account.address, "pending")) > count:
            self._note(first, f"a transaction of another program holds nonce {count}")
            return
        try:
            log.warning(
                "nonce %d of %s is nobody's: an empty transaction takes it", count, self._account.address
            )
            filler = Intent(GAP, count, Call(self._account.address, "0x", 21_000), unix_time(), told=True)
            self._first_send(filler, self._fees())
        except (_NonceTaken, LedgerError, Web3RPCError) as error:
            self._note(first, str(error) or "its turn was taken")

    def watch(self) -> None:
        """See whether what was mined is still there, and what of it is final."""
        self._watched_at = monotonic()
        head = self.w3.eth.get_block("latest")
        if bytes(head["hash"]) == self._watched:
            return
        self._watched = bytes(head["hash"])
        final = final_height(self.w3, int(head["number"]))
        for one in tuple(self.pending):
            if one.intent.state == State.MINED:
                self._check_mined(one, final)

    def _check_mined(self, one: Pending, final: int) -> None:
        intent = one.intent
        receipt = self._find_receipt(intent)
        if receipt is None:
            log.warning(
                "block %s with %s was reorganised out: sending it again", intent.block, self.name_of(one)
            )
            intent.state, intent.tx, intent.block, one.said_at = State.OPEN, None, None, 0.0
        else:
            intent.tx, intent.block = bytes(receipt["transactionHash"]), int(receipt["blockNumber"])
            if intent.block <= final:
                intent.state = State.FINAL
                intent.told = intent.told or (one.claimed and one.receipt is not None)
        self._outbox.update(intent)
        if intent.state == State.FINAL and intent.told:
            self.pending.remove(one)

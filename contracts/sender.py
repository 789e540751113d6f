"""Transactions of one wallet, sent from any number of threads without gaps or reuse of nonces.

One sender per key and process: the lock orders nonces inside the process only. Fees are EIP-1559 with a cap.
"""

import threading
from statistics import median
from time import monotonic
from typing import Any, Protocol

from eth_account.datastructures import SignedTransaction
from eth_account.signers.local import LocalAccount
from web3 import Web3
from web3.exceptions import TransactionNotFound, Web3RPCError
from web3.types import TxParams, TxReceipt, Wei

from contracts.chain import ledger_errors
from contracts.reverts import LedgerRevert
from contracts.types import Receipt
from protocol.errors import LedgerError

GAS_MARGIN = 1.2
MIN_TIP_WEI = 10**6
FEE_HISTORY_BLOCKS = 10


class Transactable(Protocol):
    """A contract call or constructor that can become a transaction (web3's ContractFunction)."""

    def estimate_gas(self, transaction: TxParams | None = None) -> int:
        """Return the gas it needs; raises for a call that would revert."""
        ...

    def build_transaction(self, transaction: TxParams | None = None) -> TxParams:
        """Return it as a transaction with the given fields."""
        ...


class Sender:
    """Send the transactions of one wallet and wait until they are mined."""

    def __init__(
        self,
        w3: Web3,
        account: LocalAccount,
        *,
        max_fee_wei: int = 500 * 10**9,
        stall_s: float = 30.0,
        timeout_s: float = 300.0,
        poll_s: float = 0.05,
    ) -> None:
        """Bind a wallet to a chain.

        Args:
            w3: the chain.
            account: the wallet's key.
            max_fee_wei: most that is paid for a unit of gas.
            stall_s: after this long without a receipt the fee is raised.
            timeout_s: after this long `send` gives up.
            poll_s: time between two looks for a receipt.
        """
        self.w3 = w3
        self.account = account
        self._max_fee_wei = max_fee_wei
        self._stall_s = stall_s
        self._timeout_s = timeout_s
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._nonce: int | None = None  # None: ask the chain
        self._closed = threading.Event()
        with ledger_errors():
            self._chain_id = w3.eth.chain_id

    @property
    def address(self) -> str:
        """Return the wallet's checksummed address."""
        return str(self.account.address)

    def close(self) -> None:
        """Make every `send` that still waits give up."""
        self._closed.set()

    def send(self, call: Transactable) -> Receipt:
        """Send one transaction and return once it is mined.

        Raises:
            LedgerRevert: the contract refuses it; where that is known before sending, no gas is lost.
            LedgerError: the chain is not there, the fee cap is too low, or it was not mined in time.
        """
        with ledger_errors():
            gas = int(call.estimate_gas({"from": self.account.address}) * GAS_MARGIN)
            fields: TxParams = {
                "from": self.account.address,
                "chainId": self._chain_id,
                "gas": gas,
                "value": Wei(0),
                **self._fees(),
            }
            transaction = call.build_transaction(fields)
            signed, transaction = self._broadcast(transaction)
            return self._wait(signed, transaction)

    def _fees(self) -> TxParams:
        history = self.w3.eth.fee_history(FEE_HISTORY_BLOCKS, "latest", [50.0])
        base = int(history["baseFeePerGas"][-1])  # the next block's
        tips = [int(block[0]) for block in history.get("reward") or [] if block]
        tip = max(int(median(tips)) if tips else int(self.w3.eth.max_priority_fee), MIN_TIP_WEI)
        if base > self._max_fee_wei:
            raise LedgerError(f"the base fee is {base} wei per gas, above the cap of {self._max_fee_wei}")
        # Twice the base fee holds for six full blocks in a row (EIP-1559).
        return {
            "maxPriorityFeePerGas": Wei(min(tip, self._max_fee_wei)),
            "maxFeePerGas": Wei(min(2 * base + tip, self._max_fee_wei)),
        }

    def _broadcast(self, transaction: TxParams) -> tuple[SignedTransaction, TxParams]:
        with self._lock:
            fresh = self._nonce is None
            try:
                return self._broadcast_next(transaction)
            except Web3RPCError as error:
                self._nonce = None
                # A nonce remembered from before another sender of this key used it; the chain knows better.
                if fresh or "nonce" not in str(error).lower():
                    raise
                return self._broadcast_next(transaction)
            except BaseException:
                self._nonce = None
                raise

    def _broadcast_next(self, transaction: TxParams) -> tuple[SignedTransaction, TxParams]:
        if self._nonce is None:
            self._nonce = self.w3.eth.get_transaction_count(self.account.address, "pending")
        numbered: TxParams = {**transaction, "nonce": self._nonce}  # type: ignore[typeddict-item]
        signed = self._submit(numbered)
        self._nonce += 1
        return signed, numbered

    def _submit(self, transaction: TxParams) -> SignedTransaction:
        signed: SignedTransaction = self.account.sign_transaction(transaction)  # type: ignore[arg-type]
        try:
            self.w3.eth.send_raw_transaction(signed.raw_transaction)
        except Web3RPCError as error:
            # The answer to the first POST was lost and it was sent again: the chain has it.
            known = ("already known", "already imported")
            if not any(words in str(error).lower() for words in known):
                raise
        return signed

    def _wait(self, signed: SignedTransaction, transaction: TxParams) -> Receipt:
        sent = [signed]  # every version of this nonce; any of them may be mined
        started = monotonic()
        bumped = started
        while True:
            for candidate in sent:
                receipt = self._receipt(candidate)
                if receipt is not None:
                    return self._finished(receipt, transaction)
            now = monotonic()
            if now - started > self._timeout_s:
                with self._lock:
                    self._nonce = None  # a reorganisation may have taken back the transactions it counts on
                raise LedgerError(
                    f"transaction {self.w3.to_hex(sent[-1].hash)} was not mined in {self._timeout_s:.0f} s",
                    hint="is the chain making blocks?",
                )
            if now - bumped > self._stall_s:
                bumped = now
                transaction = self._bumped(transaction)
                replacement = self._replace(transaction)
                if replacement is not None:
                    sent.append(replacement)
            if self._closed.wait(self._poll_s):
                raise LedgerError("the sender was closed while a transaction was not mined yet")

    def _receipt(self, signed: SignedTransaction) -> TxReceipt | None:
        try:
            return self.w3.eth.get_transaction_receipt(signed.hash)
        except TransactionNotFound:
            return None

    def _bumped(self, transaction: TxParams) -> TxParams:
        fees: dict[str, Any] = dict(self._fees())
        old: dict[str, Any] = dict(transaction)
        # Nodes take a replacement only if it pays at least an eighth more.
        raised = {
            key: min(max(fees[key], old[key] * 1125 // 1000 + 1), self._max_fee_wei)
            for key in ("maxPriorityFeePerGas", "maxFeePerGas")
        }
        return {**transaction, **raised}  # type: ignore[typeddict-item]

    def _replace(self, transaction: TxParams) -> SignedTransaction | None:
        try:
            return self._submit(transaction)
        except Web3RPCError as error:
            # An earlier version was mined just now, or the cap allows no higher fee: keep waiting.
            if any(words in str(error).lower() for words in ("nonce too low", "underpriced")):
                return None
            raise

    def _finished(self, receipt: TxReceipt, transaction: TxParams) -> Receipt:
        tx = self.w3.to_hex(receipt["transactionHash"])
        if receipt["status"] != 1:
            raise self._revert_reason(transaction, receipt["blockNumber"], tx)
        contract = receipt.get("contractAddress")
        return Receipt(
            tx=tx,
            block=int(receipt["blockNumber"]),
            block_hash=bytes(receipt["blockHash"]),
            gas_used=int(receipt["gasUsed"]),
            fee_wei=int(receipt["gasUsed"]) * int(receipt["effectiveGasPrice"]),
            contract=str(contract) if contract else None,
        )

    def _revert_reason(self, transaction: TxParams, block: int, tx: str) -> LedgerError:
        # Earlier transactions of the block belong to the state that refused it: its end is the nearest.
        call: TxParams = {
            "from": transaction["from"],
            "data": transaction["data"],
            "gas": transaction["gas"],
        }
        if "to" in transaction:
            call["to"] = transaction["to"]
        try:
            with ledger_errors():
                self.w3.eth.call(call, block)
        except LedgerRevert as error:
            return error
        except LedgerError:  # that block's state is gone; the transaction is still named
            pass
        return LedgerError(f"transaction {tx} reverted in block {block}")

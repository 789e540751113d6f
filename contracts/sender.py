"""Transactions of one wallet, each done exactly once, from any number of threads.

Every transaction is in the outbox before it is sent, and stays under watch until it is final: one that stalls is
replaced with a higher fee, one that was dropped or reorganised out is sent again with the same bytes. A process that
is killed and started again goes on with what it finds there: who asks for the same call again, and was never told
what became of it, gets that transaction and no second one. Fees are EIP-1559 with a cap.
"""

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak
from web3 import Web3
from web3.types import TxParams, Wei

from contracts.chain import ledger_errors, network_of
from contracts.courier import WATCH_S, Courier, Pending
from contracts.outbox import Call, Intent, Outbox, State
from contracts.reverts import LedgerRevert
from contracts.types import Receipt
from protocol.clock import unix_time
from protocol.errors import LedgerError

log = logging.getLogger(__name__)

GAS_MARGIN = 1.2
POLL_MAX_S = 1.0
ADOPT_S = 86400.0  # a call that nobody asked after for this long is not taken for the same one again


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
        outbox: Callable[[], Outbox] = Outbox.in_memory,
        max_fee_wei: int | None = None,
        stall_s: float = 30.0,
        timeout_s: float = 300.0,
        poll_s: float = 0.05,
    ) -> None:
        """Bind a wallet to a chain.

        Args:
            w3: the chain.
            account: the wallet's key.
            outbox: opens what transactions are written down in, with the first of them; in memory, if nothing is
                said, so that a killed process forgets them.
            max_fee_wei: most that is paid for a unit of gas; None: what the network's profile says.
            stall_s: after this long without a receipt the fee is raised.
            timeout_s: after this long `send` gives up; the transaction stays in the outbox.
            poll_s: time between the first two looks for a receipt; later ones come slower.

        Raises:
            LedgerError: the chain does not answer.
        """
        self.w3 = w3
        self.account = account
        self._timeout_s = timeout_s
        self._poll_s = poll_s
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None
        self._name = threading.local()
        self._contracts: set[str] = set()  # addresses that were seen to hold code
        self._tended_at = 0.0
        with ledger_errors():
            self._chain_id = int(w3.eth.chain_id)
        self._open_outbox = outbox
        self._max_fee_wei = network_of(w3).max_fee_wei if max_fee_wei is None else max_fee_wei
        self._stall_s = stall_s
        self._opened: Courier | None = None
        self._finish: Callable[[], object] = lambda: None

    @property
    def _courier(self) -> Courier:
        with self._lock:
            if self._opened is None:
                self._opened = Courier(
                    self.w3,
                    self.account,
                    self._open_outbox(),
                    chain_id=self._chain_id,
                    max_fee_wei=self._max_fee_wei,
                    stall_s=self._stall_s,
                )
                # A process that ends in order has told its user what it did, also where nobody calls `close`.
                self._finish = weakref.finalize(self, self._opened.close)
            return self._opened

    @classmethod
    def open(cls, w3: Web3, account: LocalAccount, directory: Path) -> "Sender":
        """Bind a wallet to a chain with the outbox of a directory.

        Whatever looks into it first raises `ConfigError` if another process sends with this key from there, or if it
        is damaged.

        Raises:
            LedgerError: the chain does not answer.
        """
        with ledger_errors():
            chain_id = int(w3.eth.chain_id)
        return cls(w3, account, outbox=partial(Outbox.open, directory, str(account.address), chain_id))

    @property
    def address(self) -> str:
        """Return the wallet's checksummed address."""
        return str(self.account.address)

    @property
    def unfinished(self) -> tuple[Intent, ...]:
        """Return what is not final yet, by nonce."""
        with self._lock:
            return tuple(
                one.intent for one in self._courier.pending if one.intent.state in (State.OPEN, State.MINED)
            )

    @contextmanager
    def intent(self, name: str) -> Iterator[None]:
        """Name what this thread sends meanwhile, so that the same call for another purpose is another intent."""
        self._name.value = name
        try:
            yield
        finally:
            self._name.value = ""

    def close(self) -> None:
        """Make every `send` that still waits give up, and let other processes have the outbox.

        What `send` returned counts as known to its callers from now on.
        """
        self._closed.set()
        # A request that hangs must not keep the process from ending; the lock on the file ends with it.
        if self._lock.acquire(timeout=2.0):
            try:
                self._finish()
            finally:
                self._lock.release()

    def acknowledge(self, receipt: Receipt) -> None:
        """Note that the caller has put down what became of a transaction: the same call again is another one."""
        with self._lock:
            for one in tuple(self._courier.pending):
                if one.intent.tx is not None and self.w3.to_hex(one.intent.tx) == receipt.tx:
                    self._courier.tell(one)

    def watch(self, every_s: float = WATCH_S) -> None:
        """Look after what is not final in a thread of its own, until `close`.

        Raises:
            ConfigError: another process sends with this key from the same directory, or the outbox is damaged.
        """
        _ = self._courier

        def run() -> None:
            while not self._closed.wait(every_s):
                try:
                    self.tend()
                except LedgerError as error:
                    log.warning("the outbox waits: %s", error)

        if self._watcher is None:
            self._watcher = threading.Thread(target=run, name="outbox", daemon=True)
            self._watcher.start()

    def tend(self) -> None:
        """Look once after everything that is not final: what was mined, dropped, stalled, or reorganised out.

        Raises:
            LedgerError: the chain does not answer.
        """
        with self._lock, ledger_errors():
            if not self._closed.is_set():
                self._courier.tend()

    def send(self, call: Transactable) -> Receipt:
        """Send one transaction and return once it is mined.

        Raises:
            LedgerRevert: the contract refuses it; where that is known before sending, no gas is lost.
            LedgerError: the chain is not there, the fee cap is too low, or it was not mined in time. Asking for the
                same call again then goes on with the same transaction. Or an earlier process had sent something
                else that nobody was told of: it is said once, and nothing is sent.
            ConfigError: another process sends with this key from the same directory, or the outbox is damaged.
        """
        with ledger_errors():
            self._refuse_if_closed()
            _ = self._courier  # what another process has open is said before anything is asked
            wanted = self._call(call)
            key = self._key(wanted)
            one = self._adopt(key)
            if one is None:
                self._let_earlier_ones_pass()
                self._own_up(key)
                self._check_contract(wanted.to)
                gas = int(call.estimate_gas({"from": self.account.address}) * GAS_MARGIN)
                with self._lock:
                    self._refuse_if_closed()
                    one = self._courier.begin(key, Call(wanted.to, wanted.data, gas))
                    self._tended_at = 0.0
            return self._wait(one)

    # One transaction

    def _call(self, call: Transactable) -> Call:
        fields = call.build_transaction(
            {
                "from": self.account.address,
                "chainId": self._chain_id,
                "gas": 0,
                "value": Wei(0),
                "maxFeePerGas": Wei(0),
                "maxPriorityFeePerGas": Wei(0),
            }
        )
        data = fields["data"]
        return Call(
            to=str(fields.get("to") or "") or None,
            data=data if isinstance(data, str) else self.w3.to_hex(data),
            gas=0,
        )

    def _key(self, call: Call) -> str:
        digest = keccak(text=f"{call.to} {call.data}").hex()
        return f"{getattr(self._name, 'value', '')}:{digest}"

    def _adopt(self, key: str) -> Pending | None:
        """Return what an earlier attempt left behind for the same purpose, if nobody else waits for it."""
        with self._lock:
            now = unix_time()
            for one in self._courier.pending:
                intent = one.intent
                if intent.key != key or one.claimed or intent.told or intent.state == State.DISPLACED:
                    continue
                if intent.state == State.FINAL and key.startswith(":") and now - intent.made_at > ADOPT_S:
                    continue
                one.claimed = True
                log.warning(
                    "an earlier attempt sent this as %s: going on with it, nothing is sent twice",
                    self.w3.to_hex(intent.versions[-1].hash),
                )
                return one
        return None

    def _let_earlier_ones_pass(self) -> None:
        """Wait for what a killed or impatient caller left open: nothing later can be mined before it."""
        started, pause = monotonic(), self._poll_s
        said = False
        for one in tuple(self._courier.pending):
            while not one.claimed and one.intent.state == State.OPEN:
                if not said:
                    said = True
                    log.warning("waiting for what an earlier command sent: %s", self._courier.name_of(one))
                self._pause(one, started, pause)
                pause = min(pause * 1.3, POLL_MAX_S)

    def _own_up(self, key: str) -> None:
        """Say what an earlier process has done, before anything else is: who types again may want that and no more.

        What has a name is known by that name to whoever gave it.
        """
        if not key.startswith(":"):
            return
        now = unix_time()
        with self._lock:
            left = [
                one
                for one in self._courier.pending
                if one.inherited
                and not one.claimed
                and not one.intent.told
                and one.intent.key.startswith(":")
            ]
            for one in left:
                self._courier.tell(one)
        recent = [self._courier.name_of(one) for one in left if now - one.intent.made_at <= ADOPT_S]
        if recent:
            raise LedgerError(
                f"an earlier command ended without knowing that {', '.join(recent)} would be mined: it is, "
                "and nothing else was sent now",
                hint="see what it did (`murmur stake status`), then type this command again if it is still wanted",
            )

    def _refuse_if_closed(self) -> None:
        if self._closed.is_set():
            raise LedgerError("the sender was closed; what was not mined yet stays in its outbox")

    def _check_contract(self, address: str | None) -> None:
        if address is None or address in self._contracts:
            return
        if not self.w3.eth.get_code(Web3.to_checksum_address(address)):
            raise LedgerError(f"there is no contract at {address}", hint="check chain and address")
        self._contracts.add(address)

    # Waiting

    def _wait(self, one: Pending) -> Receipt:
        started = monotonic()
        pause = self._poll_s
        try:
            while one.receipt is None:
                self._pause(one, started, pause)
                pause = min(pause * 1.3, POLL_MAX_S)
            return self._finished(one)
        except BaseException:
            one.claimed = False
            raise

    def _pause(self, one: Pending, started: float, pause_s: float) -> None:
        """Look after everything; if one is not mined then, wait a little.

        Raises:
            LedgerError: it can never be mined, it took too long, or the sender is closed.
        """
        with self._lock:
            self._refuse_if_closed()
            if one.receipt is None and monotonic() - self._tended_at >= self._poll_s / 2:
                self._courier.tend()
                self._tended_at = monotonic()
            if one.receipt is not None or (one.intent.state != State.OPEN and not one.claimed):
                return
            if one.intent.state == State.DISPLACED:
                raise LedgerError(
                    f"another transaction took nonce {one.intent.nonce} of {self.address}: this one was not done",
                    hint="let one program send with a key; then try again",
                )
        if monotonic() - started > self._timeout_s:
            raise LedgerError(
                f"{self._courier.name_of(one)} was not mined in {self._timeout_s:.0f} s"
                + (f": {one.trouble}" if one.trouble else ""),
                hint="it stays in the outbox, and the same command goes on with it; is the chain making blocks?",
            )
        self._closed.wait(pause_s)

    # What became of it

    def _finished(self, one: Pending) -> Receipt:
        receipt = one.receipt
        assert receipt is not None
        tx = self.w3.to_hex(receipt["transactionHash"])
        if receipt["status"] != 1:
            with self._lock:
                self._courier.tell(one)
            raise self._revert_reason(one.intent.call, receipt["blockNumber"], tx)
        contract = receipt.get("contractAddress")
        return Receipt(
            tx=tx,
            block=int(receipt["blockNumber"]),
            block_hash=bytes(receipt["blockHash"]),
            gas_used=int(receipt["gasUsed"]),
            fee_wei=int(receipt["gasUsed"]) * int(receipt["effectiveGasPrice"]),
            contract=str(contract) if contract else None,
        )

    def _revert_reason(self, call: Call, block: int, tx: str) -> LedgerError:
        # Earlier transactions of the block belong to the state that refused it: its end is the nearest.
        fields: dict[str, Any] = {"from": self.account.address, "data": call.data, "gas": call.gas}
        if call.to is not None:
            fields["to"] = call.to
        try:
            with ledger_errors():
                self.w3.eth.call(fields, block)  # type: ignore[arg-type]
        except LedgerRevert as error:
            return error
        except LedgerError:  # that block's state is gone; the transaction is still named
            pass
        return LedgerError(f"transaction {tx} reverted in block {block}")

"""The events of ledger and jury as a list that follows the chain, also when the chain reorganises."""

import threading

from web3 import Web3
from web3.exceptions import BlockNotFound, Web3RPCError
from web3.types import BlockData, FilterParams, LogReceipt

from contracts.chain import block_hash, get_block, ledger_errors, network_of
from contracts.client import Ledger
from contracts.events import Event, parse_log
from protocol.errors import LedgerError

CHUNK_BLOCKS = 2000
FINAL_EVERY_BLOCKS = 8  # how often a chain with a tag is asked what is final
MARKS_MAX = 4096


class EventIndex:
    """Index the events of one ledger in memory.

    Marks, hashes of blocks that were read, tell whether the chain is still the one that the events came from:
    when the highest mark no longer holds, all above the highest one that does is dropped and read again, down to
    the newest final block. What is final, by the network's tag or number of blocks, is never dropped.
    Block 0 is never read: the local chain may change its hash when it resumes from its state file.
    """

    def __init__(self, ledger: Ledger, start_block: int) -> None:
        """Start before anything was read.

        Args:
            ledger: whose events.
            start_block: the block that created the ledger, or an earlier one; its events are included.
        """
        self.ledger = ledger
        self.rollbacks = 0  # how often blocks were dropped
        self.final_height = 0  # the newest block that is known to be final and whose hash is known
        self._w3: Web3 = ledger.w3
        self._start = max(start_block, 1)
        self._chunk = CHUNK_BLOCKS
        self._marks: dict[int, bytes] = {}  # block number -> hash, ascending; the last is the height
        self._blocks: dict[
            int, tuple[bytes, int]
        ] = {}  # hash and time asked for, valid while the marks above are
        self._events: list[Event] = []
        self._snapshot: tuple[Event, ...] = ()
        self._changed = False  # since the snapshot
        self._asked_at = 0  # height at which the chain was last asked what is final
        self._returned = 0  # how many events `poll` has returned
        self._lock = threading.Lock()

    @property
    def events(self) -> tuple[Event, ...]:
        """Return all events up to `height` in chain order; the same object until they change."""
        return self._snapshot

    @property
    def height(self) -> int:
        """Return the last block whose events are in; one below the start before the first poll."""
        return next(reversed(self._marks), self._start - 1)

    def poll(self) -> list[Event]:
        """Read what the chain has added since, and return it; events of a fork that was left go first.

        Raises:
            LedgerError: the chain does not answer, loses a block while it is read, or no longer has a block that
                was final.
        """
        with self._lock, ledger_errors():
            try:
                latest = self._block("latest")
                if not self._follows(latest):
                    self._rollback()
                    latest = self._block("latest")
                while self._advance(latest):
                    latest = self._block("latest")
                self._finalize()
            finally:
                if self._changed:
                    self._snapshot = tuple(self._events)
                    self._changed = False
            added = self._events[self._returned :]
            self._returned = len(self._events)
            return added

    def block_hash(self, number: int) -> bytes | None:
        """Return the hash of a block of the indexed chain, or None above `height` and after an unread fork.

        Raises:
            LedgerError: the chain does not answer.
        """
        with self._lock, ledger_errors():
            known = self._marks.get(number)
            if known is not None:
                return known
            found = self._settled_block(number)
            return None if found is None else found[0]

    def block_time(self, number: int) -> int | None:
        """Return the Unix second that a block of the indexed chain bears, or None where `block_hash` does.

        Raises:
            LedgerError: the chain does not answer.
        """
        with self._lock, ledger_errors():
            found = self._settled_block(number)
            return None if found is None else found[1]

    def _settled_block(self, number: int) -> tuple[bytes, int] | None:
        if number in self._blocks or not 1 <= number <= self.height:
            return self._blocks.get(number)
        found = get_block(self._w3, number)
        top = self.height
        # Asked after the block itself: if the top still stands, so does everything below it.
        if found is None or block_hash(self._w3, top) != self._marks[top]:
            return None
        self._blocks[number] = bytes(found["hash"]), int(found["timestamp"])
        return self._blocks[number]

    def _follows(self, latest: BlockData) -> bool:
        """Tell whether the newest block is the highest mark, or the one right after it."""
        name = "hash" if latest["number"] == self.height else "parentHash"
        return (
            latest["number"] - self.height in (0, 1) and self._marks.get(self.height) == bytes(latest[name])  # type: ignore[literal-required]
        )

    def _rollback(self) -> None:
        """Drop what is above the highest mark that still holds.

        Raises:
            LedgerError: that is below a block that was final.
        """
        holds = next((number for number in reversed(self._marks) if self._holds(number)), self._start - 1)
        if holds == self.height:
            return
        if holds < self.final_height:
            raise LedgerError(
                f"the chain no longer has block {self.final_height}, which was final by "
                f"{network_of(self._w3).final_after!r}",
                hint="an RPC endpoint lies, or the network's --finality is too weak: check, then start again",
            )
        self._marks = {number: mark for number, mark in self._marks.items() if number <= holds}
        self.rollbacks += 1
        self._events = [event for event in self._events if event.block <= self.height]
        self._blocks = {n: value for n, value in self._blocks.items() if n <= self.height}
        self._returned = min(self._returned, len(self._events))
        self._changed = True

    def _advance(self, latest: BlockData) -> bool:
        """Read one chunk of what lies below the newest block; tell whether there is more."""
        low = self.height + 1
        high = min(latest["number"], low + self._chunk - 1)
        if high < low:
            return False
        end = latest if high == latest["number"] else self._block(high)
        logs = self._logs_of(end) if high == low and self._follows(end) else None
        if logs is None:
            try:
                logs = self._logs({"fromBlock": low, "toBlock": high})
            except Web3RPCError:
                if self._chunk == 1:
                    raise
                self._chunk //= 2  # endpoints limit ranges and results
                return True
            # The logs belong to the indexed chain only if both ends stand after they were read.
            if block_hash(self._w3, high) != bytes(end["hash"]) or not self._top_holds():
                return False  # a fork happened meanwhile; the next poll sorts it out
        self._changed = self._changed or bool(logs)
        logs = sorted(logs, key=lambda log: (log["blockNumber"], log["logIndex"]))
        self._events += [event for event in map(parse_log, logs) if event is not None]
        self._marks |= {int(log["blockNumber"]): bytes(log["blockHash"]) for log in logs}
        self._marks[high] = bytes(end["hash"])
        return high < latest["number"]

    def _logs_of(self, block: BlockData) -> list[LogReceipt] | None:
        """Return the logs of one block by its hash (EIP-234), which no fork can mix up; None if it is gone."""
        try:
            return self._logs({"blockHash": block["hash"]})
        except (Web3RPCError, BlockNotFound):
            return None

    def _logs(self, where: FilterParams) -> list[LogReceipt]:
        addresses = [self.ledger.contract.address, self.ledger.jury.contract.address]
        return self._w3.eth.get_logs({"address": addresses, **where})

    def _top_holds(self) -> bool:
        return self.height < self._start or self._holds(self.height)

    def _holds(self, number: int) -> bool:
        return block_hash(self._w3, number) == self._marks[number]

    def _finalize(self) -> None:
        """Learn what is final, and forget marks that nothing can go back to."""
        finality, height = network_of(self._w3).final_after, self.height
        if isinstance(finality, int):
            final = height - finality
        elif self._asked_at and height - self._asked_at < FINAL_EVERY_BLOCKS:
            return
        else:
            self._asked_at = height
            block = self._block(finality)
            final = block["number"]
            if self._start <= final < height:
                self._marks = dict(sorted({**self._marks, final: bytes(block["hash"])}.items()))
        # A block without a mark cannot be told from another one at its height.
        marked = max((number for number in self._marks if number <= final), default=0)
        self.final_height = max(self.final_height, marked)
        if len(self._marks) > MARKS_MAX:
            kept = self.final_height
            self._marks = {number: mark for number, mark in self._marks.items() if number >= kept}

    def _block(self, which: int | str) -> BlockData:
        block = get_block(self._w3, which)  # type: ignore[arg-type]
        if block is None:
            raise LedgerError(f"the chain has no block {which}")
        return block

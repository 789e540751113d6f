"""The coordinator's transactions: each is sent until it stands on chain, and what became of it is stored."""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from contracts.reverts import LedgerRevert
from contracts.run import ChainRun
from contracts.sender import Sender
from contracts.types import CaseKind, Receipt
from coordinator.state import (
    Accuse,
    Anchor,
    Close,
    Event,
    Finalize,
    Open,
    Post,
    Propose,
    Proposed,
    Transaction,
)
from coordinator.writer import Writer
from protocol.errors import LedgerError

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
PAUSE_MAX_S = 20.0
TOO_LATE = "WindowClosed"  # what the jury says to an accusation that it will refuse for ever

# What the ledger says when somebody, or an earlier life of this process, was there before us.
DONE_BEFORE = {
    "CaseExists",
    "RewardsPending",
    "WrongEpoch",
    "NoPendingRewards",
}

Write = Callable[[Callable[[Writer], Any]], Awaitable[Any]]
"""Run a function of a `Writer` in one transaction of the database, in a worker thread."""


def label(effect: Transaction) -> tuple[str, int | None, int | None]:
    """Return how a transaction is named in the database: kind, round (or epoch), number."""
    match effect:
        case Open():
            return "open run", None, None
        case Post(round_, _, _):
            return "post commitments", round_, None
        case Anchor(round_, _):
            return "anchor record", round_, None
        case Accuse(round_, number):
            return "accuse", round_, number
        case Propose(epoch):
            return "propose rewards", epoch, None
        case Finalize(epoch):
            return "finalize rewards", epoch, None
        case Close():
            return "finish run", None, None


def stands(effect: Transaction, chain: ChainRun) -> bool:
    """Tell whether the chain already shows what a transaction is for."""
    match effect:
        case Open():
            return chain.anchor(-1) is not None
        case Post(round_, _, _):
            return chain.commitments(round_) is not None
        case Anchor(round_, _):
            return chain.record_hash(round_) is not None
        case Accuse(round_, number, segment, refusal=refusal):
            about = (CaseKind.REFUSAL if refusal else CaseKind.ACCUSATION, round_, number, segment)
            return any((one.kind, one.round, one.number, one.segment) == about for one in chain.every_case())
        case Propose(epoch) | Finalize(epoch):
            return epoch in chain.finalized()
        case Close():
            return chain.finished() is not None


def send(effect: Transaction, chain: ChainRun, sender: Sender) -> Receipt:
    """Send one transaction and wait until it is mined. Blocks; raises `LedgerError`.

    A process that was killed goes on with what it had sent for the same effect.
    """
    kind, round_, number = label(effect)
    with sender.intent(f"{chain.run} {kind} {round_} {number}"):
        return _send(effect, chain, sender)


def _send(effect: Transaction, chain: ChainRun, sender: Sender) -> Receipt:
    ledger, run = chain.ledger, chain.run
    match effect:
        case Open():
            return ledger.open_run(sender, run)
        case Post(round_, root, count):
            return ledger.post_commitments(sender, run, round_, bytes.fromhex(root), count)
        case Anchor(round_, record):
            return ledger.anchor_record(sender, run, round_, bytes.fromhex(record))
        case Accuse(round_, number, segment, finder, evidence, refusal):
            shown = bytes.fromhex(evidence)
            case = ledger.jury.accuse(sender, run, round_, number, segment, finder, shown, refusal=refusal)
            log.info("round %d, number %d: case %d before the jury", round_, number, case.case)
            return case.receipt
        case Propose(epoch, previous, root, total):
            before, proposed = bytes.fromhex(previous), bytes.fromhex(root)
            return ledger.propose_rewards(sender, run, epoch, before, proposed, total)
        case Finalize():
            return ledger.finalize_rewards(sender, run)
        case Close(parameters):
            return ledger.finish_run(sender, run, bytes.fromhex(parameters))


class Sending:
    """Perform the machine's transactions with one wallet."""

    def __init__(
        self, chain: ChainRun, sender: Sender, write: Write, deliver: Callable[[Event], None]
    ) -> None:
        self._chain = chain
        self._sender = sender
        self._write = write
        self._deliver = deliver
        self.trouble: dict[tuple[str, int | None, int | None], str] = {}  # what does not get through, and why

    async def perform(self, effect: Transaction) -> None:
        """Send a transaction until it stands; a chain that is slow or away is waited for."""
        name = label(effect)
        if stands(effect, self._chain):
            return
        row: int = await self._write(lambda tx: tx.sending(*name))
        pause = FIRST_PAUSE_S
        while True:
            try:
                attempt = partial(send, effect, self._chain, self._sender)
                receipt = await trio.to_thread.run_sync(attempt, abandon_on_cancel=True)
            except LedgerError as error:
                refusal = error.name if isinstance(error, LedgerRevert) else ""
                if refusal in DONE_BEFORE or stands(effect, self._chain):
                    await self._write(lambda tx: tx.sent(row, "done before"))
                    break
                if isinstance(effect, Accuse) and refusal == TOO_LATE:
                    await self._write(partial(_refused, row=row, reason=error.message))
                    log.error("%s %s: given up: %s", name[0], name[1:], error)
                    break
                if self.trouble.get(name) != error.message:
                    log.warning("%s %s: %s", name[0], name[1:], error)
                self.trouble[name] = error.message
                await trio.sleep(pause)
                pause = min(2 * pause, PAUSE_MAX_S)
            else:
                await self._write(partial(_mined, row=row, effect=effect, receipt=receipt))
                await trio.to_thread.run_sync(self._sender.acknowledge, receipt, abandon_on_cancel=True)
                log.info("%s %s: block %d, %d gas", name[0], name[1:], receipt.block, receipt.gas_used)
                if isinstance(effect, Propose):
                    self._deliver(Proposed(effect.epoch, receipt.block))
                break
        self.trouble.pop(name, None)


def _refused(tx: Writer, *, row: int, reason: str) -> None:
    tx.sent(row, "refused", detail=reason)


def _mined(tx: Writer, *, row: int, effect: Transaction, receipt: Receipt) -> None:
    tx.sent(row, "mined", tx=receipt.tx, block=receipt.block, gas=receipt.gas_used)
    match effect:
        case Open():
            tx.began(0)
        case Post(round_, _, _):
            tx.posted(round_, root_block=receipt.block)
        case Anchor(round_, _):
            tx.posted(round_, record_block=receipt.block)
            tx.began(round_ + 1)
        case _:
            pass

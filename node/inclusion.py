"""How a contributor forces its commitment in: transactions of the hot peer key, each exactly once.

The hot key pays the gas; it can move neither stake nor pay.
"""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import trio
from eth_account import Account
from eth_utils.address import to_checksum_address

from contracts.chain import ledger_errors
from contracts.reverts import LedgerRevert
from contracts.run import ChainRun
from contracts.sender import Sender
from contracts.types import Receipt
from node.events import Force
from protocol.chain import ChainView
from protocol.errors import ConfigError, LedgerError
from protocol.keys import PeerKey

log = logging.getLogger(__name__)

GAS_A_FORCING: Final = 120_000  # with the margin that senders add
FORCINGS_AHEAD: Final = 5  # for so many the hot key should hold coin
PURSE_INTERVAL_S: Final = 60.0
PAUSE_S: Final = 0.25
PAUSE_MAX_S: Final = 4.0  # well below a window, so that a chain that answers again is not slept through


@dataclass(frozen=True)
class Purse:
    """What the hot key holds for gas, in wei of the chain's coin."""

    address: str
    coin_wei: int
    needed_wei: int  # that a few forced commitments cost at the present price

    @property
    def warning(self) -> str | None:
        """Return what the owner should do, or None."""
        if self.coin_wei >= self.needed_wei:
            return None
        return (
            f"the hot key {self.address} holds {self.coin_wei} wei of coin, and a commitment that the coordinator "
            f"leaves out is forced in at its cost: send it {self.needed_wei} wei or more"
        )


class Inclusion:
    """Force one contributor's commitments into the rounds of a run (`Forcing`). Every method blocks."""

    def __init__(self, chain: ChainRun, sender: Sender) -> None:
        """Bind a run to the sender of the hot key."""
        self._chain = chain
        self._sender = sender

    @classmethod
    def open(cls, chain: ChainRun, key: PeerKey, directory: Path) -> "Inclusion":
        """Reach the ledger with a peer's hot key; what it sends is written down in its directory.

        Raises:
            LedgerError: the chain does not answer.
        """
        return cls(chain, Sender.open(chain.ledger.w3, Account.from_key(key.secret), directory))

    def close(self) -> None:
        """Make every transaction that still waits give up."""
        self._sender.close()

    def purse(self) -> Purse:
        """Read what the hot key holds.

        Raises:
            LedgerError: the chain does not answer.
        """
        w3 = self._chain.ledger.w3
        with ledger_errors():
            coin = int(w3.eth.get_balance(to_checksum_address(self._sender.address)))
            price = int(w3.eth.gas_price)
        return Purse(self._sender.address, coin, FORCINGS_AHEAD * GAS_A_FORCING * price)

    def force(self, round_: int, commitment: str) -> Receipt | None:
        """Put a commitment's id into a round and wait until it is mined; None if it is there already.

        Raises:
            LedgerRevert: the ledger refuses it for good: the window is closed, or there is no stake.
            LedgerError: the chain does not answer, or the hot key has no coin for gas.
            ConfigError: another process sends with the hot key from its directory.
        """
        chain = self._chain
        try:
            with self._sender.intent(f"{chain.run} force {round_}"):
                found = chain.ledger.force_commitment(
                    self._sender, chain.run, round_, bytes.fromhex(commitment)
                )
        except LedgerRevert as error:
            if error.name == "AlreadyForced":
                return None
            raise
        self._sender.acknowledge(found)
        return found


class Forcing(Protocol):
    """What `Forcer` needs of the chain; `Inclusion` is one. Both methods block."""

    def purse(self) -> Purse:
        """Read what the hot key holds."""

    def force(self, round_: int, commitment: str) -> Receipt | None:
        """Put a commitment's id into a round."""

    def close(self) -> None:
        """Make everything that still waits give up."""


class Forcer:
    """Force commitments in beside everything else a node does, and say what stands in the way."""

    def __init__(self, forcing: Forcing | None, chain: ChainView, number: int) -> None:
        """Start without trouble.

        Args:
            forcing: None where there is no ledger to write to.
            number: of the node.
        """
        self._forcing = forcing
        self._chain = chain
        self._number = number
        self._poor: str | None = None
        self._failed: str | None = None

    @property
    def warnings(self) -> list[str]:
        """Return what the owner should do something about."""
        return [one for one in (self._poor, self._failed) if one is not None]

    async def watch(self) -> None:
        """Look for ever at whether the hot key can pay; says so in the log once each time it cannot."""
        while self._forcing is not None:
            try:
                purse = await trio.to_thread.run_sync(self._forcing.purse, abandon_on_cancel=True)
            except LedgerError as error:
                log.info("what the hot key holds is not known: %s", error)
            else:
                if purse.warning is not None and self._poor is None:
                    log.warning("%s", purse.warning)
                self._poor = purse.warning
            await trio.sleep(PURSE_INTERVAL_S)

    async def force(self, effect: Force) -> None:
        """Force a commitment in, again and again with growing pauses while the window is open and it fails."""
        log.warning("round %d: left out by the list; forcing %s in", effect.round, effect.commitment)
        pause = PAUSE_S
        while self._chain.height < effect.until and self._number not in self._chain.forced(effect.round):
            try:
                receipt = await self._try(effect)
            except (LedgerError, ConfigError) as error:
                self._failed = f"round {effect.round}: our commitment is not forced in: {error.message}"
                log.error("%s", self._failed)
                if isinstance(error, LedgerRevert):
                    return
                await trio.sleep(pause)
                pause = min(2 * pause, PAUSE_MAX_S)
            else:
                self._failed = None
                if receipt is not None:
                    log.info(
                        "round %d: forced in, block %d, %d gas", effect.round, receipt.block, receipt.gas_used
                    )
                return

    async def _try(self, effect: Force) -> Receipt | None:
        if self._forcing is None:
            raise ConfigError("this node has no ledger to write to")
        attempt = partial(self._forcing.force, effect.round, effect.commitment)
        return await trio.to_thread.run_sync(attempt, abandon_on_cancel=True)

"""Which beacon belongs to an anchoring block: a later block's hash on a local chain, a drand round elsewhere.

The block that anchors a record fixes its beacon, by its number or by its time, before anybody can know it.
"""

from collections.abc import Iterable
from typing import Protocol

from contracts.drand import seed_proof
from contracts.index import EventIndex
from protocol.beacon_config import BlockBeacon, DrandBeacon
from protocol.beacons import SignatureSource
from protocol.drand import verify_beacon
from protocol.errors import LedgerError, NetworkError

AT_ONCE = 16
"""How many rounds are looked for in one go: a late joiner's chain view stays quick while it catches up."""


class Beacons(Protocol):
    """Bring the beacons of anchoring blocks."""

    def update(self, index: EventIndex, anchors: Iterable[int]) -> None:
        """Look for beacons that are not here yet.

        Raises:
            LedgerError: the chain does not answer, or a beacon that is due cannot be found.
        """

    def forget(self) -> None:
        """Drop what depends on blocks that a reorganisation may have replaced."""

    def after(self, anchor: int) -> str | None:
        """Return the beacon of an anchoring block, 64 hex digits, once it is here."""

    def drand_round(self, anchor: int) -> int | None:
        """Return the drand round that an anchor's time fixes, where drand is asked and the time is known."""

    def seed_proof(self, round_: int, height: int) -> bytes | None:
        """Return what the jury's beacon on chain wants to see of a round, or None before it is there. May block.

        Raises:
            LedgerError: it is due, and nobody has it.
        """


class BlockBeacons:
    """Take the hash of the block after the anchor."""

    def __init__(self) -> None:
        self._hashes: dict[int, str] = {}  # by anchor

    def update(self, index: EventIndex, anchors: Iterable[int]) -> None:
        """Read the hashes of blocks that exist.

        Raises:
            LedgerError: the chain does not answer.
        """
        for anchor in anchors:
            if anchor not in self._hashes and anchor < index.height:
                value = index.block_hash(anchor + 1)
                if value is not None:
                    self._hashes[anchor] = value.hex()

    def forget(self) -> None:
        """Drop every hash."""
        self._hashes = {}

    def after(self, anchor: int) -> str | None:
        """Return the hash of the block after the anchor."""
        return self._hashes.get(anchor)

    def drand_round(self, anchor: int) -> int | None:
        """Return nothing: no drand round is asked."""
        return None

    def seed_proof(self, round_: int, height: int) -> bytes | None:
        """Return nothing once the block is there: the chain knows its own hashes."""
        return b"" if height > round_ else None


class DrandBeacons:
    """Take the first drand round that is published a margin after the anchor's time."""

    def __init__(self, config: DrandBeacon, source: SignatureSource, *, at_once: int = AT_ONCE) -> None:
        self._config = config
        self._source = source
        self._at_once = at_once
        self._rounds: dict[int, int] = {}  # by anchor
        self._randomness: dict[int, str] = {}  # by drand round; true on every fork

    def update(self, index: EventIndex, anchors: Iterable[int]) -> None:
        """Look for signatures, those of the newest anchors first.

        Raises:
            LedgerError: the chain does not answer, or nobody has a round that is due.
            Malformed: the source gave a signature that does not hold.
        """
        looked = 0
        for anchor in sorted(anchors, reverse=True):
            if anchor not in self._rounds:
                time = index.block_time(anchor)
                if time is None:
                    continue
                self._rounds[anchor] = self._config.round_after(time)
            round_ = self._rounds[anchor]
            if round_ in self._randomness:
                continue
            looked += 1
            if looked > self._at_once:
                return
            try:
                signature = self._source.find(self._config.chain, round_)
            except NetworkError as error:
                raise LedgerError(error.message, hint=error.hint) from error
            if signature is not None:
                self._randomness[round_] = verify_beacon(self._config.public_key, round_, signature)

    def forget(self) -> None:
        """Drop the anchors' times; what drand signed stays true."""
        self._rounds = {}

    def after(self, anchor: int) -> str | None:
        """Return the randomness of the anchor's drand round."""
        return self._randomness.get(self._rounds.get(anchor, 0))

    def drand_round(self, anchor: int) -> int | None:
        """Return the drand round that an anchor's time fixes."""
        return self._rounds.get(anchor)

    def seed_proof(self, round_: int, height: int) -> bytes | None:
        """Return the round's signature, written out for the chain.

        Raises:
            LedgerError: it is due, and nobody has it.
        """
        try:
            signature = self._source.find(self._config.chain, round_)
        except NetworkError as error:
            raise LedgerError(error.message, hint=error.hint) from error
        return None if signature is None else seed_proof(self._config.public_key, round_, signature)


def beacons_of(
    config: BlockBeacon | DrandBeacon, source: SignatureSource | None, at_once: int = AT_ONCE
) -> Beacons:
    """Return what brings the beacons that a manifest demands.

    Raises:
        LedgerError: it demands drand, and there is no source of signatures.
    """
    if isinstance(config, BlockBeacon):
        return BlockBeacons()
    if source is None:
        raise LedgerError("the run takes its beacons from drand, and no source of signatures is set")
    return DrandBeacons(config, source, at_once=at_once)

"""The public blobs of a run, held for whoever asks: the first parameters, and every update that was merged.

With them and the messages anybody recomputes the parameters of every round, so that a run can be audited when its
coordinator is gone. A peer with a cap keeps a pseudo-random part, another one than its neighbours. Where rounds have
joint updates, everybody holds these, and who holds which of the updates that they were made of is the caller's choice.
"""

import logging
from collections.abc import Callable

import trio

from protocol.canonical import digest
from protocol.errors import NetworkError
from protocol.joint import max_joint_bytes
from protocol.peer import Peer
from protocol.published import max_published_bytes

log = logging.getLogger(__name__)

LOOK_S = 1.0
PAUSE_MAX_S = 60.0  # after fetches of which none succeeded
FETCH_DEADLINE_S = 30.0


class Shelf:
    """Know which blobs are public, and bring those that are not here yet."""

    def __init__(
        self,
        peer: Peer,
        *,
        parameter_bytes: int,
        number: int = 0,
        max_bytes: int | None = None,
        holds: Callable[[int, int], bool] = lambda round_, number: True,
    ) -> None:
        """Start with the first parameters.

        Args:
            parameter_bytes: size of a file of global parameters.
            number: our registration number, which decides what to drop under a cap.
            max_bytes: keep at most so much; None keeps everything.
            holds: tells whether the update of a round's number is among what is kept.
        """
        self._peer = peer
        self._number = number
        self._max_bytes = max_bytes
        self._holds = holds
        self._update_bytes = max_published_bytes(peer.manifest)
        self._joint_bytes = max_joint_bytes(peer.manifest)
        self._sizes = {peer.manifest.initial_parameters: parameter_bytes}
        self._owners: dict[str, tuple[int, ...]] = {}
        self._waiting = list(range(peer.manifest.rounds))
        self.kept: frozenset[str] = frozenset(self._sizes)

    def look(self) -> None:
        """Take in the rounds whose anchored record is known now."""
        chain, pool, waiting = self._peer.chain, self._peer.pool, list[int]()
        for place, round_ in enumerate(self._waiting):
            anchored = chain.record_hash(round_)
            if anchored is None:
                waiting += self._waiting[place:]
                break
            record = pool.record(round_)
            if record is None or record.body.digest().hex() != anchored:
                waiting.append(round_)
                continue
            reveals = pool.reveals(round_)
            if record.body.joint is not None:
                self._sizes[record.body.joint] = self._joint_bytes
            for unit in record.body.units:
                if unit.merged and unit.blob is not None and self._holds(round_, unit.number):
                    reveal = reveals.get(unit.number)
                    told = self._update_bytes
                    if reveal is not None and reveal.body.blob == unit.blob:
                        told = reveal.body.blob_bytes
                    self._sizes[unit.blob] = min(told, self._update_bytes)
                    self._owners[unit.blob] = (unit.number,)
        if waiting != self._waiting:
            self._waiting = waiting
            self.kept = self._choose()

    def _choose(self) -> frozenset[str]:
        if self._max_bytes is None:
            return frozenset(self._sizes)
        first = self._peer.manifest.initial_parameters
        order = sorted(self._sizes, key=lambda one: (one != first, digest(f"{self._number} {one}".encode())))
        kept, left = set[str](), self._max_bytes
        for address in order:
            left -= self._sizes[address]
            if left < 0:
                break
            kept.add(address)
        return frozenset(kept)

    async def run(self) -> None:
        """Bring what is missing, one blob after the other, for ever."""
        pause = LOOK_S
        while True:
            self.look()
            missing = [address for address in self.kept if not self._peer.store.has(address)]
            brought = 0
            for address in missing:
                try:
                    await self._peer.fetch(
                        address,
                        max_size=self._sizes[address],
                        deadline_s=FETCH_DEADLINE_S,
                        numbers=self._owners.get(address, ()),
                    )
                    brought += 1
                except NetworkError as error:
                    log.debug("public blob: %s", error)
            pause = LOOK_S if brought or not missing else min(2 * pause, PAUSE_MAX_S)
            await trio.sleep(pause)

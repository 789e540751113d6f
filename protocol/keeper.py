"""Keeping checkpoints while a run goes on: beside the rounds, which never wait for it."""

import logging
from collections.abc import Mapping

import trio

from protocol.blobs import BlobStore
from protocol.checkpoints import Checkpoints
from protocol.errors import MurmurError

log = logging.getLogger(__name__)

RECENT = 2
"""Newest parameters whose blobs stay: whoever takes a run up again aggregates its newest record from them."""


class Keeper:
    """Make checkpoints of a run's parameters as they come, and let go of blobs that nobody needs any more."""

    def __init__(self, checkpoints: Checkpoints, store: BlobStore, max_bytes: int) -> None:
        """Go on after the newest checkpoint.

        Args:
            max_bytes: cap on all checkpoints; the first and the last stay beyond it.
        """
        self._checkpoints = checkpoints
        self._store = store
        self._max_bytes = max_bytes
        self._next = max((one.round for one in checkpoints.kept()), default=-1) + 1
        self._seen: dict[int, str] = {}
        self._parameters: Mapping[int, str] = {}
        self._settled = 0
        self._swept = 0
        self._woken = trio.Event()

    def wake(self, parameters: Mapping[int, str], settled: int = 0) -> None:
        """Tell which parameters are in the store.

        Args:
            parameters: roots by round.
            settled: the blobs of rounds before this one may go, but for the first, the newest two, and those that are
                a later round's.
        """
        self._parameters, self._settled = parameters, settled
        self._woken.set()

    async def run(self) -> None:
        """Keep for ever. What cannot be kept is logged and left out."""
        while True:
            due = [
                (round_, root)
                for round_, root in sorted(self._parameters.items())
                if self._is_due(round_, root)
            ]
            for round_, root in due:
                await trio.to_thread.run_sync(self._keep, round_, root)
                self._seen[round_] = root
                self._next = max(self._next, round_ + 1)
            if not due:
                self._sweep()
                await self._woken.wait()
                self._woken = trio.Event()

    def _is_due(self, round_: int, root: str) -> bool:
        """Tell whether a round is later than all that are kept, or starts from other parameters than it did."""
        return round_ >= self._next or self._seen.get(round_, root) != root

    def _keep(self, round_: int, root: str) -> None:
        try:
            if self._checkpoints.add(round_, root, self._store.path(root)):
                log.info("round %d: checkpoint %s kept", round_, root[:16])
            for one in self._checkpoints.prune(self._max_bytes):
                log.info("round %d: checkpoint let go, to stay below the cap", one.round)
        except (MurmurError, OSError) as error:
            log.error("no checkpoint of round %d: %s", round_, error)

    def _sweep(self) -> None:
        parameters = self._parameters
        settled = min(self._settled, self._next, max(parameters, default=0) + 1 - RECENT)
        needed = {root for round_, root in parameters.items() if round_ == 0 or round_ >= settled}
        for round_ in range(self._swept, settled):
            root = parameters.get(round_)
            if root is not None and root not in needed:
                self._store.delete(root)
        self._swept = max(self._swept, settled)

"""The daemon's side of the replayer: keep the child running, and bring the files a replay needs."""

import logging
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import trio

from protocol.daemon import MANIFEST_FILE
from protocol.errors import NetworkError
from protocol.messages import Opening, Signed
from protocol.peer import Peer
from protocol.worker import Worker
from training.program import check_program
from training.workbench import DeviceLoadRequest, child_environment
from verification.config import REPLAYER_LOG_FILE, VerifierConfig
from verification.opening import needed_files
from verification.profile import Machine
from verification.request import BeginAnswer, FindAnswer, ReplayAnswer, ReplayRequest
from verification.unit import DrawnUnit, Finding, NeededFile, ReplayReport

log = logging.getLogger(__name__)

REPLAYER_NICE = 5  # messages come before replays
LOAD_DEADLINE_S = 600.0  # includes preparing the token shard
REPLAY_DEADLINE_S = 3600.0
FETCH_DEADLINE_S = 20.0
FIND_DEADLINE_S = (
    8.0  # of one try of a juror's, which the next one resumes: it should not try beyond its time to vote
)


class NotServed(NetworkError):
    """Report files of an opening that nobody delivers."""


def check_connection(peer: Peer) -> None:
    """Refuse to call something not served while it may be us who are cut off.

    Raises:
        NetworkError: we have no peers, or no chain.
    """
    if peer.chain_error is not None:
        raise NetworkError(f"the chain does not answer: {peer.chain_error}")
    if not peer.network.connected_peers():
        raise NetworkError("no peer is connected, so that nothing can be fetched")


class ReplayBench:
    """Replay units in a child process that is started again whenever it dies."""

    def __init__(self, config: VerifierConfig, peer: Peer) -> None:
        self._config = config
        self._peer = peer
        self._lock = trio.Lock()
        self.machine: Machine | None = None  # what the child computes, once `prepare` has asked it
        self._worker = Worker(
            [sys.executable, "-m", "verification.replayer"],
            log_path=config.directory / REPLAYER_LOG_FILE,
            env=dict(os.environ) | child_environment(config.threads),
            nice=REPLAYER_NICE,
        )

    @property
    def alive(self) -> bool:
        """Tell whether the child runs."""
        return self._worker.alive

    @property
    def pid(self) -> int | None:
        """Return the child's process id, or None when it is not running."""
        return self._worker.pid

    async def prepare(self) -> str:
        """Start the child and return the program digest that it reproduced.

        Raises:
            ConfigError: dataset or device are not what the run needs, or the digest is not the manifest's.
            OwnFault: the process does not start.
        """
        await self._worker.start()
        config = self._config
        request = DeviceLoadRequest(
            manifest_path=config.directory / MANIFEST_FILE,
            store=self._peer.store.root,
            data_dir=config.shards,
            data=config.data,
            threads=config.threads,
            device=config.device,
        )
        answer = await self._worker.call("load", request.params(), deadline_s=LOAD_DEADLINE_S)
        self.machine = Machine.model_validate(answer.get("machine"))
        return check_program(self._peer.manifest, answer.get("program"))

    async def close(self) -> None:
        """End the child."""
        await self._worker.stop()

    async def bring(self, unit: DrawnUnit, opening: Opening, *, late: bool) -> None:
        """Fetch the files of a replay: those it begins with, or (`late`) those it is compared with.

        Raises:
            NotServed: files that the accused must serve did not come.
            NetworkError: the round's public parameters did not come, which is not the accused's doing.
        """
        needed = needed_files(self._peer.manifest, unit, opening)
        await self._bring([file for file in needed if file.late is late], FETCH_DEADLINE_S, (unit.number,))

    async def _bring(self, files: Iterable[NeededFile], deadline_s: float, numbers: Sequence[int]) -> None:
        failed: dict[str, NetworkError] = {}

        async def fetch(file: NeededFile) -> None:
            asked = () if file.public else numbers
            try:
                await self._peer.fetch(
                    file.address, max_size=file.bytes, deadline_s=deadline_s, numbers=asked
                )
            except NetworkError as error:
                failed[file.role] = error

        async with trio.open_nursery() as nursery:
            for file in files:
                nursery.start_soon(fetch, file)
        for role in ("parameters", "joint_before"):  # everybody holds them
            if role in failed:
                raise failed[role]
        if failed:
            raise NotServed(f"{', '.join(sorted(failed))} not served")

    async def begin(
        self, unit: DrawnUnit, opening: Signed[Opening]
    ) -> tuple[tuple[float, ...], ReplayReport | None]:
        """Replay a unit whose start is in the store; return the fingerprint to seal, or a report that needs no end.

        Raises:
            NetworkError: a file is gone from the store.
            ProofInconclusive: the round's public parameters are unreadable.
            OwnFault: the child failed or died.
            ConfigError: a child that had to be restarted does not fit the run any more.
        """
        answer = BeginAnswer.model_validate(await self._call("begin", unit, opening))
        return answer.fingerprint, None if answer.report is None else answer.report.report()

    async def compare(self, unit: DrawnUnit, opening: Signed[Opening]) -> ReplayReport:
        """Compare a unit's replay with its end in the store; a replay that is gone is done again.

        Raises:
            As `begin`.
        """
        return ReplayAnswer.model_validate(await self._call("compare", unit, opening)).report()

    async def find(self, unit: DrawnUnit, opening: Signed[Opening], holders: Sequence[int] = ()) -> Finding:
        """Judge a segment as a juror does, with its files from whoever holds them.

        Args:
            opening: whose addresses give the committed roots.
            holders: registration numbers to ask after the unit's owner.

        Raises:
            NotServed: nobody delivered files that the owner must have opened.
            NetworkError: the round's public parameters did not come.
            OwnFault, ConfigError: as `begin`.
        """
        needed = needed_files(self._peer.manifest, unit, opening.body)
        await self._bring(needed, FIND_DEADLINE_S, (unit.number, *holders))
        return FindAnswer.model_validate(await self._call("find", unit, opening)).finding()

    async def _call(self, method: str, unit: DrawnUnit, opening: Signed[Opening]) -> dict[str, Any]:
        async with self._lock:
            if not self._worker.alive:
                await self.prepare()
        request: dict[str, Any] = ReplayRequest.of(unit, opening).model_dump(mode="json")
        return await self._worker.call(method, request, deadline_s=REPLAY_DEADLINE_S)

"""Doing the machine's jobs: fetch blobs, and have the trainer's process make units and aggregate rounds."""

import logging
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import trio

from node.accounting import Accounting, keep_peak, kept_peak
from node.config import PEAK_FILE, TRAINER_LOG_FILE, NodeConfig
from node.events import (
    Aggregate,
    Aggregated,
    CarryLost,
    Event,
    Fetch,
    Fetched,
    Job,
    Receive,
    Received,
    Recheck,
    Refuted,
    Restore,
    Restored,
    Train,
    TrainAhead,
    Trained,
    Upheld,
    WentAhead,
)
from node.honesty import Honesty
from node.tiers import Pace
from node.unit import Ahead, Work
from protocol.clock import unix_time
from protocol.daemon import MANIFEST_FILE
from protocol.errors import ConfigError, Malformed, MurmurError, NetworkError, OwnFault, ProofRejected
from protocol.joint import max_joint_bytes
from protocol.lessons import holders
from protocol.peer import Peer
from protocol.published import max_published_bytes
from protocol.tensors import parameter_layout
from protocol.worker import Worker
from training.judging import Docket
from training.outer import outer_layout
from training.program import check_program
from training.workbench import AggregateRequest, TrainerLoadRequest, child_environment
from verification.merge import check_published

log = logging.getLogger(__name__)

TRAINER_NICE = 5  # messages and openings come before training
LOAD_DEADLINE_S = 600.0  # includes preparing the token shard
FETCH_DEADLINE_S = 60.0
FETCHES_AT_ONCE = 4
RECEIVE_DEADLINE_S = (
    5.0  # of one try, so that peers who do not deliver cannot hold the places of those who do
)
RECEIVED_AT_ONCE = 16
FIRST_PAUSE_S = 0.5
PAUSE_MAX_S = 20.0


class Shop:
    """Be the workshop of one peer in one run (`node.honesty.Workshop`)."""

    def __init__(
        self, config: NodeConfig, peer: Peer, number: int, honesty: Honesty, environment: dict[str, str]
    ) -> None:
        self.manifest = peer.manifest
        self.run = peer.run
        self.number = number
        self.key = peer.key
        self.pool = peer.pool
        self.store = peer.store
        self.progress: dict[str, Any] = {}  # what the trainer told last
        self.trouble: MurmurError | None = None  # why the job is being retried
        self.profile = config.profile_in(peer.manifest).name
        self._config = config
        self._peer = peer
        self._honesty = honesty
        self._pace = Pace(
            peer.manifest, config.tier_in(peer.manifest), trio.current_time, lambda: peer.chain.height
        )
        self._receiving = trio.CapacityLimiter(RECEIVED_AT_ONCE)
        self._accounting = Accounting(peer.network.stats, trio.current_time())
        self._parameter_bytes = outer_layout(peer.manifest).file_bytes
        self._update_bytes = max_published_bytes(peer.manifest)
        self._joint_bytes = max_joint_bytes(peer.manifest)
        self._worker = Worker(
            [sys.executable, "-m", "node.trainer", *honesty.trainer_arguments],
            log_path=config.directory / TRAINER_LOG_FILE,
            env=environment | child_environment(config.threads),
            nice=TRAINER_NICE,
        )

    async def prepare(self) -> str:
        """Start the trainer and return the program digest that it reproduced.

        Raises:
            ConfigError: dataset, device or torch are not what run and profile need, or the digest is not the
                manifest's.
            OwnFault: the process does not start.
        """
        await self._worker.start()
        config = self._config
        request = TrainerLoadRequest(
            manifest_path=config.directory / MANIFEST_FILE,
            store=self.store.root,
            data_dir=config.shards,
            data=config.data,
            threads=config.threads,
            device=config.device,
            profile=self.profile,
            cpu_share=config.cpu_share,
        )
        answer = await self._worker.call("load", request.params(), deadline_s=LOAD_DEADLINE_S)
        program = check_program(self.manifest, answer.get("program"))
        self._accounting.peak_flops = await self._peak()
        return program

    async def _peak(self) -> float:
        """Return the FLOPs a second of the device at its best: configured, or measured once and kept."""
        config = self._config
        if config.peak_tflops is not None:
            return config.peak_tflops * 1e12
        path, place = (
            config.directory / PEAK_FILE,
            f"{config.device}, {config.threads} threads, {self.profile}",
        )
        known = kept_peak(path, place)
        if known is None:
            known = float((await self._worker.call("peak", {}))["flops"])
            keep_peak(path, place, known)
        return known

    async def close(self) -> None:
        """End the trainer's process."""
        await self._worker.stop()

    async def do(self, job: Job, deliver: Callable[[Event], None]) -> None:
        """Do a job, again and again with growing pauses until it succeeds, and deliver what came of it.

        Raises:
            ConfigError: a trainer that had to be restarted does not fit the run any more.
        """
        pause = FIRST_PAUSE_S
        while True:
            self.progress = {}
            try:
                event = await self._attempt(job)
            except ConfigError:
                raise
            except MurmurError as error:
                log.warning("%s of round %d: %s", type(job).__name__.lower(), job.round, error)
                self.trouble = error
            else:
                self.trouble = None
                deliver(event)
                return
            await trio.sleep(pause)
            pause = min(2 * pause, PAUSE_MAX_S)

    async def _attempt(self, job: Job) -> Event:
        match job:
            case Fetch():
                with self._accounting.transfer():
                    await self._bring(job.parameters, self._parameter_bytes)
                return Fetched(job.parameters)
            case TrainAhead():
                return WentAhead(job, await self._train_ahead(job))
            case Train():
                began = trio.current_time()
                carried = [*_carried_files(job)]
                with self._accounting.transfer():
                    await self._bring(job.parameters, self._parameter_bytes)
                    await self._bring_lessons(job)
                try:
                    work = await self._honesty.work(self, job)
                except MurmurError:
                    if all(map(self.store.has, carried)):
                        raise
                    return CarryLost(job.round)
                work = work.model_copy(update={"figures": self._accounting.close(work.figures, unix_time())})
                began -= 0.0 if job.ahead is None else job.ahead.unit_s
                return Trained(job.round, work, secrets.token_hex(32), self._pace.wish(job.tier, began))
            case Restore():
                return Restored(job.round, await self._restore(job))
            case Aggregate():
                return await self._aggregate(job)
            case Recheck():
                log.warning("round %d: witnesses %s object to its joint update", job.round, [*job.objecting])
                found = await self._aggregate(job.aggregate)
                return found if isinstance(found, Refuted) else Upheld(job.round)

    async def receive(self, wanted: Receive) -> Received:
        """Fetch a revealed update, again and again until it is here, and check it."""
        reveal, limit = wanted.reveal, self._update_bytes
        beacon = self._peer.chain.assignment_beacon(wanted.round) or ""  # there, or nobody reveals
        while True:
            try:
                async with self._receiving:
                    await self._peer.fetch(
                        reveal.blob, max_size=limit, deadline_s=RECEIVE_DEADLINE_S, numbers=(reveal.number,)
                    )
                await self._bring_blobs((one.blob, (one.number,)) for one in wanted.lessons.judged)
                get = partial(self.store.get, max_size=limit)
                docket = Docket(self.manifest, beacon, wanted.round, wanted.lessons.judged, get)
                data = await trio.to_thread.run_sync(get, reveal.blob)
                await trio.to_thread.run_sync(
                    check_published, self.manifest, beacon, wanted.round, reveal, data, docket
                )
            except Malformed as error:
                log.warning("update of number %d in round %d: %s", reveal.number, wanted.round, error)
                return Received(wanted.round, reveal.number, good=False)
            except NetworkError as error:
                log.info("update of number %d in round %d: %s", reveal.number, wanted.round, error)
                await trio.sleep(FIRST_PAUSE_S)
            else:
                return Received(wanted.round, reveal.number, good=True)

    async def _restore(self, job: Restore) -> bool:
        """Make a unit again; tell whether it has the same bits.

        Raises:
            NetworkError: the parameters it started from cannot be fetched now.
            OwnFault: the trainer died.
        """
        again = job.train
        await self._bring(again.parameters, self._parameter_bytes)
        await self._bring_lessons(again)
        if not all(map(self.store.has, _carried_files(again))):
            log.error("round %d: drawn, but what its unit started from is not in the store", job.round)
            return False
        work = await self._honesty.work(self, again)
        same = (work.segments, work.residual) == (job.work.segments, job.work.residual)
        if not same:
            log.error(
                "round %d: drawn, but this machine does not compute the bits again that it committed to; "
                "a larger --state-cap keeps them on disk",
                job.round,
            )
        return same

    async def train(self, job: Train) -> Work:
        """Have the trainer make a unit.

        Raises:
            NetworkError: a blob to start from is missing or damaged.
            OwnFault: the trainer died or diverged.
        """
        request = {
            "round": job.round,
            "number": self.number,
            "beacon": job.beacon,
            "tier": job.tier,
            "parameters": job.parameters,
            "moments": job.moments,
            "residual": job.residual,
            "lessons": job.lessons.model_dump(mode="json"),
            "returned": None if job.returned is None else job.returned.model_dump(mode="json"),
            "before": None if job.before is None else job.before.model_dump(mode="json"),
            "ahead": None if job.ahead is None else job.ahead.model_dump(mode="json"),
            "keep": job.keep,
        }
        return Work.model_validate(await self._call("train", request))

    async def _train_ahead(self, job: TrainAhead) -> Ahead | None:
        """Make a unit's first segments; None where they cannot be made: the whole unit then says why."""
        request = {
            "round": job.round,
            "number": self.number,
            "beacon": job.beacon,
            "tier": job.tier,
            "before": job.before.model_dump(mode="json"),
            "moments": job.moments,
        }
        try:
            return Ahead.model_validate(await self._call("ahead", request))
        except ConfigError:
            raise
        except MurmurError as error:
            log.warning("the first segments of round %d: %s", job.round, error)
            return None

    async def prefetch(self, job: Aggregate) -> None:
        """Fetch what an aggregation will read; whatever fails is left to the aggregation."""
        try:
            await self._bring_updates(job)
        except MurmurError as error:
            log.info("updates of round %d: %s", job.round, error)

    async def announce(self, data: bytes) -> None:
        """Send bytes as they are to the run's gossip.

        Raises:
            NetworkError: too long, or the host is down.
        """
        await self._peer.network.publish(data)

    async def blocks(self, count: int) -> None:
        """Wait until the chain is so many blocks longer."""
        until = self._peer.chain.height + count
        while self._peer.chain.height < until:  # noqa: ASYNC110 - `Peer.changed` has one caller, the node
            await trio.sleep(self._peer.config.poll_s)

    async def _aggregate(self, job: Aggregate) -> Aggregated | Refuted:
        moving = job.moving
        with self._accounting.transfer():
            await self._bring(job.parameters, self._parameter_bytes)
            await self._bring_updates(job)
        request = AggregateRequest(
            parameters=job.parameters,
            joint=job.joint,
            updates=moving.updates,
            weights=moving.weights,
            retracted=job.retracted,
        )
        with self._accounting.aggregation():
            try:
                answer = await self._call("aggregate", request.model_dump(mode="json"))
            except (Malformed, ProofRejected) as error:
                if job.joint is None:
                    raise
                return Refuted(job.round, error.message)
        parameters = answer.get("parameters")
        if not isinstance(parameters, str):
            raise OwnFault("the trainer named no parameters")
        return Aggregated(job.round, parameters)

    async def _bring_updates(self, job: Aggregate) -> None:
        await self._bring_blobs(
            [
                *((unit.blob, (unit.number,)) for unit in job.fetched if unit.blob is not None),
                # whoever still has it: the coordinator keeps all
                *((blob, ()) for blob in job.old - job.blobs),
            ]
        )
        if job.joint is not None:
            try:
                await self._bring(job.joint, self._joint_bytes)
            except NetworkError:
                if not job.check:
                    raise
                log.warning("round %d: nobody serves its joint update, which is made again", job.round)

    async def _call(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        if not self._worker.alive:
            await self.prepare()
        return await self._worker.call(method, request, on_progress=self._note)

    def _note(self, progress: dict[str, Any]) -> None:
        self.progress = progress
        self._peer.touch()

    async def _bring(self, digest: str, max_size: int, numbers: Sequence[int] = ()) -> None:
        await self._peer.fetch(digest, max_size=max_size, deadline_s=FETCH_DEADLINE_S, numbers=numbers)

    async def _bring_lessons(self, job: Train) -> None:
        """Bring what a unit builds on, and the judge that it is."""
        await self._bring_blobs((blob, (number,)) for blob, number in holders(job.lessons).items())
        if job.returned is not None:
            await self._bring(job.returned.update, self._update_bytes)  # ours, or another encoding of it
            await self._bring(job.returned.joint, self._joint_bytes)
        judge = self.manifest.judge
        if judge is not None:
            await self._bring(judge.parameters, parameter_layout(judge.model).file_bytes)

    async def _bring_blobs(self, wanted: Iterable[tuple[str, Sequence[int]]]) -> None:
        """Bring what rounds published: (address, numbers likely to hold it) each."""
        limiter, failed = trio.CapacityLimiter(FETCHES_AT_ONCE), list[MurmurError]()
        largest = max(self._update_bytes, self._joint_bytes)

        async def bring(blob: str, numbers: Sequence[int]) -> None:
            async with limiter:
                try:
                    await self._bring(blob, largest, numbers)
                except MurmurError as error:
                    failed.append(error)

        async with trio.open_nursery() as nursery:
            for blob, numbers in wanted:
                nursery.start_soon(bring, blob, numbers)
        if failed:
            raise failed[0]


def _carried_files(job: Train) -> Iterator[str]:
    """Yield the addresses of what we carry into a unit."""
    state = () if job.before is None else (job.before.parameters, job.before.moments)
    yield from (one for one in (job.moments, job.residual, *state) if one is not None)

"""The coordinator's children at work: aggregation, which rounds need, and measurements, which nobody waits for."""

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import trio

from coordinator.config import CONTROL_DIRECTORY, CoordinatorConfig
from coordinator.evaluator import EvaluatorRequest
from coordinator.sending import Write
from coordinator.writer import Writer
from protocol.blobs import BlobStore
from protocol.chain import ChainView
from protocol.daemon import MANIFEST_FILE
from protocol.errors import ConfigError, MurmurError, OwnFault
from protocol.manifest import RunManifest
from protocol.worker import Worker
from training.workbench import child_environment

log = logging.getLogger(__name__)

LOAD_DEADLINE_S = 600.0  # includes preparing the token shard
FIRST_PAUSE_S = 0.5
PAUSE_MAX_S = 20.0
EVALUATOR_NICE = 19
CONTROL_SIZE = 2
GIVE_UP_AFTER = 3  # failures of one measurement, after which the curve has a gap


class Calculator:
    """A child that is started, loaded and restarted as calls need it."""

    def __init__(self, config: CoordinatorConfig, store: BlobStore, name: str, *, nice: int = 0) -> None:
        self._worker = Worker(
            [sys.executable, "-m", "coordinator.evaluator"],
            log_path=config.directory / f"{name}.log",
            env=dict(os.environ) | child_environment(config.threads),
            nice=nice,
        )
        self._load = EvaluatorRequest(
            manifest_path=config.directory / MANIFEST_FILE,
            store=store.root,
            control=config.directory / CONTROL_DIRECTORY,
            data_dir=config.shards,
            data=config.data,
            threads=config.threads,
        )
        self._loaded: int | None = None  # process id that was loaded
        self._preparing = trio.Lock()

    async def call(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Call the child, which is made ready first.

        Raises:
            ConfigError: this machine does not fit the run.
            MurmurError: what the child raised, or that it died.
        """
        await self.prepare()
        return await self._worker.call(method, dict(params))

    async def prepare(self) -> None:
        """Start and load the child, if it is not there.

        Raises:
            ConfigError: this machine does not fit the run.
            MurmurError: what the child raised, or that it died.
        """
        async with self._preparing:
            if self._worker.pid is None or self._worker.pid != self._loaded:
                await self._worker.restart()
                await self._worker.call("load", self._load.params(), deadline_s=LOAD_DEADLINE_S)
                self._loaded = self._worker.pid

    async def insist(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Call the child until it answers.

        Raises:
            ConfigError: this machine does not fit the run.
        """
        pause = FIRST_PAUSE_S
        while True:
            try:
                return await self.call(method, params)
            except ConfigError:
                raise
            except MurmurError as error:
                log.error("%s: %s", method, error)
            await trio.sleep(pause)
            pause = min(2 * pause, PAUSE_MAX_S)

    async def stop(self) -> None:
        """End the child."""
        await self._worker.stop()


@dataclass
class Measurements:
    """Measure each round's parameters, and train the control group alone, one thing at a time.

    A policy has no control group: who learns alone would have to sample, too.
    """

    manifest: RunManifest
    chain: ChainView
    calculator: Calculator
    write: Write
    control_store: BlobStore
    control: tuple[int, ...] | None
    measured: set[int]  # rounds
    locals: dict[tuple[int, int], tuple[str, str]]  # (round, number) -> (parameters, moments)
    described: set[int] = field(default_factory=set)  # rounds whose rollouts are
    parameters: Mapping[int, str] = field(default_factory=dict)  # by round; grows while the run goes on
    # Blobs by recorded round and number: of rounds to describe, and of those before them.
    published: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)
    _woken: trio.Event = field(default_factory=trio.Event)

    def wake(
        self, parameters: Mapping[int, str], published: Mapping[int, Mapping[int, str]] | None = None
    ) -> None:
        """Tell that there may be something to measure."""
        self.parameters = parameters
        self.published = published or {}
        self._woken.set()

    async def run(self) -> None:
        """Measure for ever; a measurement that fails again and again is left out."""
        failures = 0
        while True:
            try:
                busy = await self._measure_one() or await self._describe_one() or await self._train_one()
                failures = 0
            except ConfigError as error:
                log.error("nothing is measured: %s", error)
                return
            except MurmurError as error:
                failures += 1
                log.error("measurement: %s", error)
                if failures >= GIVE_UP_AFTER:
                    self._skip()
                    failures = 0
                await trio.sleep(FIRST_PAUSE_S)
                continue
            if not busy:
                await self._woken.wait()
                self._woken = trio.Event()

    def _due(self) -> list[int]:
        known = self.measured | self.skipped
        return [round_ for round_ in sorted(self.parameters) if round_ not in known]

    @property
    def pending(self) -> int:
        """Return the first round whose parameters are still to be measured."""
        known = self.measured | self.skipped
        return next(round_ for round_ in count() if round_ not in known)

    def _skip(self) -> None:
        if due := self._due():
            self.skipped.add(due[0])
        else:
            self.control = ()

    async def _measure_one(self) -> bool:
        due = self._due()
        if not due:
            return False
        found = await self.calculator.call("heldout", {"parameters": self.parameters[due[0]]})
        await self._store(due[0], found)
        self.measured.add(due[0])
        return True

    async def _describe_one(self) -> bool:
        published = self.published  # waking replaces it meanwhile
        due = sorted(published.keys() - self.described)
        if self.manifest.rollouts is None or not due:
            return False
        round_ = due[0]
        self.described.add(round_)  # whatever comes of it: its blobs may be gone
        await self._describe(round_, published[round_])
        if self.manifest.judge is not None and round_ - 1 in published:
            await self._describe(round_ - 1, published[round_ - 1], tuple(published[round_].values()))
        return True

    async def _describe(self, round_: int, blobs: Mapping[int, str], judging: tuple[str, ...] = ()) -> None:
        """Write down what a round's units say.

        Args:
            blobs: that they published, by number.
            judging: blobs of the round after, whose judges have scored them.
        """
        units = {str(number): blob for number, blob in blobs.items()}
        found = (await self.calculator.call("rollouts", {"units": units, "judging": judging}))["units"]
        readable = {int(number): one for number, one in found.items() if "unreadable" not in one}

        def write(tx: Writer) -> None:
            for number, one in readable.items():
                tx.rollouts(round_, number, one)

        await self.write(write)

    async def _store(self, round_: int, found: Mapping[str, Any]) -> None:
        if self.manifest.rollouts is None:
            loss = float(found["loss"])
            await self.write(lambda tx: tx.loss(round_, loss))
            log.info("round %d starts at a held-out loss of %.4f", round_, loss)
            return
        success, reward, components = float(found["success"]), float(found["reward"]), found["components"]
        await self.write(lambda tx: tx.policy(round_, success, reward, components))
        log.info("round %d starts at a held-out success of %.3f, reward %.3f", round_, success, reward)

    def _group(self) -> tuple[int, ...]:
        if self.manifest.rollouts is not None:
            return ()
        if self.control is None:
            roster = self.chain.roster(0)
            if not roster:
                return ()
            self.control = tuple(one.number for one in roster[:CONTROL_SIZE])
        return self.control

    async def _train_one(self) -> bool:
        for number in self._group():
            done = [round_ for round_, trained in self.locals if trained == number]
            round_ = max(done, default=-1) + 1
            beacon = self.chain.assignment_beacon(round_) if round_ < self.manifest.rounds else None
            # A round's control waits for the round's end, so that it never competes with it.
            if beacon is None or self.chain.anchor(round_) is None:
                continue
            await self._train(round_, number, beacon)
            return True
        return False

    async def _train(self, round_: int, number: int, beacon: str) -> None:
        before = self.locals.get((round_ - 1, number))
        found = await self.calculator.call(
            "local",
            {
                "round": round_,
                "number": number,
                "beacon": beacon,
                "parameters": None if before is None else before[0],
                "moments": None if before is None else before[1],
                "measure": round_ == self.manifest.rounds - 1,
            },
        )
        after = (str(found["parameters"]), str(found["moments"]))
        if after == before:
            raise OwnFault(f"the control of number {number} did not move in round {round_}")
        await self.write(lambda tx: tx.local(round_, number, *after, found["loss"]))
        self.locals[round_, number] = after
        if before is not None and before not in [self.locals[key] for key in self.locals if key[1] != number]:
            for blob in before:
                self.control_store.delete(blob)

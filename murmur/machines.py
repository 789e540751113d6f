"""Other machines, emulated on this one: the same replay in processes whose environment forces other kernels.

Which kernels torch, MKL and oneDNN choose follows from environment variables that they read at their start, so
each machine is a child process (`murmur.machine`). States pass as canonical files through a blob store; two
machines that computed the same bits answer with the same addresses.
"""

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from node.unit import Files
from protocol.errors import MurmurError, OwnFault
from protocol.frozen import Digest, Frozen, ProfileName
from protocol.lessons import NOTHING, Lessons
from protocol.messages import Number, Round
from protocol.worker import Worker
from training.workbench import DeviceLoadRequest, child_environment

AT_ONCE = os.cpu_count() or 1  # machines that replay at the same time
BATCH = 32  # replays in one call
LOAD_DEADLINE_S = 600.0
CALL_DEADLINE_S = 3600.0


@dataclass(frozen=True)
class Machine:
    """Name an emulated machine and the switches that make it."""

    name: str
    switches: Mapping[str, str] = field(default_factory=dict)  # environment variables
    threads: int = 1

    def environment(self) -> dict[str, str]:
        """Return the environment of its process; switches that this process was started with do not reach it."""
        own = {name: value for name, value in os.environ.items() if name not in SWITCHES}
        # Threads that spin while they wait would take the cores of the other machines.
        waiting = {"OMP_WAIT_POLICY": "PASSIVE"}
        return own | child_environment(self.threads) | waiting | dict(self.switches)


# ATen's kernels are capped together with oneDNN's: ATen packs bfloat16 as oneDNN says it can read it.
SWITCHES = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
BASE = Machine("this machine")
MACHINES = (
    BASE,
    Machine("two threads", threads=2),
    Machine("AVX512 without bfloat16", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}),
    Machine("AVX2", {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    Machine("SSE4.1", {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
    Machine("MKL compatible", {"MKL_CBWR": "COMPATIBLE"}),
    Machine(
        "SSE4.1, MKL compatible",
        {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    ),
)


class Replay(Frozen):
    """Ask for one segment: where it starts, under which profile, and whose batches it takes."""

    profile: ProfileName  # of the manifest
    cheat: str = ""  # one of `verification.cheats.Cheat` that is a matter of steps; empty: honest
    start: Files
    beacon: Digest
    round: Round
    number: Number
    segment: int
    lessons: Lessons = NOTHING  # what a policy learns from


class Facts(Frozen):
    """Say what a machine told of itself when it started."""

    torch: str
    capability: str  # ATen's choice of kernels
    threads: int


@dataclass(frozen=True)
class Fleet:
    """Hold running machines; make one with `open_fleet`."""

    workers: Mapping[str, Worker]
    facts: Mapping[str, Facts]
    limiter: trio.CapacityLimiter

    async def replay(
        self, replays: Sequence[Replay], names: Collection[str] | None = None
    ) -> dict[str, tuple[Files, ...]]:
        """Replay every segment on every machine; returns the ends by machine, in the order asked for.

        Args:
            names: of the machines that replay; None: all.

        Raises:
            OwnFault: a machine died or failed.
        """
        ends: dict[str, tuple[Files, ...]] = {}

        async def work(name: str, worker: Worker) -> None:
            found: list[Files] = []
            for first in range(0, len(replays), BATCH):
                part = replays[first : first + BATCH]
                async with self.limiter:
                    answer = await worker.call(
                        "replay",
                        {"replays": [one.model_dump(mode="json") for one in part]},
                        deadline_s=CALL_DEADLINE_S,
                    )
                found += [Files.model_validate(one) for one in answer["ends"]]
            if len(found) != len(replays):
                raise OwnFault(f"{name} replayed {len(found)} of {len(replays)} segments")
            ends[name] = tuple(found)

        chosen = {name: one for name, one in self.workers.items() if names is None or name in names}
        await _each(partial(work, name, worker) for name, worker in chosen.items())
        return ends


@asynccontextmanager
async def open_fleet(
    machines: Sequence[Machine],
    *,
    manifest: Path,
    store: Path,
    shards: Path,
    logs: Path,
    device: str = "cpu",
) -> AsyncIterator[Fleet]:
    """Start the machines.

    Args:
        manifest: file of the run whose segments are replayed.
        store: root of the blob store that holds the starts and takes the ends.
        shards: folder of the token shard.
        logs: folder for what the machines say on stderr.

    Raises:
        OwnFault: one does not start.
        ConfigError: device or dataset do not fit.
    """
    limiter = trio.CapacityLimiter(AT_ONCE)
    workers: dict[str, Worker] = {}
    facts: dict[str, Facts] = {}

    async def load(machine: Machine, worker: Worker) -> None:
        request = DeviceLoadRequest(
            manifest_path=manifest, store=store, data_dir=shards, threads=machine.threads, device=device
        )
        async with limiter:
            told: dict[str, Any] = await worker.call("load", request.params(), deadline_s=LOAD_DEADLINE_S)
        facts[machine.name] = Facts.model_validate(told)

    async with AsyncExitStack() as stack:
        for machine in machines:
            log = logs / f"{machine.name.replace(' ', '-').replace(',', '').lower()}.log"
            argv = [sys.executable, "-m", "murmur.machine"]
            worker = Worker(argv, log_path=log, env=machine.environment())
            workers[machine.name] = await stack.enter_async_context(worker)
        await _each(partial(load, machine, workers[machine.name]) for machine in machines)
        yield Fleet(workers, facts, limiter)


async def _each(tasks: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Run tasks side by side; the first one to fail cancels the others."""
    failed: list[MurmurError] = []

    async def attempt(task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except MurmurError as error:
            failed.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(attempt, task)
    if failed:
        raise failed[0]


def replay_everywhere(
    replays: Sequence[Replay],
    machines: Sequence[Machine] = MACHINES,
    *,
    manifest: Path,
    store: Path,
    shards: Path,
    logs: Path,
) -> dict[str, tuple[Files, ...]]:
    """Start machines, have each replay every segment, and stop them; for callers outside trio.

    Raises:
        OwnFault: one failed.
        ConfigError: device or dataset do not fit.
    """

    async def run() -> dict[str, tuple[Files, ...]]:
        async with open_fleet(machines, manifest=manifest, store=store, shards=shards, logs=logs) as fleet:
            return await fleet.replay(replays)

    return trio.run(run)

"""How much of their time contributors spend in inner steps, with and without waiting for the round before.

`python -m tests.bench overlap [--delays 0 4 6 8] [--keep DIRECTORY]`. A model of ten million parameters, H = 60 steps
of 8 windows in 12 segments, eight contributors. What computing takes is recorded first, in CPU-seconds of one thread
of this machine: inner steps one by one, compressing, aggregating, judging a round's updates in exact arithmetic on 8
windows. Then the product's own machines of contributors and coordinator run for some rounds under a simulated clock,
over simulated links and a chain of two-second blocks (`tests.bench._simulated_run`): two cores distort nothing. Rates
are each host's, up and down; delays between any two hosts, one way.

The `delay` of a row is `outer.delay`, the segments that a unit takes before the outer step of the round before; who
waits for it is the baseline. `ddp` sums fp32 gradients after every step, `local` never waits for anybody. Faster
machines have less time to hide a round in: `--speed 10` takes a tenth of the recorded steps' time.

With --real PEERS the same is measured of a whole network of real processes, each behind a link of 100 Mbit/s and 50 ms,
with the default model, units of 15 steps in 5 segments and trainers that rest 95 % of the time (`_real_rounds`).

With --keep, recorded times are taken from DIRECTORY/overlap.json, or left there.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from protocol.frozen import Frozen
from protocol.keys import PeerKey
from protocol.manifest import (
    DeadlineConfig,
    InnerConfig,
    MergingConfig,
    OuterConfig,
    RunManifest,
    SamplingSchedule,
    VerificationConfig,
)
from protocol.model_config import ModelConfig
from protocol.tensors import parameter_layout
from protocol.update import encode
from tests.bench._peers import beacon, bench_manifest
from tests.bench._real_rounds import live, row
from tests.bench._rows import Rows
from tests.bench._simulated_run import Machine, Setting, per_step_share, sequence, simulate
from training.assignment import assignment
from training.codec import compress
from training.corpus import Shard
from training.gate import exact_loss
from training.inner import InnerState, InnerTrainer, prepare_process
from training.model import initial_parameters
from training.outer import aggregate, initial_state, parameters_file
from training.recipe import recipe

MODEL: Final = ModelConfig(width=384, layers=6, heads=6, feed_forward=1024, context=128)
INNER: Final = InnerConfig(steps=60, batch=8)
SEGMENT: Final = 5
WINDOWS: Final = 8
RATES: Final = (10.0, 100.0, 500.0)
DELAYS_MS: Final = (50.0, 200.0)
REAL_LINK: Final = (100.0, 50.0)
REAL_DELAYS: Final = (0, 2, 4)
REAL_SHARE: Final = 0.05
RECORDED: Final = 12  # inner steps, after one that warms up
KEY: Final = PeerKey(b"\x11" * 32)
T = TypeVar("T")


class Recording(Frozen):
    """Hold what was measured here, which a simulation replays."""

    machine: Machine
    update_bytes: int
    parameter_bytes: int
    values: int  # parameters


def spent(work: Callable[[], T]) -> tuple[float, T]:
    """Return the CPU-seconds of something, and its result."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def manifest_of(directory: Path, rounds: int, delay: int) -> tuple[RunManifest, Shard]:
    """Return the run, in which nobody is drawn, and its shard."""
    never = SamplingSchedule(fresh_probability=0.0, floor_probability=0.0)
    chosen = recipe(100, moments="carried")
    return bench_manifest(
        directory,
        0,
        rounds,
        model=MODEL,
        inner=INNER,
        codec=chosen["codec"],
        outer=OuterConfig.model_validate(chosen["outer"] | {"delay": delay}),
        verification=VerificationConfig(segment_steps=SEGMENT, schedule=never),
        merging=MergingConfig(gate_windows=WINDOWS),
        deadlines=DeadlineConfig(commit=200, reveal=100),
        coordinator=KEY.address,
    )


def record(directory: Path, peers: int) -> Recording:
    """Measure what computing takes in this run, on one thread."""
    manifest, shard = manifest_of(directory, 2, 0)
    start = initial_parameters(manifest.model, 0)
    trainer = InnerTrainer(manifest, shard)
    trainer.load(InnerState.fresh(start))
    rows = assignment(manifest, beacon(0, 0), 0, 1)
    steps = []
    for step in range(RECORDED + 1):
        taken, _ = spent(lambda step=step: trainer.run(rows[step : step + 1], step))  # type: ignore[misc]
        steps.append(taken)
    end = trainer.state().parameters
    compress_s, (symbols, _) = spent(lambda: compress(manifest.codec, start - end, np.zeros_like(start)))
    hashing_s, file = spent(lambda: parameters_file(manifest, initial_state(manifest, start)))
    state = initial_state(manifest, start)
    aggregate_s, after = spent(lambda: aggregate(manifest, state, [symbols] * peers))
    writing_s, _ = spent(lambda: parameters_file(manifest, after))
    loss = exact_loss(manifest, shard, "5a" * 32)
    judge_s, _ = spent(lambda: loss(start))
    return Recording(
        machine=Machine(
            steps=sequence(steps[1:]),
            compress=compress_s + 3 * hashing_s,
            aggregate=aggregate_s + writing_s,
            judge=judge_s * (peers + 1),
        ),
        update_bytes=len(encode(symbols)),
        parameter_bytes=len(file),
        values=parameter_layout(manifest.model).size,
    )


def recorded(keep: Path | None, directory: Path, peers: int) -> Recording:
    """Return what was recorded, by this call or an earlier one."""
    path = keep and keep / "overlap.json"
    if path is not None and path.exists():
        return Recording.model_validate_json(path.read_bytes())
    found = record(directory, peers)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found.model_dump_json())
    return found


def main(arguments: Sequence[str]) -> int:
    """Print a row for each link and each way to wait."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench overlap", description=__doc__)
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 4, 6, 8], help="segments; 0 waits")
    parser.add_argument("--speed", type=float, default=1.0, help="of inner steps, against those recorded")
    parser.add_argument("--block", type=float, default=2.0, help="seconds between blocks of the chain")
    parser.add_argument(
        "--real", type=int, metavar="PEERS", help="live whole networks in the place of simulations"
    )
    parser.add_argument("--keep", type=Path, help="directory of recorded times, to go on from")
    parser.add_argument("--json", action="store_true", help="one document a row")
    options = parser.parse_args(arguments)
    prepare_process(1)
    if options.real is not None:
        return live_all(options.real, options.rounds, Rows(options.json))
    with tempfile.TemporaryDirectory() as data:
        directory = Path(data)
        found = recorded(options.keep, directory, options.peers)
        steps = tuple(step / options.speed for step in found.machine.steps)
        machine = found.machine.model_copy(update={"steps": steps})
        runs = {delay: manifest_of(directory, options.rounds, delay)[0] for delay in options.delays}
        output = Rows(options.json)
        for rate in RATES:
            for delay_ms in DELAYS_MS:
                setting = Setting(
                    mbit_s=rate,
                    delay_ms=delay_ms,
                    block_s=options.block,
                    update_bytes=found.update_bytes,
                    parameter_bytes=found.parameter_bytes,
                )
                for row in rows(runs, machine, setting, options.peers, found):
                    output.add({"Mbit/s": rate, "ms": delay_ms, **row})
    return 0


def live_all(peers: int, rounds: int, output: Rows) -> int:
    """Print a row for each way to wait in a real network."""
    for delay in REAL_DELAYS:
        found = live(*REAL_LINK, delay=delay, peers=peers, rounds=rounds, cpu_share=REAL_SHARE)
        output.add(row(*REAL_LINK, delay, found))
    return 0


def rows(
    runs: dict[int, RunManifest], machine: Machine, setting: Setting, peers: int, found: Recording
) -> list[dict[str, Any]]:
    """Return the rows of one kind of link."""
    mean = sum(machine.steps) / len(machine.steps)
    table = [
        _row("local", 1.0, mean * INNER.steps),
        _row(
            "ddp", share := per_step_share(machine, setting, peers, found.values), mean * INNER.steps / share
        ),
    ]
    for delay, manifest in runs.items():
        came = simulate(manifest, machine, setting, peers, KEY)
        name = "ours, waiting" if not delay else f"ours, delay {delay} of {manifest.segments}"
        table.append(_row(name, came.share, came.round_s, came.waits_s, came.up_bytes, came.down_bytes))
    return table


def _row(
    name: str,
    share: float,
    round_s: float,
    waits_s: float | None = None,
    up: float = 0.0,
    down: float = 0.0,
) -> dict[str, Any]:
    return {
        "mode": name,
        "inner share": round(share, 4),
        "round s": round(round_s, 2),
        "waits s": round(round_s * (1 - share) if waits_s is None else waits_s, 2),
        "up MB": round(up / 1e6, 3),
        "down MB": round(down / 1e6, 3),
    }

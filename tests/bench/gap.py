"""What communication is worth: held-out loss of a run against that of peers who train alone.

The run goes through the real assignment, inner steps, codec and outer step, without network and chain. `local`
is an honest peer's schedule without outer steps (same start, batches and learning rates), mean of two peers. What
is not named is as a run of that length would have it (`training.recipe`). Exits with 1 when the gap is below the
bound on any seed.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from protocol.manifest import CodecConfig, InnerConfig, OuterConfig, RunManifest
from protocol.tensors import parameter_layout
from protocol.update import encode
from tests.bench._peers import Peer, alone, bench_manifest
from training.corpus import Shard
from training.evaluate import heldout_loss
from training.inner import prepare_process
from training.model import initial_parameters
from training.outer import OuterState, aggregate, initial_state
from training.recipe import recipe

PEERS = 4
LOCAL_PEERS = 2
ROUNDS = 40
BOUND = 0.03  # nats a byte

Report = Callable[[int, float], None]


def local_loss(manifest: RunManifest, shard: Shard, seed: int) -> float:
    """Return the held-out loss of training alone, mean of two peers."""
    losses = []
    for number in range(1, LOCAL_PEERS + 1):
        peer, parameters = (
            Peer(alone(manifest), shard, number, drawn=manifest),
            initial_parameters(manifest.model, seed),
        )
        for round_ in range(manifest.rounds):
            parameters, _ = peer.unit(seed, round_, parameters)
        losses.append(heldout_loss(manifest, parameters, shard))
    return float(np.mean(losses))


def run_loss(
    manifest: RunManifest, shard: Shard, seed: int, *, lazy_until: int = 0, peers: int = PEERS
) -> tuple[float, float]:
    """Return the held-out loss of the run and the mean container bytes of an update.

    Args:
        lazy_until: rounds in which one more contributor, who takes a third of its steps, is merged.
    """
    honest = [Peer(manifest, shard, number) for number in range(1, peers + 1)]
    lazy = Peer(manifest, shard, peers + 1, lazy_steps=3)
    state: OuterState = initial_state(manifest, initial_parameters(manifest.model, seed))
    sizes = []
    for round_ in range(manifest.rounds):
        members = honest + ([lazy] if round_ < lazy_until else [])
        updates = [peer.update(seed, round_, state) for peer in members]
        sizes.append(len(encode(updates[0])))
        state = aggregate(manifest, state, updates)
    return heldout_loss(manifest, state.parameters, shard), float(np.mean(sizes))


def measure(arguments: argparse.Namespace, seed: int) -> dict[str, float]:
    """Return the figures of one seed."""
    prepare_process(1)
    chosen = recipe(arguments.rounds, kind=arguments.kind)
    codec, outer = CodecConfig.model_validate(chosen["codec"]), OuterConfig.model_validate(chosen["outer"])
    inner = InnerConfig.model_validate(chosen["inner"])
    named = {key: value for key, value in vars(arguments).items() if value is not None}

    def replaced(config, **names):  # type: ignore[no-untyped-def]
        return config.model_copy(
            update={field: named[name] for field, name in names.items() if name in named}
        )

    parts = {
        "codec": replaced(codec, kind="kind", k="k", bits="bits", decay="decay", chunk="chunk"),
        "inner": replaced(inner, lr="lr", eps="eps", batch="batch", warmup_steps="warmup"),
        "outer": replaced(outer, lr="outer_lr", momentum="momentum"),
    }
    with tempfile.TemporaryDirectory() as directory:
        manifest, shard = bench_manifest(Path(directory), seed, arguments.rounds, **parts)
        local = local_loss(manifest, shard, seed)
        ours, size = run_loss(manifest, shard, seed, lazy_until=arguments.lazy_until)
    return {
        "seed": seed,
        "ours": round(ours, 4),
        "local": round(local, 4),
        "gap": round(local - ours, 4),
        "update_bytes": round(size),
        "bits_per_parameter": round(8 * size / parameter_layout(manifest.model).size, 4),
    }


def main(arguments: Sequence[str]) -> int:
    """Measure the gap on each seed, one process a seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench gap", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--lazy-until", type=int, default=0, help="merge a peer doing 1/3 of its steps this long"
    )
    parser.add_argument("--kind", choices=("sparse", "dense"))
    for name in ("--k", "--chunk", "--bits", "--batch", "--warmup"):
        parser.add_argument(name, type=int)
    for name in ("--decay", "--outer-lr", "--momentum", "--lr", "--eps"):
        parser.add_argument(name, type=float)
    parser.add_argument("--json", action="store_true", help="one document instead of a table")
    options = parser.parse_args(arguments)
    with ProcessPoolExecutor(min(2, len(options.seeds)), mp_context=get_context("spawn")) as pool:
        found = list(pool.map(measure, [options] * len(options.seeds), options.seeds))
    reached = all(figures["gap"] >= BOUND for figures in found)
    if options.json:
        print(json.dumps({"bound": BOUND, "reached": reached, "runs": found}))
    else:
        for figures in found:
            print("  ".join(f"{name} {value}" for name, value in figures.items()))
        print(f"bound {BOUND} {'reached' if reached else 'MISSED'} on {len(found)} seeds", file=sys.stderr)
    return 0 if reached else 1

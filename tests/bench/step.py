"""What Muon's steps cost over AdamW's: milliseconds of one inner step on one thread.

`python -m tests.bench step [--sizes 0.17M 1.2M] [--batch 8] [--units 5]`. Both take the same batches of 64 bytes a row
in turn, and the least time of several units of 15 steps counts: what else the machine does can only add to it.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from protocol.manifest import InnerConfig, MuonConfig
from tests.bench._cells import SIZES
from tests.bench._peers import beacon, bench_manifest
from tests.bench._rows import Rows
from training.assignment import assignment
from training.inner import InnerState, InnerTrainer, prepare_process
from training.model import initial_parameters


def main(arguments: Sequence[str]) -> int:
    """Print a row a size."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench step", description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batch", type=int, default=8, help="sequences a step")
    parser.add_argument("--units", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one document a row")
    options = parser.parse_args(arguments)
    prepare_process(1)
    output = Rows(options.json)
    with tempfile.TemporaryDirectory() as data:
        for size in options.sizes:
            adamw, muon = milliseconds(Path(data), size, options.batch, options.units)
            output.add(
                {
                    "size": size,
                    "tokens": options.batch * SIZES[size].context,
                    "AdamW ms": round(adamw, 1),
                    "Muon ms": round(muon, 1),
                    "ratio": round(muon / adamw, 2),
                }
            )
    return 0


def milliseconds(directory: Path, size: str, batch: int, units: int) -> list[float]:
    """Return what a step takes with AdamW's and with Muon's."""
    trainers, least = [], [float("inf")] * 2
    for muon in (None, MuonConfig()):
        inner = InnerConfig(batch=batch, moments="published", muon=muon)
        manifest, shard = bench_manifest(directory, 0, model=SIZES[size], inner=inner)
        trainers.append(InnerTrainer(manifest, shard))
    start = InnerState.fresh(initial_parameters(manifest.model, 0))
    offsets = assignment(manifest, beacon(0, 0), 0, 1)
    for _ in range(units):
        for place, trainer in enumerate(trainers):
            trainer.load(start)
            began = time.process_time()
            trainer.run(offsets, 0)
            least[place] = min(least[place], 1000 * (time.process_time() - began) / len(offsets))
    return least

"""What verification costs, as shares of the training in the same run: commitments, replays, exact replays, transfer.

One peer trains units of 30 steps (or `--inner-steps`) in segments of 3, as a node's trainer does. Times are
CPU-seconds of one process and one thread. Each share is taken within a unit, so that whatever else the machine does
weighs on both sides, and its median over units is told. A replay is the verifier's own: it reads and hashes what was
opened, executes the drawn segment, makes the fingerprint, compares every tensor, and recomputes symbols and residual.
What the network itself costs is not in it; `opening_bytes` says how much passes. Exits with 1 when a share exceeds its
bound.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from murmur.laboratory import Laboratory, laboratory_manifest
from node.unit import Unit
from protocol.blobs import BlobStore, pieces_digest
from protocol.keys import PeerKey
from protocol.manifest import CPU_EXACT, CPU_FP32, InnerConfig, RunManifest
from protocol.messages import sign
from protocol.model_config import ModelConfig
from protocol.tensors import moment_layout, parameter_layout
from tests.bench._clock import Clock
from training.assignment import assignment
from training.corpus import Shard
from training.inner import InnerState, prepare_process
from training.trainer import Trainer, trainer_for
from verification.opening import needed_files
from verification.replay import Units
from verification.unit import NeededFile

STEPS, SEGMENT = 30, 3
COMMITMENT_BOUND = 0.015  # of training time
REPLAY_BOUND = 0.025  # of training compute, two verifiers at the floor
FLOOR, OFTEN = 0.05, 0.2


def trained(
    manifest: RunManifest, trainer: Trainer, start: InnerState, store: BlobStore, beacon: str
) -> Clock:
    """Train one unit; return what was spent on steps, on hashing states, and on hashing and writing them."""
    clock, model, steps = Clock(), manifest.model, manifest.inner.steps
    offsets = assignment(manifest, beacon, 1, 1)

    def commit() -> None:
        state = trainer.view()
        pieces_digest(state.parameters_pieces(model))
        pieces_digest(state.moments_pieces(model))

    def write() -> None:
        state = trainer.view()
        store.put_pieces(state.parameters_pieces(model))
        store.put_pieces(state.moments_pieces(model))

    trainer.load(start)
    for first in range(0, steps, SEGMENT):
        clock("hash", commit)
        clock("write", write)
        rows = offsets[first : first + SEGMENT]
        clock("steps", trainer.run, rows, steps + first)
    clock("hash", commit)
    clock("write", write)
    return clock


def signed(manifest: RunManifest, unit: Unit) -> None:
    """Sign a unit's commitment."""
    sign(PeerKey(b"\x01" * 32), manifest, unit.round, "contributor", unit.commitment)


def measure(directory: Path, model: ModelConfig, units: int, steps: int) -> dict[str, object]:
    """Return every figure."""
    manifest = laboratory_manifest(directory, model=model, inner=InnerConfig(steps=steps))
    laboratory = Laboratory.open(directory, manifest, rounds=1)
    unit, newcomer = laboratory.honest_unit(), laboratory.newcomer_unit()
    shard, store = Shard.open(manifest.dataset, directory), BlobStore(directory / "blobs")
    verifier, scratch = Units(shard), BlobStore(directory / "scratch")
    state = _state(manifest, store, unit)
    fp32, exact = trainer_for(manifest, shard, CPU_FP32), trainer_for(manifest, shard, CPU_EXACT)
    shares: dict[str, list[float]] = {}
    for index in range(units):
        clock = trained(manifest, fp32, state, scratch, laboratory.beacon(index))
        clock("sign", signed, manifest, unit)
        segment = index % manifest.segments
        drawn, opened = laboratory.drawn(unit, segment)
        files = clock("replay", _read, store, needed_files(manifest, drawn, opened.body))
        report = clock("replay", verifier.replay, manifest, drawn, opened.body, files)
        assert not report.reason, report.reason
        rows = assignment(manifest, laboratory.beacon(index), 1, 1)[:SEGMENT]
        exact.load(state)
        clock("exact", exact.run, rows, steps)
        spent = clock.spent
        training = spent["steps"] + spent["hash"] + spent["sign"]
        for name, value in {
            "commitments": (spent["hash"] + spent["sign"]) / training,
            "writing": (spent["write"] - spent["hash"]) / training,
            "replay": spent["replay"] / training,
            "exact": spent["exact"] * manifest.segments / spent["steps"],
            "step_ms": 1000 * spent["steps"] / steps,
        }.items():
            shares.setdefault(name, []).append(value)
    found = {name: median(values) for name, values in shares.items()}
    judged = manifest.verification.verifiers * found["replay"]
    return {
        "parameters": parameter_layout(model).size,
        "steps": steps,
        "segment": SEGMENT,
        "units": units,
        "step_ms": round(found["step_ms"], 2),
        "commitments_share": round(found["commitments"], 5),
        "writing_share": round(found["writing"], 5),
        "replay_of_a_unit": round(found["replay"], 4),
        "replay_share_at_floor": round(FLOOR * judged, 5),
        "replay_share_at_20_percent": round(OFTEN * judged, 5),
        "exact_slowdown": round(found["exact"], 2),
        "opening_bytes": _opening_bytes(laboratory, manifest, unit),
        "opening_bytes_of_a_newcomer": _opening_bytes(laboratory, manifest, newcomer),
        "update_bytes": unit.work.blob_bytes,
        "reached": found["commitments"] <= COMMITMENT_BOUND and FLOOR * judged <= REPLAY_BOUND,
    }


def _read(store: BlobStore, needed: Sequence[NeededFile]) -> dict[str, bytes]:
    return {one.address: store.get(one.address, max_size=one.bytes) for one in needed}


def _state(manifest: RunManifest, store: BlobStore, unit: Unit) -> InnerState:
    first = unit.work.segments[0]
    model = manifest.model
    return InnerState.from_files(
        model,
        store.get(first.parameters, max_size=parameter_layout(model).file_bytes),
        store.get(first.moments, max_size=moment_layout(model).file_bytes),
    )


def _opening_bytes(laboratory: Laboratory, manifest: RunManifest, unit: Unit) -> int:
    """Return the mean over segments of what one verifier fetches of a drawn unit, public files left out."""
    sizes = []
    for segment in range(manifest.segments):
        drawn, opened = laboratory.drawn(unit, segment)
        needed = {one.address: one for one in needed_files(manifest, drawn, opened.body) if not one.public}
        sizes.append(sum(one.bytes for one in needed.values()))
    return round(sum(sizes) / len(sizes))


def main(arguments: Sequence[str]) -> int:
    """Print one document or one line a figure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench cost", description=__doc__)
    parser.add_argument("--units", type=int, default=10)
    parser.add_argument("--inner-steps", type=int, default=STEPS, help="of a unit, a multiple of 3")
    parser.add_argument("--width", type=int, default=ModelConfig().width, help="of the model")
    parser.add_argument("--json", action="store_true", help="one document instead of a table")
    options = parser.parse_args(arguments)
    prepare_process(1)
    model = ModelConfig(width=options.width, feed_forward=3 * options.width)
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), model, options.units, options.inner_steps)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name.replace('_', ' '):28} {value}")
        bounds = f"commitments at most {COMMITMENT_BOUND:g}, replay at the floor at most {REPLAY_BOUND:g}"
        print(f"{bounds}: {'reached' if found['reached'] else 'MISSED'}", file=sys.stderr)
    return 0 if found["reached"] else 1

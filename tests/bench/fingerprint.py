"""How far fingerprints of honest replays differ, and how far one is that was interpolated from the opened ends.

The segments, machines and states are those of `drift`; every machine fingerprints the middle of its own replay. An
interpolation is fingerprinted without a replay: the mid-point of start and end, parameter by parameter and moment by
moment. Exits with 1 when an honest one is beyond the tolerance, or an interpolation is not.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from murmur.machines import BASE
from protocol.canonical import ZERO_DIGEST
from protocol.keys import PeerKey
from protocol.manifest import RunManifest
from protocol.messages import Commitment, sign
from tests.bench._peers import bench_manifest
from tests.bench.drift import (
    BY_NAME,
    MANIFEST,
    NUMBER,
    Case,
    beacon,
    cases,
    load,
    record,
    run_on,
    run_segment,
)
from training.assignment import assignment
from training.corpus import Shard
from training.inner import InnerState, InnerTrainer, prepare_process
from verification.commit import Carried
from verification.fingerprint import fingerprint, middle_steps
from verification.seal import fingerprint_distance, fingerprint_tolerance
from verification.unit import DrawnUnit

LINEAR = "linear mid-point"


def unit_of(manifest: RunManifest, case: Case) -> DrawnUnit:
    """Name a case as a drawn unit, as far as a fingerprint reads it."""
    body = Commitment(
        number=max(case.newcomer, NUMBER),
        profile=manifest.verification.profiles[0].name,
        segments=(ZERO_DIGEST,) * (manifest.segments + 1),
        **dict.fromkeys(("parameters", "assignment", "moments_before", "moments_after"), ZERO_DIGEST),
        **dict.fromkeys(("residual_before", "residual_after", "update"), ZERO_DIGEST),
    )
    commitment = sign(PeerKey(bytes([7]) * 32), manifest, case.round, "contributor", body)
    sampling = beacon(1, case.round)
    return DrawnUnit(commitment, case.segment, beacon(0, case.round), Carried(), sampling)


def midpoint(start: InnerState, end: InnerState) -> InnerState:
    """Interpolate linearly between the opened ends of a segment."""
    parts = (
        (0.5 * (getattr(start, part) + getattr(end, part))).astype(np.float32)
        for part in ("parameters", "exp_avg", "exp_avg_sq")
    )
    return InnerState(*parts, start.steps)


def replay_all(directory: Path, label: str, newcomers: int) -> None:
    """Fingerprint every case on this machine."""
    prepare_process(BY_NAME.get(label, BASE).threads)
    manifest = RunManifest.from_bytes((directory / MANIFEST).read_bytes())
    trainer = InnerTrainer(manifest, Shard.open(manifest.dataset, directory))
    steps = manifest.verification.segment_steps
    found = {}
    for case in cases(manifest, newcomers):
        offsets = assignment(manifest, beacon(0, case.round), case.round, max(case.newcomer, NUMBER))
        start = load(directory, case.start, manifest)
        trainer.load(start)
        run_segment(manifest, trainer, offsets, case.round, case.segment, middle_steps(steps))
        middle = trainer.state()
        if label == LINEAR:
            trainer.load(start)
            run_segment(manifest, trainer, offsets, case.round, case.segment)
            middle = midpoint(start, trainer.state())
        found[case.name] = fingerprint(manifest, unit_of(manifest, case), start, middle)
    (directory / f"{label}.json").write_text(json.dumps(found))


def main(arguments: Sequence[str]) -> int:
    """Record, fingerprint on each machine, and print quantiles of the distance to the first machine's."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench fingerprint", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one document instead of a table")
    parser.add_argument("--replay", nargs=2, metavar=("DIR", "LABEL"), help=argparse.SUPPRESS)
    parser.add_argument("--newcomers", type=int, default=4, help="with zero moments, in each of six rounds")
    parser.add_argument("--machines", nargs="+", choices=[*BY_NAME], help="instead of all")
    options = parser.parse_args(arguments)
    if options.replay:
        replay_all(Path(options.replay[0]), options.replay[1], options.newcomers)
        return 0
    rows, broken = [], False
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        prepare_process(1)
        manifest, shard = bench_manifest(directory, 0)
        (directory / MANIFEST).write_bytes(manifest.to_bytes())
        record(directory, manifest, shard)
        labels = list(dict.fromkeys([BASE.name, *(options.machines or BY_NAME), LINEAR]))
        shown = {}
        for label in labels:
            run_on(label, "fingerprint", name, options.newcomers)
            shown[label] = json.loads((directory / f"{label}.json").read_text())
        for label in labels[1:]:
            for zero in (False, True):
                tolerance = fingerprint_tolerance(manifest.verification.profiles[0].bound(zero))
                distances = [
                    fingerprint_distance(shown[label][case.name], shown[BASE.name][case.name])
                    for case in cases(manifest, options.newcomers)
                    if bool(case.newcomer) is zero
                ]
                least, most = min(distances), max(distances)
                broken |= least <= tolerance if label == LINEAR else most > tolerance
                rows.append(
                    {
                        "machine": label,
                        "moments": "zero" if zero else "carried",
                        "segments": len(distances),
                        "least": float(f"{least:.3g}"),
                        "median": float(f"{np.median(distances):.3g}"),
                        "most": float(f"{most:.3g}"),
                        "tolerance": tolerance,
                    }
                )
    if options.json:
        print(json.dumps({"fingerprints": rows}))
    else:
        for row in rows:
            print("  ".join(f"{key} {value}" for key, value in row.items()))
    return int(broken)

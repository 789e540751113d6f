"""What exact arithmetic costs, and how far honest float32 and bfloat16 are from it and from themselves elsewhere.

One peer's run is recorded in float32, then segments of it, from carried and from zero moments, are replayed in every
arithmetic on emulated machines (`murmur.machines`). `exact` distances are from the exact reference, which a
proven fault rests on (NumericProfile.slash_tolerance); `replay` ones from the same arithmetic on this machine, which a
replay's tolerance rests on. Costs are CPU time of the same segments in one process, one thread.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from murmur.machines import BASE
from protocol.manifest import CPU_BF16, CPU_EXACT, CPU_FP32, NumericProfile, RunManifest
from tests.bench._peers import beacon, bench_manifest
from tests.bench.drift import BY_NAME, MANIFEST, Case, cases, load, record, run_on, run_segment, save
from training.assignment import assignment
from training.corpus import Shard
from training.distance import segment_distances
from training.inner import prepare_process
from training.trainer import trainer_for

PROFILES = (CPU_FP32, CPU_BF16)


def name(profile: NumericProfile, machine: str, case: Case) -> str:
    return f"{profile.name}.{machine}.{case.name}"


def replay_all(
    directory: Path, machine: str, profiles: Sequence[NumericProfile], newcomers: int
) -> dict[str, float]:
    """Replay every case in every profile, keep the ends, and return each profile's CPU seconds."""
    manifest = RunManifest.from_bytes((directory / MANIFEST).read_bytes())
    shard = Shard.open(manifest.dataset, directory)
    spent = {}
    for profile in profiles:
        trainer, spent[profile.name] = trainer_for(manifest, shard, profile), 0.0
        for case in cases(manifest, newcomers):
            offsets = assignment(manifest, beacon(0, case.round), case.round, max(case.newcomer, 1))
            trainer.load(load(directory, case.start, manifest))
            began = time.process_time()
            run_segment(manifest, trainer, offsets, case.round, case.segment)
            spent[profile.name] += time.process_time() - began
            save(directory, name(profile, machine, case), manifest, trainer.state())
    return spent


def compare(
    directory: Path, manifest: RunManifest, profile: NumericProfile, machine: str, listed: Sequence[Case]
) -> dict[str, object]:
    """Return the worst tensors' distances of some cases from the exact reference and from this machine's replay."""
    found: dict[str, object] = {
        "profile": profile.name,
        "machine": machine,
        "moments": "zero" if listed[0].newcomer else "carried",
        "segments": len(listed),
    }
    for label, base in (("exact", CPU_EXACT), ("replay", profile)):
        worst = []
        for case in listed:
            start, end, other = (
                load(directory, one, manifest)
                for one in (case.start, name(profile, machine, case), name(base, BASE.name, case))
            )
            distances = segment_distances(manifest, start, end, other)
            worst.append(max((distance, tensor) for tensor, distance in distances.items()))
        values = [distance for distance, _ in worst]
        found |= {
            f"{label} q{round(100 * q)}": float(f"{np.quantile(values, q):.3g}") for q in (0.5, 0.99, 1)
        }
        found[f"{label} tensor"] = max(worst)[1]
    return found


def main(arguments: Sequence[str]) -> int:
    """Record, replay on each machine, and print costs, and the distances of the worst tensors."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench exact", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one document instead of a table")
    parser.add_argument("--newcomers", type=int, default=4, help="with zero moments, in each of six rounds")
    parser.add_argument("--machines", nargs="+", choices=list(BY_NAME), help="instead of all")
    parser.add_argument("--replay", nargs=2, metavar=("DIR", "MACHINE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    machine = BASE if options.replay is None else BY_NAME[options.replay[1]]
    prepare_process(machine.threads)
    if options.replay:
        replay_all(Path(options.replay[0]), options.replay[1], PROFILES, options.newcomers)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        manifest, shard = bench_manifest(directory, 0)
        (directory / MANIFEST).write_bytes(manifest.to_bytes())
        record(directory, manifest, shard)
        spent = replay_all(directory, BASE.name, (*PROFILES, CPU_EXACT), options.newcomers)
        others = [one for one in options.machines or BY_NAME if one != BASE.name]
        for label in others:
            run_on(label, "exact", folder, options.newcomers)
        every = cases(manifest, options.newcomers)
        groups = [[case for case in every if bool(case.newcomer) is zero] for zero in (False, True)]
        found = [
            compare(directory, manifest, profile, label, group)
            for profile in PROFILES
            for label in (BASE.name, *others)
            for group in groups
            if group
        ]
    ratios = {profile: round(cpu / spent[CPU_FP32.name], 2) for profile, cpu in spent.items()}
    if options.json:
        print(json.dumps({"cost": ratios, "machines": found}))
    else:
        print("CPU time over float32:", "  ".join(f"{profile} {ratio}" for profile, ratio in ratios.items()))
        for row in found:
            print("  ".join(f"{key} {value}" for key, value in row.items()))
    return 0

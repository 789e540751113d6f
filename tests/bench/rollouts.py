"""How far honest checks of honest rollouts are from what was claimed: what `RolloutTolerance`s are made from.

`python -m tests.bench rollouts [--seeds 3] [--json]`. Policies sample tasks on every machine that can be emulated
(`murmur.machines`), alone and in large batches, with a cache; every machine then checks all of them by prefill, and
exact arithmetic on this one. Per profile the largest of each value is printed, its tolerance and the margin.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from murmur.machines import BASE, MACHINES, Machine
from protocol.canonical import ZERO_DIGEST, digest
from protocol.manifest import (
    CPU_BF16,
    CPU_EXACT,
    CPU_FP32,
    LOCAL_CHAIN_ID,
    UNJUDGED,
    DatasetConfig,
    NumericProfile,
    RunManifest,
)
from protocol.model_config import ModelConfig
from protocol.rollout_config import RolloutTolerance, SamplingConfig
from protocol.rollouts import Shape, decode, decode_group, encode, encode_group, rollouts_of
from protocol.tensors import Floats, parameter_layout
from training.environments.pinned import open_environment_of
from training.environments.protocol import Environment
from training.generate import sample_groups
from training.inner import prepare_process
from training.model import Transformer, initial_parameters
from training.preset import preset
from training.rollout import ByteTokenizer
from training.tuning import TuningConfig, corpus_of, tune
from verification.sampled import CHECKS, Sampling, judge_groups

ARITHMETICS = (CPU_FP32, CPU_BF16)
SORT = preset("sort")
TUNING = TuningConfig(demonstrations=4096, steps=250, observation_weight=0.0)


@dataclass(frozen=True)
class Policy:
    """Name parameters and what they are asked."""

    name: str
    model: ModelConfig
    sampling: SamplingConfig

    def manifest(self) -> RunManifest:
        """Return a run in which it samples, with tolerances that nothing exceeds: nothing is repeated exactly."""
        fields = SORT.fields()
        wide = tuple(
            RolloutTolerance(
                profile=one.name, regret=100, median_off=100, max_off=100, fingerprint=10, slash_regret=100
            )
            for one in ARITHMETICS
        )
        rollouts = fields["rollouts"].model_copy(update={"sampling": self.sampling, "tolerances": wide})
        return RunManifest(
            name="rollouts",
            chain_id=LOCAL_CHAIN_ID,
            ledger="0x" + "00" * 20,
            coordinator="0x" + "00" * 20,
            dataset=DatasetConfig(name="none", root=ZERO_DIGEST, tokens=4000),
            initial_parameters=ZERO_DIGEST,
            program=ZERO_DIGEST,
            **(fields | {"model": self.model, "merging": UNJUDGED, "rollouts": rollouts}),
        )


SHORT = SamplingConfig(groups=12, group_size=8, turns=1, turn_tokens=6, tokens=24)
POLICIES = (
    Policy("tuned to sort", SORT.model, SHORT),
    Policy(
        "six layers of noise",
        ModelConfig(vocab=128, width=256, layers=6, heads=4, feed_forward=640, context=24),
        SHORT,
    ),
    Policy(
        "24 layers of noise",
        ModelConfig(vocab=128, width=96, layers=24, heads=3, feed_forward=256, context=24),
        SHORT,
    ),
    Policy(
        "large vocabulary, cool",
        ModelConfig(
            vocab=1024, width=128, layers=3, heads=4, key_heads=2, feed_forward=320, context=64, tied=False
        ),
        SamplingConfig(groups=3, group_size=8, temperature=0.6, turns=1, turn_tokens=40, tokens=56),
    ),
)


def tuned() -> Floats:
    """Return a policy that sorts now and then, tuned on this machine."""
    corpus = corpus_of(SORT.open(), SORT.sampling, ByteTokenizer(SORT.model.vocab), TUNING)
    return tune(SORT.model, corpus, TUNING)


def noisy(model: ModelConfig) -> Floats:
    """Return parameters none of which is zero."""
    noise = np.random.default_rng(1).normal(0, 0.05, parameter_layout(model).size)
    return (initial_parameters(model, 1) + noise).astype(np.float32)


def instances(manifest: RunManifest) -> Callable[[int, int], Environment]:
    opened = open_environment_of(rollouts_of(manifest))
    return lambda *_: opened.another()


def sample(folder: Path, machine: str, seeds: int) -> None:
    """Sample with every policy, in both arithmetics, in one batch and a group at a time."""
    for place, policy in enumerate(POLICIES):
        manifest, vector = policy.manifest(), np.load(folder / f"{place}.npy")
        model = Transformer.loaded(policy.model, vector)
        make, weights = instances(manifest), digest(vector.tobytes())
        for profile in ARITHMETICS:
            autocast = profile.arithmetic == "bf16"
            for seed in range(seeds):
                tasks = range(1000 * seed, 1000 * seed + policy.sampling.groups)
                parts = [tasks] if seed % 2 == 0 else [[task] for task in tasks]
                drawn = [
                    group
                    for part in parts
                    for group in sample_groups(manifest, model, weights, part, make, autocast=autocast)
                ]
                shape = Shape.of(manifest)
                file = encode([encode_group(group, shape) for group in drawn], shape)
                (folder / f"{machine} {place} {profile.arithmetic} {seed}").write_bytes(file)


def check(folder: Path, machine: str, seeds: int, samplers: list[str]) -> list[dict[str, Any]]:
    """Check what the machines sampled, in the same arithmetic; the base in exact arithmetic too."""
    found = []
    for place, policy in enumerate(POLICIES):
        manifest, vector = policy.manifest(), np.load(folder / f"{place}.npy")
        shape, weights = Shape.of(manifest), digest(vector.tobytes())
        for profile in ARITHMETICS:
            for sampler in samplers:
                for seed in range(seeds):
                    file = (folder / f"{sampler} {place} {profile.arithmetic} {seed}").read_bytes()
                    groups = [decode_group(raw, shape) for raw in decode(file, shape)]
                    judges: list[NumericProfile] = [profile]
                    if machine == BASE.name and seed == 0:
                        judges.append(CPU_EXACT)
                    for own in judges:
                        checked = list(enumerate(groups if own is profile else groups[:4]))
                        seeds_ = [1000 * seed + index for index in range(len(groups))]
                        sampling = Sampling("rollouts", manifest, vector, weights, checked, seeds_)
                        report = judge_groups(sampling, profile, own)
                        values = {one.check: one.value for one in report.measured.values}
                        found.append(
                            {"profile": profile.name, "judge": own.arithmetic, "policy": policy.name} | values
                        )
    return found


def _run(machine: Machine, job: str, folder: Path, seeds: int) -> list[dict[str, Any]]:
    argv = [sys.executable, "-m", "tests.bench", "rollouts", "--job", job, "--machine", machine.name]
    done = subprocess.run(
        [*argv, "--folder", str(folder), "--seeds", str(seeds)],
        env=machine.environment(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout) if done.stdout else []


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench rollouts")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--job", choices=["sample", "check"], help=argparse.SUPPRESS)
    parser.add_argument("--machine", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    names = [one.name for one in MACHINES]
    prepare_process(next((one.threads for one in MACHINES if one.name == options.machine), 1))
    if options.job == "sample":
        sample(options.folder, options.machine, options.seeds)
        return 0
    if options.job == "check":
        print(json.dumps(check(options.folder, options.machine, options.seeds, names)))
        return 0
    with tempfile.TemporaryDirectory(prefix="murmur-rollouts-") as name:
        folder = Path(name)
        np.save(folder / "0.npy", tuned())
        for place, policy in enumerate(POLICIES[1:], 1):
            np.save(folder / f"{place}.npy", noisy(policy.model))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda machine: _run(machine, "sample", folder, options.seeds), MACHINES))
            parts = pool.map(lambda machine: _run(machine, "check", folder, options.seeds), MACHINES)
            found = [one for part in parts for one in part]
    rows = []
    for profile in ARITHMETICS:
        for judge in (profile.arithmetic, "exact"):
            for policy in POLICIES:
                own = [
                    one
                    for one in found
                    if (one["profile"], one["judge"], one["policy"]) == (profile.name, judge, policy.name)
                ]
                rows.append(
                    {"profile": profile.name, "judge": judge, "policy": policy.name, "checks": len(own)}
                    | {check: max(one[check] for one in own) for check in CHECKS}
                )
    if options.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        values = "  ".join(f"{check} {row[check]:.2g}" for check in CHECKS)
        print(f"{row['profile']:9} by {row['judge']:6} {row['policy']:24} {row['checks']:4}  {values}")
    return 0

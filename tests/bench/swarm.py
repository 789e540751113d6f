"""A policy learns in a swarm: base model, rollouts, codec, outer step and staleness as in a run, without a network.

`python -m tests.bench swarm [--env sort] [--lag 2] [--peers 3] [--seed 0] [--json]`. Each round every peer samples its
own tasks with the round's parameters and takes its inner steps on what all peers sampled `lag` rounds before. Other
options replace figures of the preset. Held-out success is measured every few rounds and at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from typing import Any

import numpy as np

from protocol.canonical import ZERO_DIGEST, digest
from protocol.manifest import CPU_FP32, LOCAL_CHAIN_ID, DatasetConfig, RunManifest
from protocol.rollouts import Group, Shape, decode, decode_group, encode, encode_group, rollouts_of
from protocol.tensors import Floats
from protocol.update import encode as encode_update
from training.assignment import assignment, task_seeds
from training.base import base_model
from training.codec import compress
from training.evaluate import heldout_success
from training.experience import Experience, ExperienceTrainer
from training.inner import InnerState, prepare_process
from training.outer import aggregate, initial_state, parameters_file
from training.preset import Preset, preset
from training.rewards import group_rewards
from training.sampler import Sampler

ADDRESS = "0x" + "00" * 20


def manifest_of(chosen: Preset, seed: int) -> RunManifest:
    return RunManifest.model_validate(
        {
            "name": f"swarm {seed}",
            "chain_id": LOCAL_CHAIN_ID,
            "ledger": ADDRESS,
            "coordinator": ADDRESS,
            "dataset": DatasetConfig(name="none", root=ZERO_DIGEST, tokens=1),
            "initial_parameters": ZERO_DIGEST,
            "program": ZERO_DIGEST,
            **chosen.fields(),
        }
    )


@dataclasses.dataclass
class Clock:
    """Add up CPU seconds by what they went into."""

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    since: float = dataclasses.field(default_factory=time.process_time)

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.since
        self.since = now


class Peer:
    """Hold what a contributor carries from round to round."""

    def __init__(self, manifest: RunManifest, number: int, parameters: Floats) -> None:
        self.manifest = manifest
        self.number = number
        self.carried = InnerState.fresh(parameters)
        self.residual: Floats | None = None

    def learn(self, start: Floats, beacon: str, round_: int, experience: Experience) -> Any:
        """Take the inner steps of a unit and return its update."""
        carried = self.carried
        trainer = ExperienceTrainer(experience, CPU_FP32.arithmetic)
        trainer.load(InnerState(start, carried.exp_avg, carried.exp_avg_sq, carried.steps))
        trainer.run(
            assignment(self.manifest, beacon, round_, self.number), round_ * self.manifest.inner.steps
        )
        self.carried = trainer.state()
        update, self.residual = compress(self.manifest.codec, start - self.carried.parameters, self.residual)
        return update


def simulate(chosen: Preset, peers: int, seed: int, every: int) -> dict[str, Any]:
    clock = Clock()
    base = base_model(chosen, progress=told)
    clock.lap("tuning")
    manifest = manifest_of(chosen, seed)
    rollouts, shape = rollouts_of(manifest), Shape.of(manifest)
    weights = [one.weight for one in rollouts.rewards]
    state = initial_state(manifest, base.parameters)
    crowd = [Peer(manifest, number, base.parameters) for number in range(1, peers + 1)]
    sampled: list[tuple[Group, ...]] = []
    heldout = {0: heldout_success(manifest, base.parameters)}
    clock.lap("held out")
    curve, rollout_bytes, update_bytes = [], [], []
    for round_ in range(manifest.rounds):
        beacon = digest(f"{seed} {round_}".encode())
        address = digest(parameters_file(manifest, state))
        sampler = Sampler(manifest, state.parameters, address, CPU_FP32)
        groups: list[Group] = []
        for peer in crowd:
            own = sampler.groups(task_seeds(manifest, beacon, round_, peer.number))
            file = encode([encode_group(group, shape) for group in own], shape)
            rollout_bytes.append(len(file))
            groups += [decode_group(raw, shape) for raw in decode(file, shape)]
        sampled.append(tuple(groups))
        curve.append(float(np.mean([group_rewards(group, weights)[:, 0] for group in groups])))
        clock.lap("sampling")
        source = round_ - rollouts.lag
        experience = Experience(manifest, sampled[source] if source >= 0 else ())
        updates = [peer.learn(state.parameters, beacon, round_, experience) for peer in crowd]
        clock.lap("learning")
        update_bytes += [len(encode_update(update)) for update in updates]
        state = aggregate(manifest, state, updates)
        clock.lap("outer step")
        if (round_ + 1) % every == 0 or round_ + 1 == manifest.rounds:
            heldout[round_ + 1] = heldout_success(manifest, state.parameters)
            told_round(round_ + 1, heldout[round_ + 1].success, curve[-1])
            clock.lap("held out")
    first, last = heldout[0], heldout[manifest.rounds]
    return {
        "environment": chosen.environment,
        "peers": peers,
        "lag": rollouts.lag,
        "seed": seed,
        "rounds": manifest.rounds,
        "parameters": int(base.parameters.size),
        "success": {"first": round(first.success, 3), "last": round(last.success, 3)},
        "reward": {
            "first": round(first.reward, 3),
            "last": round(last.reward, 3),
            "curve": [round(value, 3) for value in curve],
        },
        "components": {name: round(value, 3) for name, value in last.components.items()},
        "heldout": {round_: round(one.success, 3) for round_, one in heldout.items()},
        "wire": {
            "rollout_bytes": round(float(np.mean(rollout_bytes))),
            "update_bytes": round(float(np.mean(update_bytes))),
            "parameters_bytes": len(parameters_file(manifest, state)),
        },
        "cpu_s_round": {
            name: round(clock.seconds[name] / manifest.rounds, 3)
            for name in ("sampling", "learning", "outer step")
        },
        "cpu_s": {name: round(value, 1) for name, value in clock.seconds.items()},
    }


def told(step: int, steps: int, loss: float) -> None:
    if step % 50 == 0:
        print(f"tuning: step {step} of {steps}, loss {loss:.3f}", file=sys.stderr)


def told_round(round_: int, success: float, reward: float) -> None:
    print(f"round {round_}: success {success:.3f}, sampled reward {reward:.3f}", file=sys.stderr)


REPLACED = {
    "rounds": (int, None),
    "lag": (int, None),
    "groups": (int, "sampling"),
    "group_size": (int, "sampling"),
    "steps": (int, "inner"),
    "batch": (int, "inner"),
    "lr": (float, "inner"),
    "min_lr_fraction": (float, "inner"),
    "outer_lr": (float, "outer"),
    "k": (int, "codec"),
    "tuning_steps": (int, "tuning"),
    "observation_weight": (float, "tuning"),
}
"""Options that replace a figure of the preset: their type, and the part it belongs to."""


def replaced(chosen: Preset, options: argparse.Namespace) -> Preset:
    values = chosen.model_dump()
    for name, (_, part) in REPLACED.items():
        value = getattr(options, name)
        if value is not None:
            field = {"outer_lr": "lr", "tuning_steps": "steps"}.get(name, name)
            (values if part is None else values[part])[field] = value
    if options.settings is not None:
        values["settings"] = options.settings
    return Preset.model_validate(values)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench swarm")
    parser.add_argument("--env", default="sort")
    parser.add_argument("--settings", type=json.loads, help="of the environment, a JSON object")
    parser.add_argument("--peers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=7, help="rounds between two measurements")
    parser.add_argument("--json", action="store_true")
    for name, (kind, _) in REPLACED.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind)
    options = parser.parse_args(arguments)
    prepare_process(1)
    chosen = replaced(preset(options.env), options)
    found = simulate(chosen, options.peers, options.seed, options.every)
    print(json.dumps(found) if options.json else json.dumps(found, indent=1))
    return 0

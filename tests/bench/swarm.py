"""A policy learns in a swarm: how far, how fast, and in how many bytes (`tests.bench._swarm`).

`python -m tests.bench swarm [--env sort] [--lag 2] [--peers 3] [--seed 0] [--json]`. Other options replace figures of
the preset. Held-out success is measured every few rounds and at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np

from node.honesty import HonestSteps
from tests.bench._swarm import Course, Swarm, run
from training.inner import prepare_process
from training.outer import parameters_file
from training.preset import Preset, preset


def summary(swarm: Swarm, course: Course) -> dict[str, Any]:
    """Return every figure."""
    manifest = swarm.manifest
    rounds = manifest.rounds
    curve = [round(one.reward, 3) for one in course.rounds]
    first, last = course.heldout[0], course.heldout[rounds]
    spent = course.clock.spent
    return {
        "environment": swarm.preset.environment,
        "peers": len(swarm.crowd),
        "lag": swarm.lag,
        "corrected": swarm.corrected,
        "seed": swarm.seed,
        "rounds": rounds,
        "parameters": int(course.parameters.size),
        "success": {"first": course.success[0], "last": course.success[rounds]},
        "reward": {"first": round(first.reward, 3), "last": round(last.reward, 3), "curve": curve},
        "components": {name: round(value, 3) for name, value in last.components.items()},
        "heldout": course.success,
        "wire": {
            "rollout_bytes": round(
                float(np.mean([len(file) for one in course.rounds for file in one.files]))
            ),
            "update_bytes": round(
                float(np.mean([len(update) for one in course.rounds for update in one.updates]))
            ),
            "parameters_bytes": len(parameters_file(manifest, course.rounds[-1].state)),
        },
        "cpu_s_round": {
            name: round(spent[name] / rounds, 3)
            for name in ("sampling", "checking", "learning", "outer step")
        },
        "cpu_s": {name: round(value, 1) for name, value in spent.items()},
    }


def told(step: int, steps: int, loss: float) -> None:
    """Say how far tuning is."""
    if step % 50 == 0:
        print(f"tuning: step {step} of {steps}, loss {loss:.3f}", file=sys.stderr)


REPLACED = {
    "rounds": (int, None),
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
    """Return the preset with what the options say."""
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
    """Print one document."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench swarm", description=__doc__)
    parser.add_argument("--env", default="sort")
    parser.add_argument("--settings", type=json.loads, help="of the environment, a JSON object")
    parser.add_argument("--peers", type=int, default=3)
    parser.add_argument("--lag", type=int, help="rounds between sampling and learning, from 0")
    parser.add_argument("--uncorrected", action="store_true", help="do not correct for a sample's age")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=7, help="rounds between two measurements")
    parser.add_argument("--json", action="store_true")
    for name, (kind, _) in REPLACED.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind)
    options = parser.parse_args(arguments)
    prepare_process(1)
    chosen = replaced(preset(options.env), options)
    swarm = Swarm(
        chosen,
        crowd=(HonestSteps(),) * options.peers,
        lag=chosen.lag if options.lag is None else options.lag,
        seed=options.seed,
        corrected=not options.uncorrected,
    )
    course = run(swarm, {*range(0, chosen.rounds, options.every), chosen.rounds}, told)
    found = summary(swarm, course)
    print(json.dumps(found) if options.json else json.dumps(found, indent=1))
    return 0

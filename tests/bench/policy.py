"""A tiny policy learns to sort: fine-tuned on a corpus that is mostly wrong, then improved by GRPO.

`python -m tests.bench policy [--steps 100] [--lag 0] [--json]`. One process, no network; samples go through their
wire format, so log-probabilities are the quantised ones that a swarm learns from.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from typing import Any

import numpy as np
import torch

from protocol.canonical import ZERO_DIGEST, digest
from protocol.manifest import (
    DatasetConfig,
    EnvironmentConfig,
    InnerConfig,
    ModelConfig,
    PolicyConfig,
    RewardWeight,
    RolloutConfig,
    RolloutTolerance,
    RunManifest,
    SamplingConfig,
    VerificationConfig,
)
from protocol.rollouts import Doubles, Group, Shape, decode, decode_group, encode, encode_group
from training.environments.definition import config_hash
from training.environments.demonstration import demonstrate
from training.environments.sort import SORT, Sort, SortConfig
from training.generate import Task, generate, sample_groups
from training.inner import InnerState, prepare_process
from training.model import Transformer, initial_parameters
from training.policy import PolicyBatch, PolicyTrainer, SupervisedBatch
from training.prefill import ExactScorer, PlainScorer, judge
from training.rewards import group_rewards
from training.rollout import ByteTokenizer
from training.sampling import noise_key

MODEL = ModelConfig(vocab=128, width=64, layers=2, heads=2, feed_forward=160, context=32)
CONFIG = SortConfig()
SFT_STEPS, SFT_BATCH = 400, 64
HELD_OUT = range(10**9, 10**9 + 768)


def make() -> Sort:
    return Sort(CONFIG)


def demonstration(seed: int) -> tuple[bytes, list[float]]:
    (turn,) = demonstrate(SORT, make(), seed).outcome.turns
    prompt, answer = str(turn.observation), turn.action + "\n"
    return f"{prompt}{answer}".encode(), [0.0] * len(prompt) + [1.0] * len(answer)


def run_manifest(sampling: SamplingConfig, **inner: Any) -> RunManifest:
    address = "0x" + "00" * 20
    tolerance = RolloutTolerance(
        profile="cpu-fp32", regret=1e-3, median_off=1e-4, max_off=1e-2, fingerprint=1e-3, slash_regret=1e-2
    )
    return RunManifest(
        name="sort",
        chain_id=31337,
        ledger=address,
        coordinator=address,
        rounds=1,
        model=MODEL,
        inner=InnerConfig(batch=1, **inner),
        verification=VerificationConfig(segment_steps=1),
        rollouts=RolloutConfig(
            environment=EnvironmentConfig(
                name=SORT.id, version=SORT.version, settings_hash=config_hash(CONFIG)
            ),
            sampling=sampling,
            rewards=(RewardWeight(component="sorted", weight=1.0),),
            tolerances=(tolerance,),
        ),
        dataset=DatasetConfig(name="none", root=ZERO_DIGEST, tokens=4000),
        initial_parameters=ZERO_DIGEST,
        program=ZERO_DIGEST,
    )


class Clock:
    """Add up CPU seconds by what they went into."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.process_time()

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


def success(model: Transformer, sampling: SamplingConfig) -> float:
    tasks = [Task(make(), seed, noise_key(ZERO_DIGEST, ZERO_DIGEST, seed, 0)) for seed in HELD_OUT]
    found = generate(model, MODEL, tasks, sampling, ByteTokenizer(MODEL.vocab))
    return float(np.mean([one.rollout.rewards() for one in found]))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench policy")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--groups", type=int, default=32)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--eps", type=float, default=1e-5)
    parser.add_argument("--tuning", type=int, default=SFT_STEPS)
    parser.add_argument("--lag", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    prepare_process(1)
    sampling = SamplingConfig(
        groups=options.groups, group_size=options.size, turns=1, turn_tokens=CONFIG.length + 1, tokens=24
    )
    model = Transformer(MODEL, torch.device("cpu"))
    clock = Clock()

    tuning = run_manifest(
        sampling, steps=options.tuning, lr=4e-3, warmup_steps=20, weight_decay=0.01, eps=options.eps
    )
    trainer = PolicyTrainer(tuning, PolicyConfig(), sampling.temperature)
    trainer.load(InnerState.fresh(initial_parameters(MODEL, options.seed)))
    for step in range(options.tuning):
        begin = (options.seed * options.tuning + step) * SFT_BATCH
        seeds = range(begin, begin + SFT_BATCH)
        trainer.run([SupervisedBatch.of([demonstration(seed) for seed in seeds])], step)
    state = InnerState.fresh(trainer.state().parameters)
    clock.lap("fine-tuning")

    def load(parameters: np.ndarray) -> None:
        with torch.no_grad():
            model.parameters.copy_(torch.from_numpy(np.array(parameters)))

    load(state.parameters)
    first = success(model, sampling)
    clock.lap("evaluation")
    learning = run_manifest(
        sampling,
        steps=options.steps,
        lr=options.lr,
        min_lr_fraction=1.0,
        warmup_steps=0,
        weight_decay=0.0,
        eps=options.eps,
    )
    trainer = PolicyTrainer(learning, PolicyConfig(), sampling.temperature)
    trainer.load(state)
    shape = Shape.of(learning)
    waiting: deque[tuple[list[Group], list[Doubles]]] = deque()
    curve, wire = [], 0
    for step in range(options.steps):
        weights = trainer.state()
        load(weights.parameters)
        version = digest(weights.parameters_file(MODEL))
        begin = 10**7 * (options.seed + 1) + step * options.groups
        seeds = range(begin, begin + options.groups)
        drawn = sample_groups(learning, model, version, seeds, make)
        clock.lap("generation")
        file = encode([encode_group(group, shape) for group in drawn], shape)
        wire += len(file)
        groups = [decode_group(raw, shape) for raw in decode(file, shape)]
        rewards = [group_rewards(group, (1.0,)) for group in groups]
        curve.append(float(np.mean(rewards)))
        clock.lap("wire")
        waiting.append((groups, rewards))
        if len(waiting) > options.lag:
            trainer.run([PolicyBatch.of(*waiting.popleft())], step)
        clock.lap("learning")
    samples = [sample for group in drawn for sample in group]
    keys = [
        noise_key(learning.run_id, version, seed, index) for seed in seeds for index in range(options.size)
    ]
    for name, scorer in (
        ("check", PlainScorer(MODEL, model)),
        ("exact check", ExactScorer(MODEL, weights.parameters)),
    ):
        judged = judge(scorer, samples, keys, sampling.temperature)
        clock.lap(name)
        assert max(one.max_regret for one in judged) < 1e-3
    load(trainer.state().parameters)
    last = success(model, sampling)
    found = {
        "success": {"first": first, "last": last},
        "reward": [round(float(np.mean(curve[at : at + 25])), 3) for at in range(0, len(curve), 25)],
        "max_regret": max(one.max_regret for one in judged),
        "rollout_bytes_step": wire // options.steps,
        "cpu_s": {name: round(value, 3) for name, value in clock.seconds.items()},
    }
    print(json.dumps(found) if options.json else json.dumps(found, indent=1))
    return 0

"""A tiny policy learns to sort: fine-tuned on a corpus that is mostly wrong, then improved by GRPO.

`python -m tests.bench policy [--steps 100] [--lag 0] [--json]`. One process, no network; samples go through their
wire format, so log-probabilities are the quantised ones that a swarm learns from.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from protocol.canonical import ZERO_DIGEST, digest
from protocol.manifest import (
    DatasetConfig,
    InnerConfig,
    ModelConfig,
    PolicyConfig,
    RunManifest,
    SamplingConfig,
    VerificationConfig,
)
from protocol.rollouts import Group, Sample, Shape, decode, decode_group, encode, encode_group, quantise
from training.episode import ByteTokenizer
from training.generate import Sampled, Task, generate
from training.inner import InnerState, prepare_process
from training.model import Transformer, initial_parameters
from training.policy import PolicyBatch, PolicyTrainer, SupervisedBatch
from training.prefill import ExactScorer, PlainScorer, judge
from training.sampling import noise_key

MODEL = ModelConfig(vocab=128, width=64, layers=2, heads=2, feed_forward=160, context=32)
LETTERS = 5
GOOD = 0.35
SFT_STEPS, SFT_BATCH = 400, 64
HELD_OUT = range(10**9, 10**9 + 768)
RUN = "00" * 32


class Sort:
    """Ask for five letters in order."""

    def reset(self, seed: int) -> tuple[str, Mapping[str, Any]]:
        self.letters = "".join(random.Random(seed).choices("abcdefghij", k=LETTERS))
        return f"sort {self.letters}=", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, Mapping[str, Any]]:
        return "", float(action == "".join(sorted(self.letters))), True, False, {}


def demonstration(seed: int, rng: random.Random) -> tuple[bytes, list[float]]:
    environment = Sort()
    prompt = environment.reset(seed)[0]
    letters = environment.letters
    answer = "".join(sorted(letters))
    if rng.random() >= GOOD:
        shuffled = "".join(rng.sample(letters, LETTERS))
        answer = rng.choice([letters, letters[::-1], answer[::-1], shuffled])
    return f"{prompt}{answer}\n".encode(), [0.0] * len(prompt) + [1.0] * (LETTERS + 1)


def run_manifest(**inner: Any) -> RunManifest:
    address = "0x" + "00" * 20
    return RunManifest(
        name="sort",
        chain_id=31337,
        ledger=address,
        coordinator=address,
        rounds=1,
        model=MODEL,
        inner=InnerConfig(batch=1, **inner),
        verification=VerificationConfig(segment_steps=1),
        dataset=DatasetConfig(name="none", root=ZERO_DIGEST, tokens=4000),
        initial_parameters=ZERO_DIGEST,
        program=ZERO_DIGEST,
    )


def sampled(found: Sampled) -> Sample:
    episode = found.episode
    rewards = np.array([sum(step.reward for step in episode.steps)])
    tokens, turns = np.array(episode.tokens, np.uint16), np.array(episode.turns, np.uint16)
    return Sample(tokens, turns, quantise(found.log_probabilities), rewards)


class Clock:
    """Add up CPU seconds by what they went into."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.process_time()

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


def success(model: Transformer, sampling: SamplingConfig, tokenizer: ByteTokenizer) -> float:
    tasks = [Task(Sort(), seed, noise_key(RUN, RUN, seed, 0)) for seed in HELD_OUT]
    found = generate(model, MODEL, tasks, sampling, tokenizer)
    return float(np.mean([sampled(one).rewards[0] for one in found]))


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
        groups=options.groups, group_size=options.size, turns=1, turn_tokens=LETTERS + 1, tokens=24
    )
    shape, tokenizer = Shape(sampling, 1, MODEL.vocab), ByteTokenizer(MODEL.vocab)
    model = Transformer(MODEL, torch.device("cpu"))
    clock, rng = Clock(), random.Random(options.seed)

    tuning = run_manifest(steps=options.tuning, lr=4e-3, warmup_steps=20, weight_decay=0.01, eps=options.eps)
    trainer = PolicyTrainer(tuning, PolicyConfig(), sampling.temperature)
    trainer.load(InnerState.fresh(initial_parameters(MODEL, options.seed)))
    for step in range(options.tuning):
        seeds = range(step * SFT_BATCH, (step + 1) * SFT_BATCH)
        trainer.run([SupervisedBatch.of([demonstration(seed, rng) for seed in seeds])], step)
    state = InnerState.fresh(trainer.state().parameters)
    clock.lap("fine-tuning")

    def load(parameters: np.ndarray) -> None:
        with torch.no_grad():
            model.parameters.copy_(torch.from_numpy(np.array(parameters)))

    load(state.parameters)
    first = success(model, sampling, tokenizer)
    clock.lap("evaluation")
    learning = run_manifest(
        steps=options.steps,
        lr=options.lr,
        min_lr_fraction=1.0,
        warmup_steps=0,
        weight_decay=0.0,
        eps=options.eps,
    )
    trainer = PolicyTrainer(learning, PolicyConfig(), sampling.temperature)
    trainer.load(state)
    waiting: deque[tuple[list[Group], list[list[float]]]] = deque()
    curve, wire = [], 0
    for step in range(options.steps):
        weights = trainer.state()
        load(weights.parameters)
        version = digest(weights.parameters_file(MODEL))
        begin = 10**7 * (options.seed + 1) + step * options.groups
        tasks = [
            Task(Sort(), seed, noise_key(RUN, version, seed, index))
            for seed in range(begin, begin + options.groups)
            for index in range(options.size)
        ]
        drawn = [sampled(one) for one in generate(model, MODEL, tasks, sampling, tokenizer)]
        clock.lap("generation")
        rows = [tuple(drawn[at : at + options.size]) for at in range(0, len(drawn), options.size)]
        file = encode([encode_group(group, shape) for group in rows], shape)
        wire += len(file)
        groups = [decode_group(raw, shape) for raw in decode(file, shape)]
        rewards = [[float(one.rewards[0]) for one in group] for group in groups]
        curve.append(float(np.mean(rewards)))
        clock.lap("wire")
        waiting.append((groups, rewards))
        if len(waiting) > options.lag:
            trainer.run([PolicyBatch.of(*waiting.popleft())], step)
        clock.lap("learning")
    keys = [task.key for task in tasks]
    for name, scorer in (
        ("check", PlainScorer(MODEL, model)),
        ("exact check", ExactScorer(MODEL, weights.parameters)),
    ):
        judged = judge(scorer, drawn, keys, sampling.temperature)
        clock.lap(name)
        assert max(one.max_regret for one in judged) < 1e-3
    load(trainer.state().parameters)
    last = success(model, sampling, tokenizer)
    found = {
        "success": {"first": first, "last": last},
        "reward": [round(float(np.mean(curve[at : at + 25])), 3) for at in range(0, len(curve), 25)],
        "max_regret": max(one.max_regret for one in judged),
        "rollout_bytes_step": wire // options.steps,
        "cpu_s": {name: round(value, 3) for name, value in clock.seconds.items()},
    }
    print(json.dumps(found) if options.json else json.dumps(found, indent=1))
    return 0

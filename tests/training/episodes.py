"""A small environment and samples of it, for tests of what plays and judges episodes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from protocol.manifest import ModelConfig, SamplingConfig
from protocol.rollouts import Sample, quantise
from protocol.tensors import Floats, parameter_layout
from training.episode import ByteTokenizer, Episode
from training.generate import Sampled, Task
from training.model import initial_parameters
from training.sampling import noise_key

MODEL = ModelConfig(vocab=128, width=32, layers=2, heads=2, feed_forward=48, context=48)
SAMPLING = SamplingConfig(groups=2, group_size=4, end_token=10, turns=3, turn_tokens=40, tokens=48)
TOKENIZER = ByteTokenizer(vocab=128)
RUN, WEIGHTS = "ab" * 32, "cd" * 32


class Echo:
    """Ask for letters; answer every action with as many dots as it has characters, and end at the third."""

    def __init__(self) -> None:
        self.actions: list[str] = []

    def reset(self, seed: int) -> tuple[str, Mapping[str, Any]]:
        rng = random.Random(seed)
        self.actions = []
        return "say " + "".join(rng.choices("abc", k=1 + seed % 4)) + "=", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, Mapping[str, Any]]:
        self.actions.append(action)
        done = len(self.actions) == 3
        return "." * min(len(action), 5), float(len(action)), done, False, {"turn": len(self.actions)}


def lively(model: ModelConfig = MODEL, seed: int = 3) -> Floats:
    """Return parameters none of which is zero, so that logits depend on every token before them."""
    noise = np.random.default_rng(seed).normal(0, 0.1, parameter_layout(model).size)
    found = (initial_parameters(model, seed) + noise).astype(np.float32)
    # The end token must turn up for episodes to have turns: its logit follows a direction that the others lack.
    embedding = found[: model.vocab * model.width].reshape(model.vocab, model.width)
    embedding[SAMPLING.end_token] *= 2.0
    return found


def key(seed: int, index: int, weights: str = WEIGHTS) -> bytes:
    return noise_key(RUN, weights, seed, index)


def tasks(seeds: Sequence[int], samples: int = SAMPLING.group_size) -> list[Task]:
    return [Task(Echo(), seed, key(seed, index)) for seed in seeds for index in range(samples)]


def sample(sampled: Sampled) -> Sample:
    episode = sampled.episode
    return Sample(
        np.array(episode.tokens, np.uint16),
        np.array(episode.turns, np.uint16).reshape(-1, 2),
        quantise(sampled.log_probabilities),
        np.array([sum(step.reward for step in episode.steps)]),
    )


def scripted(seed: int, said: str, config: SamplingConfig = SAMPLING) -> Episode:
    """Play a policy that says `said`, a byte a token, as long as the episode lets it."""
    episode = Episode(Echo(), seed, config, TOKENIZER)
    for token in said.encode():
        episode.observe(episode.forced)
        if episode.over:
            break
        episode.take(token)
    return episode

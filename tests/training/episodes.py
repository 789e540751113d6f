"""A small environment and samples of it, for tests of what plays and judges episodes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from protocol.model_config import ModelConfig
from protocol.rollout_config import SamplingConfig
from protocol.rollouts import PROJECTIONS, Sample
from protocol.tensors import Floats, parameter_layout
from training.environments.protocol import Component, ComponentSpec, EnvSpec, Info, Observation, Step
from training.generate import Task
from training.model import initial_parameters
from training.rollout import ByteTokenizer, Rollout
from training.sampling import noise_key

MODEL = ModelConfig(vocab=128, width=32, layers=2, heads=2, feed_forward=48, context=48)
SAMPLING = SamplingConfig(groups=2, group_size=4, end_token=10, turns=3, turn_tokens=40, tokens=48)
TOKENIZER = ByteTokenizer(vocab=128)
RUN, WEIGHTS = "ab" * 32, "cd" * 32


class Echo:
    """Ask for letters; answer every action with as many dots as it has characters, and end at the third."""

    spec = EnvSpec(
        "echo",
        "1",
        max_turns=8,
        max_tokens=1000,
        components=(ComponentSpec("said", high=1000.0), ComponentSpec("turns", high=8.0)),
        max_action_bytes=30,
    )

    def __init__(self) -> None:
        self.player = 0
        self.actions: list[str] = []

    def reset(self, seed: int) -> tuple[Observation, Info]:
        rng = random.Random(seed)
        self.actions = []
        return "say " + "".join(rng.choices("abc", k=1 + seed % 4)) + "=", {}

    def step(self, action: str) -> Step:
        self.actions.append(action)
        done = len(self.actions) == 3
        return "." * min(len(action), 5), float(len(action)), done, False, {"turn": len(self.actions)}

    def components(self, player: int = 0) -> tuple[Component, ...]:
        said = sum(map(len, self.actions))
        return Component("said", float(said)), Component("turns", float(len(self.actions)))


class Duel(Echo):
    """The same for two, who act in turn; what each has said is its own."""

    spec = EnvSpec("duel", "1", max_turns=3, max_tokens=1000, components=Echo.spec.components, players=2)

    def reset(self, seed: int) -> tuple[Observation, Info]:
        self.player = 0
        return super().reset(seed)

    def step(self, action: str) -> Step:
        found = super().step(action)
        self.player = 1 - self.player
        return found

    def components(self, player: int = 0) -> tuple[Component, ...]:
        own = self.actions[player::2]
        return Component("said", float(sum(map(len, own)))), Component("turns", float(len(own)))


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


def sample_of(rollout: Rollout) -> Sample:
    """Return a sample whose policy is beside the point."""
    spoken = sum(end - start for start, end in rollout.turns)
    return Sample(
        np.array(rollout.tokens, np.uint16),
        np.array(rollout.turns, np.uint16).reshape(-1, 2),
        np.array(rollout.players, np.uint8),
        np.zeros(spoken, np.uint8),
        rollout.rewards(),
        np.zeros(PROJECTIONS, np.float32),
    )


def scripted(
    seed: int, said: str, config: SamplingConfig = SAMPLING, environment: type[Echo] = Echo
) -> Rollout:
    """Play a policy that says `said`, a byte a token, as long as the rule lets it."""
    rollout = Rollout(environment(), seed, config, TOKENIZER)
    for token in said.encode():
        rollout.observe(rollout.forced)
        if rollout.over:
            break
        rollout.take(token)
    return rollout

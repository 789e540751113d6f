"""A small run of reinforcement learning, and honest units of it, for tests of what checks rollouts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from protocol.canonical import ZERO_DIGEST, canonical_json, digest
from protocol.manifest import UNJUDGED, DatasetConfig, InnerConfig, RunManifest, VerificationConfig
from protocol.model_config import ModelConfig
from protocol.rollout_config import (
    EnvironmentConfig,
    RewardWeight,
    RolloutConfig,
    RolloutTolerance,
    SamplingConfig,
)
from protocol.rollouts import Group, Sample, Shape, encode_group
from protocol.tensors import Floats, parameter_layout
from training.assignment import task_seeds
from training.environments.definition import config_values
from training.environments.pinned import open_environment_of
from training.environments.registry import open_environment
from training.generate import sample_groups
from training.model import Transformer, initial_parameters

MODEL = ModelConfig(vocab=128, width=32, layers=2, heads=2, feed_forward=48, context=64)
BEACON, ROUND, NUMBER = "be" * 32, 3, 7
TOLERANCE = RolloutTolerance(
    profile="cpu-fp32", regret=1e-3, median_off=1e-4, max_off=1e-3, fingerprint=1e-4, slash_regret=1e-2
)


def rollout_config(name: str = "sort", **changes: Any) -> RolloutConfig:
    """Pin an installed environment with its defaults."""
    opened = open_environment(name)
    spec = opened.environment.spec
    environment = EnvironmentConfig(
        name=opened.pin.name,
        version=opened.pin.version,
        settings=canonical_json(config_values(opened.config)).decode(),
        settings_hash=opened.pin.config_hash,
        players=spec.players,
    )
    sampling = SamplingConfig(groups=3, group_size=4, turns=8, turn_tokens=8, tokens=60)
    rewards = tuple(RewardWeight(component=one.name, weight=one.weight) for one in spec.components)
    config = RolloutConfig(
        environment=environment, sampling=sampling, rewards=rewards, tolerances=(TOLERANCE,)
    )
    return config.model_copy(update=changes)


def rollout_manifest(name: str = "sort", **changes: Any) -> RunManifest:
    return RunManifest(
        name="rollouts",
        chain_id=31337,
        ledger="0x" + "11" * 20,
        coordinator="0x" + "22" * 20,
        rounds=6,
        model=MODEL,
        inner=InnerConfig(steps=6, batch=1),
        verification=VerificationConfig(segment_steps=2),
        merging=UNJUDGED,
        rollouts=rollout_config(name, **changes),
        dataset=DatasetConfig(name="none", root=ZERO_DIGEST, tokens=4002),
        initial_parameters=ZERO_DIGEST,
        program=ZERO_DIGEST,
    )


@cache
def parameters(seed: int = 3) -> Floats:
    """Return parameters none of which is zero; they say moves of nim now and then, and end their turns."""
    noise = np.random.default_rng(seed).normal(0, 0.1, parameter_layout(MODEL).size)
    found = (initial_parameters(MODEL, seed) + noise).astype(np.float32)
    embedding = found[: MODEL.vocab * MODEL.width].reshape(MODEL.vocab, MODEL.width)
    embedding[SamplingConfig().end_token] *= 2.0
    return found


def policy(vector: Floats) -> Transformer:
    model = Transformer(MODEL, torch.device("cpu"))
    model.parameters.copy_(torch.from_numpy(vector))
    return model


@dataclass(frozen=True)
class Unit:
    """Hold the rollouts of one honest unit."""

    manifest: RunManifest
    groups: tuple[Group, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return task_seeds(self.manifest, BEACON, ROUND, NUMBER)

    def raw(self) -> tuple[bytes, ...]:
        """Return the groups' canonical bytes."""
        shape = Shape.of(self.manifest)
        return tuple(encode_group(group, shape) for group in self.groups)

    def changed(self, group: int, sample: int, **changes: Any) -> Unit:
        """Return the unit with fields of one sample replaced."""
        groups = list(self.groups)
        samples = list(groups[group])
        samples[sample] = replace(samples[sample], **changes)
        groups[group] = tuple(samples)
        return Unit(self.manifest, tuple(groups))

    def sample(self, group: int, sample: int) -> Sample:
        return self.groups[group][sample]


def weights_of(vector: Floats) -> str:
    return digest(vector.astype("<f4").tobytes())


@cache
def honest_unit(name: str = "sort") -> Unit:
    manifest = rollout_manifest(name)
    assert manifest.rollouts is not None
    another = open_environment_of(manifest.rollouts).another
    seeds = task_seeds(manifest, BEACON, ROUND, NUMBER)
    vector = parameters()
    return Unit(
        manifest, sample_groups(manifest, policy(vector), weights_of(vector), seeds, lambda *_: another())
    )

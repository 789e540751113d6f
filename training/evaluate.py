"""How good a run's parameters are on what nobody trains on, so that figures of two runs compare.

Of a language model it is the loss on fixed windows of the dataset; of a policy, what it earns on tasks that no beacon
draws. Those are sampled with noise of their own that is the same for all parameters: two rounds differ by what was
learnt, not by luck.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from protocol.canonical import ZERO_DIGEST
from protocol.errors import ConfigError
from protocol.judging import judge_of, judging
from protocol.manifest import RunManifest
from protocol.rollouts import rollouts_of
from protocol.tensors import Floats
from training.assignment import Offsets, batch, heldout_seeds, heldout_start
from training.corpus import Shard
from training.environments.pinned import open_environment_of
from training.environments.protocol import succeeded
from training.generate import Task, generate
from training.judging import Judging, prompt_of
from training.model import Transformer
from training.rewards import total_reward
from training.sampling import noise_key
from training.tokenizer import tokenizer_of

WINDOWS: Final = 512
TASKS: Final = 512
_BATCH: Final = 64
_ROLLOUTS: Final = 256  # played at once


@dataclass(frozen=True)
class Heldout:
    """Hold what a policy earns on held-out tasks, each played once; of several players, what the first one does."""

    success: float  # share of tasks done, as the environment counts them (`EnvSpec.success`)
    reward: float  # mean total under the run's weights
    components: dict[str, float]  # mean of each, before any weight


def heldout_windows(manifest: RunManifest, windows: int = WINDOWS) -> Offsets:
    """Return where the windows start, evenly spread over the held-out tokens: int64[at most windows].

    Raises:
        ConfigError: the held-out part is shorter than one window.
    """
    start = heldout_start(manifest.dataset)
    last = manifest.dataset.tokens - manifest.model.context - 1
    if last < start:
        raise ConfigError("the held-out part is shorter than one window", hint="use a longer text")
    count = min(windows, last - start + 1)
    return start + np.arange(count, dtype=np.int64) * (last - start) // max(count - 1, 1)


def heldout_loss(
    manifest: RunManifest, parameters: Floats, shard: Shard, windows: int = WINDOWS, device: str = "cpu"
) -> float:
    """Return the mean loss in nats a byte of parameters float32[P] over the held-out windows."""
    return mean_loss(manifest, parameters, shard, heldout_windows(manifest, windows), device)


def mean_loss(
    manifest: RunManifest, parameters: Floats, shard: Shard, offsets: Offsets, device: str = "cpu"
) -> float:
    """Return the mean loss in nats a byte of parameters float32[P] over windows that start at int64[n]."""
    model = Transformer.loaded(manifest.model, parameters, device)
    total = 0.0
    with torch.no_grad():
        for first in range(0, offsets.size, _BATCH):
            rows = offsets[first : first + _BATCH]
            tokens = torch.from_numpy(batch(shard, rows, manifest.model.context)).to(device)
            total += float(model.loss(tokens)) * rows.size
    return total / offsets.size


def heldout_success(
    manifest: RunManifest,
    parameters: Floats,
    judge: Floats | None = None,
    *,
    tasks: int = TASKS,
    device: str = "cpu",
) -> Heldout:
    """Play held-out tasks with parameters float32[P], at the run's temperature and with fixed noise.

    Args:
        judge: float32[J], parameters of the run's judge, which is asked once about each; None: nobody is.

    Raises:
        ConfigError: this machine lacks the run's environment, or the device.
        OwnFault: a logit is not finite.
        ValueError: the run's units hold no rollouts.
    """
    rollouts = rollouts_of(manifest)
    opened = open_environment_of(rollouts)
    model, tokenizer = Transformer.loaded(manifest.model, parameters, device), tokenizer_of(manifest)
    seeds, earned = heldout_seeds(tasks), []
    for first in range(0, tasks, _ROLLOUTS):
        drawn = [
            Task(opened.another(), seed, noise_key(ZERO_DIGEST, ZERO_DIGEST, seed, 0))
            for seed in seeds[first : first + _ROLLOUTS]
        ]
        played = generate(model, manifest.model, drawn, rollouts.sampling, tokenizer)
        earned += [one.rollout.rewards()[0] for one in played]
        if judge is not None:
            texts = [tokenizer.decode(one.rollout.tokens) for one in played]
            for own, score in zip(earned[first:], ask_judge(manifest, judge, texts, device), strict=True):
                own[rollouts.signal("ai_judge")] = score
    spec, weights = opened.environment.spec, [one.weight for one in rollouts.rewards]
    means = np.mean(earned, axis=0).tolist()
    return Heldout(
        success=float(np.mean([succeeded(spec, own.tolist()) for own in earned])),
        reward=float(np.mean([total_reward(own, weights) for own in earned])),
        components=dict(zip((one.name for one in spec.components), means, strict=True)),
    )


def ask_judge(manifest: RunManifest, judge: Floats, texts: Sequence[str], device: str = "cpu") -> list[float]:
    """Return what a judge float32[J] says of samples, given by their texts, each asked about once with fixed noise.

    Raises:
        OwnFault: a logit is not finite.
        ValueError: the run has no judge.
    """
    config, run = judge_of(manifest), judging(manifest)
    tokenizer = tokenizer_of(run)
    model = Transformer.loaded(run.model, judge, device)
    asked = [
        Task(
            Judging(config, prompt_of(config, tokenizer, text)),
            place,
            noise_key(ZERO_DIGEST, ZERO_DIGEST, place, 0),
        )
        for place, text in enumerate(texts)
    ]
    said = generate(model, run.model, asked, rollouts_of(run).sampling, tokenizer)
    return [float(one.rollout.rewards()[0, 0]) for one in said]

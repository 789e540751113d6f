"""Sample episodes from a policy: many environments at once, in lock step, with a key-value cache.

All rows stand at the same position. A row takes the next token of what its environment says where there is one, else
it chooses (`training.sampling`), so prompts and answers of any length share one cache without padding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from protocol.errors import ConfigError
from protocol.manifest import RunManifest
from protocol.model_config import ModelConfig
from protocol.rollout_config import SamplingConfig
from protocol.rollouts import PROJECTIONS, Group, Sample, quantise, rollouts_of
from protocol.tensors import Floats
from training.activations import fingerprint, projections
from training.environments.protocol import Environment
from training.model import Cache, Transformer
from training.rollout import Rollout, Tokenizer
from training.sampling import Doubles, choose, noise_at, noise_key
from training.tokenizer import tokenizer_of

_COMPACT: Final = 0.75
"""Share of rows still going on below which the cache is copied without the others; a copy costs about a step."""
_ROWS_AT_ONCE: Final = 512
"""Bound of what the cache holds; more rows a step are hardly cheaper."""


@dataclass(frozen=True, eq=False)
class Task:
    """Name one sample to draw."""

    environment: Environment
    seed: int  # of the task, unsigned 64 bit
    key: bytes  # of the noise: `training.sampling.noise_key`


@dataclass(frozen=True, eq=False)
class Sampled:
    """Hold a rollout that is over, with what its tokens were worth to the policy."""

    rollout: Rollout
    log_probabilities: Doubles  # [tokens of turns], at the temperature sampled with
    fingerprint: Floats  # [PROJECTIONS]

    def sample(self) -> Sample:
        """Return what travels: quantised, and rewarded by the environment."""
        return Sample(
            np.array(self.rollout.tokens, np.uint16),
            np.array(self.rollout.turns, np.uint16),
            np.array(self.rollout.players, np.uint8),
            quantise(self.log_probabilities),
            self.rollout.rewards(),
            self.fingerprint,
        )


def sample_groups(
    manifest: RunManifest,
    model: Transformer,
    weights: str,
    seeds: Sequence[int],
    make: Callable[[int, int], Environment],
    *,
    autocast: bool = False,
) -> tuple[Group, ...]:
    """Sample one group a task from a run's policy.

    Args:
        weights: content address of the model's parameters, 64 hex digits.
        seeds: of the tasks, as `training.assignment.task_seeds` draws them.
        make: gives an instance of the environment for each sample, by its group's and its own place.
        autocast: compute products in bfloat16, as the numeric profile says.

    Raises:
        ValueError: the run's units hold no rollouts.
        ConfigError, OwnFault: as `generate`.
    """
    sampling = rollouts_of(manifest).sampling
    tokenizer = tokenizer_of(manifest)
    run, size = manifest.run_id, sampling.group_size
    together = max(1, _ROWS_AT_ONCE // size)
    groups: list[Group] = []
    for first in range(0, len(seeds), together):
        tasks = [
            Task(make(place, index), seeds[place], noise_key(run, weights, seeds[place], index))
            for place in range(first, min(first + together, len(seeds)))
            for index in range(size)
        ]
        drawn = generate(model, manifest.model, tasks, sampling, tokenizer, autocast=autocast)
        samples = [one.sample() for one in drawn]
        groups += [tuple(samples[at : at + size]) for at in range(0, len(samples), size)]
    return tuple(groups)


def generate(
    model: Transformer,
    config: ModelConfig,
    tasks: Sequence[Task],
    sampling: SamplingConfig,
    tokenizer: Tokenizer,
    *,
    autocast: bool = False,
) -> list[Sampled]:
    """Play every task to its end and return the samples in the tasks' order.

    Args:
        autocast: compute products in bfloat16, as the numeric profile says.

    Raises:
        ConfigError: an episode may outgrow the model's context, or a task does not fit an episode.
        OwnFault: a logit is not finite.
    """
    if sampling.tokens > config.context:
        raise ConfigError(
            f"episodes of {sampling.tokens} tokens do not fit a context of {config.context}",
            hint="raise the model's context or lower the episode's tokens in the manifest",
        )
    rollouts = [Rollout(task.environment, task.seed, sampling, tokenizer) for task in tasks]
    found: list[list[float]] = [[] for _ in tasks]
    shown = np.zeros((len(tasks), PROJECTIONS), np.int64)
    rows = list(range(len(tasks)))  # of the cache; ended ones stay until it is copied
    if not rows:
        return []
    device = model.parameters.device
    stretch = min(rollout.forced for rollout in rollouts)
    openings = [tuple(rollout.observe(stretch)) for rollout in rollouts]
    distinct = {opening: place for place, opening in enumerate(dict.fromkeys(openings))}
    cache = Cache(config, len(distinct), sampling.tokens, device)
    tokens = torch.tensor(list(distinct))
    while True:
        lasts = torch.arange(1, len(tokens) + 1, device=device) * tokens.shape[1] - 1
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            hidden = model.hidden(tokens.to(device), cache, places=lasts)
            logits = model.head(hidden).float().cpu()
        hidden = hidden.float().cpu()
        if len(tokens) < len(rows):  # samples of one task share their opening: what it left is theirs alike
            origins = torch.tensor([distinct[opening] for opening in openings])
            hidden, logits = hidden[origins], logits[origins]
            cache.keep(origins.to(device))
        speaking = [place for place, row in enumerate(rows) if _speaks(rollouts[row])]
        upcoming = dict.fromkeys(range(len(rows)), 0)
        chosen: list[tuple[int, float]] = []
        if speaking:
            speakers = [rows[place] for place in speaking]
            places = [(tasks[row].key, cache.length) for row in speakers]
            shown[speakers] += projections(hidden[speaking].numpy(), places)
            chosen = _choose(logits[speaking], places, sampling.temperature)
        for place, row in enumerate(rows):
            if rollouts[row].forced:
                upcoming[place] = rollouts[row].observe(1)[0]
        for place, (token, log_probability) in zip(speaking, chosen, strict=True):
            rollouts[rows[place]].take(token)
            found[rows[place]].append(log_probability)
            upcoming[place] = token
        kept = [place for place, row in enumerate(rows) if not rollouts[row].over]
        if not kept:
            worth = map(np.array, found)
            return [Sampled(*parts) for parts in zip(rollouts, worth, fingerprint(shown), strict=True)]
        if len(kept) < _COMPACT * len(rows):
            cache.keep(torch.tensor(kept, device=device))
            rows = [rows[place] for place in kept]
            upcoming = {place: upcoming[old] for place, old in enumerate(kept)}
        tokens = torch.tensor([[token] for token in upcoming.values()])


def _speaks(rollout: Rollout) -> bool:
    return not rollout.over and not rollout.forced


def _choose(
    logits: torch.Tensor, places: Sequence[tuple[bytes, int]], temperature: float
) -> list[tuple[int, float]]:
    """Return each row's token and its log-probability."""
    tokens, _ = choose(logits.numpy(), noise_at(places, logits.shape[1]), temperature)
    scaled = logits.double() / temperature
    worth = scaled.gather(1, torch.from_numpy(tokens)[:, None])[:, 0] - scaled.logsumexp(-1)
    return list(zip(tokens.tolist(), worth.tolist(), strict=True))

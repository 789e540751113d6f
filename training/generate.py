"""Sample episodes from a policy: many environments at once, in lock step, with a key-value cache.

All rows stand at the same position. A row takes the next token of what its environment says where there is one, else
it chooses (`training.sampling`), so prompts and answers of any length share one cache without padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from protocol.errors import ConfigError
from protocol.manifest import ModelConfig, SamplingConfig
from training.episode import Environment, Episode, Tokenizer
from training.model import Cache, Transformer
from training.sampling import Doubles, choose, noise_words

_COMPACT: Final = 0.75
"""Share of rows still going on below which the cache is copied without the others; a copy costs about a step."""


@dataclass(frozen=True, eq=False)
class Task:
    """Name one sample to draw."""

    environment: Environment
    seed: int  # of the task, unsigned 64 bit
    key: bytes  # of the noise: `training.sampling.noise_key`


@dataclass(frozen=True, eq=False)
class Sampled:
    """Hold an episode that is over, with what its tokens were worth to the policy."""

    episode: Episode
    log_probabilities: Doubles  # [tokens of turns], at the temperature sampled with


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
    episodes = [Episode(task.environment, task.seed, sampling, tokenizer) for task in tasks]
    found: list[list[float]] = [[] for _ in tasks]
    rows = list(range(len(tasks)))  # of the cache; ended ones stay until it is copied
    if not rows:
        return []
    device = model.parameters.device
    stretch = min(episode.forced for episode in episodes)
    openings = [tuple(episode.observe(stretch)) for episode in episodes]
    distinct = {opening: place for place, opening in enumerate(dict.fromkeys(openings))}
    cache = Cache(config, len(distinct), sampling.tokens, device)
    tokens = torch.tensor(list(distinct))
    while True:
        lasts = torch.arange(1, len(tokens) + 1, device=device) * tokens.shape[1] - 1
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            logits = model.logits(tokens.to(device), cache, places=lasts).float().cpu()
        if len(tokens) < len(rows):  # samples of one task share their opening: what it left is theirs alike
            origins = torch.tensor([distinct[opening] for opening in openings])
            logits = logits[origins]
            cache.keep(origins.to(device))
        speaking = [place for place, row in enumerate(rows) if _speaks(episodes[row])]
        chosen = _choose(
            logits[speaking], [tasks[rows[place]].key for place in speaking], cache.length, sampling
        )
        upcoming = dict.fromkeys(range(len(rows)), 0)
        for place, episode in enumerate(episodes[row] for row in rows):
            if episode.forced:
                upcoming[place] = episode.observe(1)[0]
        for place, (token, log_probability) in zip(speaking, chosen, strict=True):
            episodes[rows[place]].take(token)
            found[rows[place]].append(log_probability)
            upcoming[place] = token
        kept = [place for place, row in enumerate(rows) if not episodes[row].over]
        if not kept:
            return [Sampled(*parts) for parts in zip(episodes, map(np.array, found), strict=True)]
        if len(kept) < _COMPACT * len(rows):
            cache.keep(torch.tensor(kept, device=device))
            rows = [rows[place] for place in kept]
            upcoming = {place: upcoming[old] for place, old in enumerate(kept)}
        tokens = torch.tensor([[token] for token in upcoming.values()])


def _speaks(episode: Episode) -> bool:
    return not episode.over and not episode.forced


def _choose(
    logits: torch.Tensor, keys: Sequence[bytes], position: int, sampling: SamplingConfig
) -> list[tuple[int, float]]:
    """Return each row's token and its log-probability."""
    if not keys:
        return []
    words = np.stack([noise_words(key, position, logits.shape[1]) for key in keys])
    tokens, _ = choose(logits.numpy(), words, sampling.temperature)
    scaled = logits.double() / sampling.temperature
    worth = scaled.gather(1, torch.from_numpy(tokens)[:, None])[:, 0] - scaled.logsumexp(-1)
    return list(zip(tokens.tolist(), worth.tolist(), strict=True))

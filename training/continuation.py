"""Go on with a text: tokens from any parameters of a run, one after the other, with a key-value cache.

Tokens are chosen as episodes are (`training.sampling`): by logits and by noise that a seed fixes, so that a text can be
made again from run, parameters, prompt, temperature and seed. A text may be longer than the model's context: when the
cache is full, the newer half of it is read again and the older half is forgotten.
"""

from collections.abc import Sequence

import numpy as np
import torch

from protocol.errors import UsageError
from protocol.model_config import ModelConfig
from training.model import Cache, Transformer
from training.sampling import choose, noise_at


def continuation(
    model: Transformer,
    config: ModelConfig,
    tokens: Sequence[int],
    *,
    count: int,
    temperature: float,
    key: bytes,
    end: int | None = None,
) -> list[int]:
    """Return the tokens that follow others: so many, or fewer up to an end token, which is not among them.

    Args:
        tokens: what is gone on with; one at least.
        temperature: 0 takes the likeliest token every time.
        key: of the noise, 32 bytes (`training.sampling.noise_key`).

    Raises:
        UsageError: no token to go on with, or one outside of the vocabulary.
        OwnFault: a logit is not finite.
    """
    if not tokens or max(tokens) >= config.vocab:
        raise UsageError(
            f"the prompt has no token, or one beyond the model's {config.vocab}",
            hint="choose another --prompt",
        )
    said, found = list(tokens), list[int]()
    cache, unread = _fresh(model, config, said)
    while len(found) < count:
        if cache.length + len(unread) > config.context:
            cache, unread = _fresh(model, config, said)
        logits = _logits(model, cache, unread)
        token = _choose(logits, temperature, key, len(said))
        if token == end:
            break
        said.append(token)
        found.append(token)
        unread = [token]
    return found


def _fresh(model: Transformer, config: ModelConfig, said: Sequence[int]) -> tuple[Cache, list[int]]:
    """Return an empty cache, and what is to be read into it first."""
    cache = Cache(config, 1, config.context, model.parameters.device)
    return cache, list(said if len(said) < config.context else said[-(config.context // 2) :])


def _logits(model: Transformer, cache: Cache, tokens: Sequence[int]) -> torch.Tensor:
    """Return float32[1, vocab] after the last of the tokens."""
    device = model.parameters.device
    with torch.inference_mode():
        last = torch.tensor([len(tokens) - 1], device=device)
        return model.logits(torch.tensor([tokens], device=device), cache, places=last).float().cpu()


def _choose(logits: torch.Tensor, temperature: float, key: bytes, position: int) -> int:
    if temperature == 0:
        return int(np.argmax(logits.numpy()[0]))
    chosen, _ = choose(logits.numpy(), noise_at([(key, position)], logits.shape[1]), temperature)
    return int(chosen[0])

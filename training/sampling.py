"""Which token an episode goes on with: seeded Gumbel-max (Gumbel, 1954; Karvonen et al., arXiv 2511.20621).

A token is the vocabulary entry of the highest score, logit / temperature + noise, so tokens follow the softmax. The
noise is a function of run, weights, task, sample and position that nobody can choose: a sample has one right
continuation, which anybody who has the logits recomputes. Noise has the same bits on every machine: BLAKE3 gives 32 of
them an entry, and what follows is `training.logarithm`. Logits are the only part that rounding touches.
"""

from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from protocol.canonical import tagged_digest
from protocol.errors import OwnFault
from protocol.tensors import Floats
from training.logarithm import log

Words = npt.NDArray[np.uint32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_TAG: Final = "murmur/gumbel"
_COARSE_BITS: Final = 14
_SLACK: Final = 1e-9  # far above what the logarithm is off by


def noise_key(run_id: str, weights: str, task_seed: int, sample: int) -> bytes:
    """Return the 32-byte key of one sample's noise.

    Args:
        run_id: 64 hex digits.
        weights: content address of the parameters sampled from, 64 hex digits.
        task_seed: what the environment is reset with, unsigned 64 bit.
        sample: index inside the group.
    """
    return bytes.fromhex(tagged_digest(_TAG, run_id, weights, task_seed, sample))


def noise_words(key: bytes, position: int, vocab: int) -> Words:
    """Return the random bits of the token at one position of a sample: uint32[vocab], BLAKE3's extended output."""
    words: Words = noise_at([(key, position)], vocab)[0]
    return words


def noise_at(places: Sequence[tuple[bytes, int]], vocab: int) -> Words:
    """Return `noise_words` of several tokens, each with its sample's key and its position: uint32[rows, vocab]."""
    streams = [blake3(at.to_bytes(8, "little"), key=key).digest(length=4 * vocab) for key, at in places]
    return np.frombuffer(b"".join(streams), "<u4").reshape(len(places), vocab)


def gumbel(words: Words) -> Doubles:
    """Return -log(-log((word + 1/2) / 2**32)) as float64, the same bits on every machine; from -3.14 to 22.9."""
    return -log(-log((words.astype(np.float64) + 0.5) * 2.0**-32))


def choose(logits: Floats, words: Words, temperature: float) -> tuple[Integers, Doubles]:
    """Return each row's token, the lowest of the highest score, and that score: int64[rows], float64[rows].

    Args:
        logits: float32[rows, vocab].
        words: uint32[rows, vocab], `noise_at`.

    Raises:
        OwnFault: a logit is not finite.
    """
    scaled = _scaled(logits, temperature)
    # Two logarithms an entry would cost more than a small model: only entries that may win pay them.
    low, high = _bounds()
    coarse = words >> np.uint32(32 - _COARSE_BITS)
    threshold = (scaled + low[coarse]).max(axis=1, keepdims=True)
    may_win = scaled + high[coarse] >= threshold
    scores = np.full(scaled.shape, -np.inf)
    scores[may_win] = scaled[may_win] + gumbel(words[may_win])
    tokens = scores.argmax(axis=1)  # the first of equals
    return tokens, scores[np.arange(len(tokens)), tokens]


def scores_of(logits: Floats, words: Words, temperature: float, tokens: Integers) -> Doubles:
    """Return the scores of given tokens int64[rows]: float64[rows]. Arguments and errors are those of `choose`."""
    rows = np.arange(len(tokens))
    scores: Doubles = _scaled(logits, temperature)[rows, tokens] + gumbel(words[rows, tokens])
    return scores


def _scaled(logits: Floats, temperature: float) -> Doubles:
    if not np.isfinite(logits).all():
        raise OwnFault("a logit is not finite", hint="the parameters are broken: fetch them again")
    scaled: Doubles = logits.astype(np.float64) / temperature
    return scaled


@cache
def _bounds() -> tuple[Doubles, Doubles]:
    """Return bounds of the noise whose word starts with given bits."""
    shift = 32 - _COARSE_BITS
    first = np.arange(2**_COARSE_BITS, dtype=np.uint32) << np.uint32(shift)
    return gumbel(first) - _SLACK, gumbel(first + np.uint32(2**shift - 1)) + _SLACK

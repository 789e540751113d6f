"""Judge how samples were drawn, by one pass over their tokens instead of one a token.

Regret is the best score at a position less the score of the token taken (`training.sampling`). An honest sample has
none but what rounding of logits makes of two scores nearly equal; greedy decoding, another temperature, other noise,
other weights and edited tokens all have much. Log-probabilities say which weights, regret how the token was picked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from protocol.canonical import tagged_digest
from protocol.manifest import ModelConfig
from protocol.rollouts import Sample, deviation
from protocol.tensors import Floats
from training.exact_math import exact_sum, exp, log
from training.exact_model import ExactTransformer
from training.model import Transformer
from training.sampling import Doubles, Integers, choose, noise_words, scores_of

LOGITS_AT_ONCE: Final = 1 << 24
"""Bound of what one pass holds: 64 MiB of float32."""


class Scorer(Protocol):
    """Compute what a policy makes of token sequences in one arithmetic."""

    def logits(self, sequences: Sequence[Integers]) -> Iterator[Floats]:
        """Yield float32[time, vocab] for each int64[time].

        Raises:
            OwnFault: exact arithmetic met a value that is not finite.
        """
        ...


class PlainScorer:
    """Score in float32, or with products in bfloat16, several sequences at once; shorter ones are padded behind."""

    def __init__(self, config: ModelConfig, model: Transformer, *, autocast: bool = False) -> None:
        self._config = config
        self._model = model
        self._autocast = autocast

    def logits(self, sequences: Sequence[Integers]) -> Iterator[Floats]:
        """Yield float32[time, vocab] for each int64[time]."""
        device = self._model.parameters.device
        longest = max((sequence.size for sequence in sequences), default=1)
        rows = max(1, LOGITS_AT_ONCE // (longest * self._config.vocab))
        for first in range(0, len(sequences), rows):
            part = sequences[first : first + rows]
            tokens = torch.from_numpy(padded(part))
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=self._autocast):
                found = self._model.logits(tokens.to(device)).float().cpu().numpy()
            for sequence, row in zip(part, found, strict=True):
                yield row[: sequence.size]


class ExactScorer:
    """Score in exact arithmetic, one sequence at a time: the same bits on every machine, for jurors."""

    def __init__(self, config: ModelConfig, parameters: Floats) -> None:
        self._model = ExactTransformer(config)
        self._parameters = torch.from_numpy(np.array(parameters, dtype=np.float32))

    def logits(self, sequences: Sequence[Integers]) -> Iterator[Floats]:
        """Yield float32[time, vocab] for each int64[time]."""
        for sequence in sequences:
            yield self._model.logits(self._parameters, torch.from_numpy(sequence)).numpy()


@dataclass(frozen=True, eq=False)
class Judged:
    """Hold what one sample's tokens are worth, at each token of its turns in order."""

    best: Integers  # the tokens of the highest scores
    regret: Doubles  # >= 0, in units of logit / temperature
    log_probabilities: Doubles  # of the tokens taken, at the temperature sampled with
    differences: Doubles  # claimed and computed log-probability, in nats, what quantising takes included
    off: Doubles  # the same beyond what quantising takes: zero for all that a claimed code may stand for

    @property
    def max_regret(self) -> float:
        """Return the largest regret."""
        return float(self.regret.max())

    @property
    def missed(self) -> float:
        """Return the share of tokens that are not the best."""
        return float((self.regret > 0).mean())

    @property
    def median_difference(self) -> float:
        """Return the median of the differences, in nats."""
        return float(np.median(self.differences))

    @property
    def max_difference(self) -> float:
        """Return the largest of the differences, in nats."""
        return float(self.differences.max())

    @property
    def median_off(self) -> float:
        """Return the median miss of a log-probability, in nats."""
        return float(np.median(self.off))

    @property
    def max_off(self) -> float:
        """Return the largest miss of a log-probability, in nats."""
        return float(self.off.max())


def judge(
    scorer: Scorer, samples: Sequence[Sample], keys: Sequence[bytes], temperature: float
) -> list[Judged]:
    """Compute what samples should have taken: one entry a sample.

    Args:
        keys: each sample's `training.sampling.noise_key`.

    Raises:
        OwnFault: a logit is not finite.
    """
    sequences = [sample.tokens[:-1].astype(np.int64) for sample in samples]
    rows = zip(samples, keys, scorer.logits(sequences), strict=True)
    return [_judge(sample, key, logits, temperature) for sample, key, logits in rows]


def best_digest(judged: Sequence[Judged]) -> str:
    """Return the address of the tokens that several samples should have taken, for jurors to agree on."""
    parts = [one.best.astype("<i8", copy=False).tobytes() for one in judged]
    return tagged_digest("murmur/best", *parts)


def padded(sequences: Sequence[Integers]) -> Integers:
    """Return sequences as int64[rows, longest], zero behind their ends."""
    found = np.zeros((len(sequences), max(sequence.size for sequence in sequences)), np.int64)
    for row, sequence in zip(found, sequences, strict=True):
        row[: sequence.size] = sequence
    return found


def exact_log_probabilities(logits: Tensor, taken: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probabilities float64[rows] of tokens int64[rows] and all probabilities float64[rows, vocab].

    From the same float32[rows, vocab] they have the same bits on every machine; within 1e-6 of the truth.
    """
    scaled = logits.double() / temperature
    shifted = scaled - scaled.amax(-1, keepdim=True)
    powers = exp(shifted.float()).double()
    total = exact_sum(powers, -1)
    found = shifted.gather(-1, taken[:, None]) - log(total)
    return found[:, 0], powers.div_(total)


def _judge(sample: Sample, key: bytes, logits: Floats, temperature: float) -> Judged:
    places = sample.spoken
    own = logits[places - 1]  # a position's logits stand at the token before it
    taken = sample.tokens[places].astype(np.int64)
    words = np.stack([noise_words(key, int(place), own.shape[1]) for place in places])
    best, highest = choose(own, words, temperature)
    regret = highest - scores_of(own, words, temperature, taken)
    found, _ = exact_log_probabilities(torch.from_numpy(own), torch.from_numpy(taken), temperature)
    worth = found.numpy()
    differences = np.abs(sample.log_probabilities - worth)
    return Judged(best, regret, worth, differences, deviation(sample.codes, worth))

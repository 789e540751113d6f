"""Judge how samples were drawn, by one pass over their tokens instead of one a token.

Regret is the best score at a position less the score of the token taken (`training.sampling`). An honest sample has
none but what rounding of logits makes of two scores nearly equal; greedy decoding, another temperature, other noise,
other weights and edited tokens all have much. Log-probabilities say which weights, regret how the token was picked.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from protocol.canonical import tagged_digest
from protocol.model_config import ModelConfig
from protocol.rollouts import Sample, deviation
from protocol.tensors import Floats
from training.activations import fingerprint, projections
from training.exact_math import exact_sum, exp, log
from training.exact_model import ExactTransformer
from training.model import Transformer
from training.sampling import Doubles, Integers, choose, noise_at, scores_of

LOGITS_AT_ONCE: Final = 1 << 24
"""Bound of what one pass holds: 64 MiB of float32."""
_ROWS_AT_ONCE: Final = 64
"""Sequences of one pass; more are hardly cheaper, and differ more in length."""
_CHOSEN_AT_ONCE: Final = 1 << 21
"""The same of logits that tokens are chosen from, which takes ten times their bytes."""


class Scorer(Protocol):
    """Compute what a policy makes of token sequences in one arithmetic."""

    def activations(
        self, sequences: Sequence[Integers], places: Sequence[Integers]
    ) -> Iterator[tuple[Floats, Floats]]:
        """Yield last hidden states float32[rows, width] and logits float32[rows, vocab], some sequences at a time.

        Rows are the places of all sequences in order.

        Args:
            sequences: int64[time] each.
            places: int64[rows] in each, at least one.

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

    def activations(
        self, sequences: Sequence[Integers], places: Sequence[Integers]
    ) -> Iterator[tuple[Floats, Floats]]:
        """Yield hidden states and logits; see `Scorer`."""
        device = self._model.parameters.device
        wide = max(self._config.vocab, self._config.feed_forward, 3 * self._config.width)
        longest = max((sequence.size for sequence in sequences), default=1)
        rows = min(_ROWS_AT_ONCE, max(1, LOGITS_AT_ONCE // (longest * wide)))
        for first in range(0, len(sequences), rows):
            tokens = torch.from_numpy(padded(sequences[first : first + rows])).to(device)
            own = places[first : first + rows]
            flat = np.concatenate([row * tokens.shape[1] + one for row, one in enumerate(own)])
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=self._autocast):
                hidden = self._model.hidden(tokens, places=torch.from_numpy(flat).to(device))
                logits = self._model.head(hidden)
            yield hidden.float().cpu().numpy(), logits.float().cpu().numpy()


class ExactScorer:
    """Score in exact arithmetic, one sequence at a time: the same bits on every machine, for jurors."""

    def __init__(self, config: ModelConfig, parameters: Floats) -> None:
        self._model = ExactTransformer(config)
        self._parameters = torch.from_numpy(np.array(parameters, dtype=np.float32))

    def activations(
        self, sequences: Sequence[Integers], places: Sequence[Integers]
    ) -> Iterator[tuple[Floats, Floats]]:
        """Yield hidden states and logits; see `Scorer`."""
        for sequence, own in zip(sequences, places, strict=True):
            hidden, logits = self._model.activations(self._parameters, torch.from_numpy(sequence))
            yield hidden.numpy()[own], logits.numpy()[own]


@dataclass(frozen=True, eq=False)
class Judged:
    """Hold what one sample's tokens are worth, at each token of its turns in order."""

    best: Integers  # the tokens of the highest scores
    regret: Doubles  # >= 0, in units of logit / temperature
    log_probabilities: Doubles  # of the tokens taken, at the temperature sampled with
    off: Doubles  # by how many nats the claimed ones miss, beyond what quantising takes
    fingerprint: Floats  # [PROJECTIONS], what the sample's should be
    energy: float  # sum of squares of the activations in it

    @property
    def max_regret(self) -> float:
        """Return the largest regret."""
        return float(self.regret.max())

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
    # Neighbours of one length need little padding.
    order = sorted(range(len(samples)), key=lambda index: samples[index].tokens.size)
    found = _judge(scorer, [samples[index] for index in order], [keys[index] for index in order], temperature)
    places = {index: place for place, index in enumerate(order)}
    return [found[places[index]] for index in range(len(samples))]


def _judge(
    scorer: Scorer, samples: Sequence[Sample], keys: Sequence[bytes], temperature: float
) -> list[Judged]:
    if not samples:
        return []
    spoken = [sample.spoken for sample in samples]
    places = [(key, at) for key, own in zip(keys, spoken, strict=True) for at in own.tolist()]
    taken = np.concatenate([sample.tokens[own] for sample, own in zip(samples, spoken, strict=True)]).astype(
        np.int64
    )
    parts = scorer.activations(
        [sample.tokens[:-1].astype(np.int64) for sample in samples],
        [own - 1 for own in spoken],  # a position's logits stand at the token before it
    )
    columns: list[tuple[npt.NDArray[Any], ...]] = []
    done = 0
    for hidden, logits in parts:
        step = max(1, _CHOSEN_AT_ONCE // logits.shape[1])
        for first in range(0, len(logits), step):
            own = logits[first : first + step]
            rows = slice(done, done + len(own))
            shown = hidden[first : first + step]
            columns.append(_measure(shown, own, places[rows], taken[rows], temperature))
            done = rows.stop
    best, regret, worth, projected, squares = map(np.concatenate, zip(*columns, strict=True))
    off = deviation(np.concatenate([sample.codes for sample in samples]), worth)
    found = []
    ends = np.cumsum([own.size for own in spoken]).tolist()
    for at, end in zip(spoken, ends, strict=True):
        rows = slice(end - at.size, end)
        whole = fingerprint(projected[rows].sum(axis=0))
        energy = math.fsum(squares[rows].tolist())
        found.append(Judged(best[rows], regret[rows], worth[rows], off[rows], whole, energy))
    return found


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


def _measure(
    hidden: Floats, logits: Floats, places: Sequence[tuple[bytes, int]], taken: Integers, temperature: float
) -> tuple[Integers, Doubles, Doubles, Integers, Doubles]:
    """Return of each row its best token, the taken one's regret and log-probability, projections and squares."""
    words = noise_at(places, logits.shape[1])
    best, highest = choose(logits, words, temperature)
    regret = highest - scores_of(logits, words, temperature, taken)
    found, _ = exact_log_probabilities(torch.from_numpy(logits), torch.from_numpy(taken), temperature)
    squares = exact_sum(torch.from_numpy(hidden).double().square(), -1)[:, 0]
    return best, regret, found.numpy(), projections(hidden, places), squares.numpy()

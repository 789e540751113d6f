"""What a policy learns from: group-relative policy optimization, and supervised fine-tuning before it.

GRPO (Shao et al., arXiv 2402.03300): a sample's advantage is its reward against its group's; where several play, each
turn has its player's, against what the same player got in the group's other samples. The objective corrects
for samples of older weights by the ratio of probabilities, always, and clips it on both sides. It is a mean over all
tokens of a step (Yu et al., arXiv 2503.14476), with no penalty for leaving the start. Advantages come from sums that
are exact in any order, so a batch is one for everybody, and its steps replay like any inner step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from protocol.errors import OwnFault
from protocol.manifest import RunManifest
from protocol.rollout_config import PolicyConfig
from protocol.rollouts import Doubles, Group, Sample
from protocol.tensors import Floats
from training.exact import ExactDescent
from training.exact_math import exp
from training.inner import Descent
from training.prefill import LOGITS_AT_ONCE, exact_log_probabilities, padded

STD_EPS: Final = 1e-4
"""Added to a group's standard deviation before dividing by it."""

Tokens = npt.NDArray[np.int64]


def advantages(rewards: Sequence[float]) -> Floats | None:
    """Return a group's rewards less their mean over their deviation, float32[samples]; None where all are equal."""
    if min(rewards) == max(rewards):
        return None
    mean = math.fsum(rewards) / len(rewards)
    squares = math.fsum((reward - mean) ** 2 for reward in rewards)
    deviation = math.sqrt(squares / (len(rewards) - 1))
    return np.array([(reward - mean) / (deviation + STD_EPS) for reward in rewards], np.float32)


@dataclass(frozen=True, eq=False)
class PolicyBatch:
    """Hold the samples of one GRPO step; a batch of no rows is a step not taken."""

    tokens: Tokens  # [rows, time + 1]
    weights: Floats  # [rows, time], one where the policy spoke the next token, else zero
    behaviour: Floats  # [rows, time], the next token's log-probability when it was sampled
    advantages: Floats  # [rows, time], of the player who spoke the next token

    @classmethod
    def of(cls, groups: Sequence[Group], rewards: Sequence[Doubles]) -> Self:
        """Lay out a step's groups; players whose rewards are all equal in a group have no weight there.

        Args:
            rewards: of each group `group_rewards`, float64[samples, players].
        """
        kept: list[tuple[Sample, list[float | None]]] = []  # with its players' advantages
        for group, own in zip(groups, rewards, strict=True):
            scores = [advantages(player) for player in own.T.tolist()]
            if any(score is not None for score in scores):
                kept += [
                    (sample, [None if score is None else float(score[index]) for score in scores])
                    for index, sample in enumerate(group)
                ]
        if not kept:
            empty = np.zeros((0, 0), np.float32)
            return cls(np.zeros((0, 1), np.int64), empty, empty, empty)
        tokens = padded([sample.tokens.astype(np.int64) for sample, _ in kept])
        weights = np.zeros((len(kept), tokens.shape[1] - 1), np.float32)
        behaviour, gains = np.zeros_like(weights), np.zeros_like(weights)
        for row, (sample, gained) in enumerate(kept):
            behaviour[row, sample.spoken - 1] = sample.log_probabilities
            for (start, end), player in zip(sample.turns.tolist(), sample.players.tolist(), strict=True):
                gain = gained[player]
                if gain is not None:
                    weights[row, start - 1 : end - 1] = 1.0
                    gains[row, start - 1 : end - 1] = gain
        return cls(tokens, weights, behaviour, gains)


@dataclass(frozen=True, eq=False)
class SupervisedBatch:
    """Hold the demonstrations of one step of supervised fine-tuning."""

    tokens: Tokens  # [rows, time + 1]
    weights: Floats  # [rows, time], of the next token's loss

    @classmethod
    def of(cls, demonstrations: Sequence[tuple[Sequence[int], Sequence[float]]]) -> Self:
        """Lay out tokens and their weights, one a token; the first token's is not used."""
        tokens = padded([np.array(list(tokens), np.int64) for tokens, _ in demonstrations])
        weights = np.zeros((len(tokens), tokens.shape[1] - 1), np.float32)
        for row, (_, own) in zip(weights, demonstrations, strict=True):
            row[: len(own) - 1] = own[1:]
        return cls(tokens, weights)


Batch = PolicyBatch | SupervisedBatch


class PolicyTrainer(Descent):
    """Take a policy's inner steps on one device; deterministic as `training.inner.InnerTrainer` is.

    Args:
        temperature: that samples were drawn with; supervised steps are at temperature one.

    Raises:
        ConfigError: the device is not there.
    """

    def __init__(
        self,
        manifest: RunManifest,
        policy: PolicyConfig,
        temperature: float,
        device: str = "cpu",
        *,
        autocast: bool = False,
    ) -> None:
        super().__init__(manifest, device, autocast=autocast)
        self._policy = policy
        self._temperature = temperature

    def run(self, batches: Sequence[Batch], first_step: int) -> list[float]:
        """Take one step a batch; return each one's loss, zero for a batch of no rows, which changes nothing.

        Args:
            first_step: global step of the first batch, which sets the learning rate; a step not taken counts too.

        Raises:
            OwnFault: the loss stopped being finite.
        """
        return _run(self.backward, self.descend, batches, first_step)

    def backward(self, batch: Batch) -> Tensor:
        """Leave the gradient of one batch in `gradient` and return its loss."""
        self._model.gradient[self._frozen :].zero_()
        most = int(np.count_nonzero(batch.weights, axis=1).max())
        rows = max(1, LOGITS_AT_ONCE // (most * self._manifest.model.vocab))
        total = float(batch.weights.sum(dtype=np.float64))
        parts = [slice(first, first + rows) for first in range(0, len(batch.tokens), rows)]
        return torch.stack([self._backward(batch, part, total) for part in parts]).sum()

    def _backward(self, batch: Batch, part: slice, total: float) -> Tensor:
        """Add the gradient that some rows have in a loss over weights of this total."""
        device = self._leaf.device
        tokens = torch.from_numpy(batch.tokens[part]).to(device)
        weights = torch.from_numpy(batch.weights[part]).to(device).flatten()
        places = weights.nonzero()[:, 0]
        temperature = self._temperature if isinstance(batch, PolicyBatch) else 1.0
        with self._autocast:
            logits = self._model.logits(tokens[:, :-1], places=places).float() / temperature
        taken = tokens[:, 1:].flatten()[places]
        found = logits.log_softmax(-1).gather(-1, taken[:, None])[:, 0]
        if isinstance(batch, PolicyBatch):
            behaviour = torch.from_numpy(batch.behaviour[part]).to(device).flatten()[places]
            gains = torch.from_numpy(batch.advantages[part]).to(device).flatten()[places]
            ratio = (found - behaviour).exp().detach()
            slope = _slope(ratio, gains, self._policy)
            # The value is the objective's, the gradient `slope` times that of the log-probability.
            found = _objective(ratio, gains, self._policy) + slope * (found - found.detach())
        loss = -(found * weights[places]).sum() / total
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


class ExactPolicyTrainer(ExactDescent):
    """Take the same steps with the same bits on every machine, for jurors and exact profiles. CPU only."""

    def __init__(self, manifest: RunManifest, policy: PolicyConfig, temperature: float) -> None:
        super().__init__(manifest)
        self._policy = policy
        self._temperature = temperature

    def run(self, batches: Sequence[Batch], first_step: int) -> list[float]:
        """Take one step a batch, as `PolicyTrainer.run` does.

        Raises:
            OwnFault: a value stopped being finite.
        """
        return _run(self.backward, self.descend, batches, first_step)

    def backward(self, batch: Batch) -> Tensor:
        """Leave the gradient of one batch in `gradient` and return its loss, which is for reading."""
        inputs = torch.from_numpy(batch.tokens[:, :-1])
        loss, self._gradient = self._model.gradient_of(
            self._parameters, inputs, partial(self._loss, batch=batch)
        )
        return torch.tensor(loss, dtype=torch.float64)

    def _loss(self, logits: Tensor, batch: Batch) -> tuple[float, Tensor]:
        """Return the loss of float32[rows * time, vocab] and its gradient."""
        taken = torch.from_numpy(batch.tokens[:, 1:]).flatten()
        weights = torch.from_numpy(batch.weights).flatten().double()
        temperature = self._temperature if isinstance(batch, PolicyBatch) else 1.0
        found, probabilities = exact_log_probabilities(logits, taken, temperature)
        slope = torch.ones_like(found)
        if isinstance(batch, PolicyBatch):
            away = (found - torch.from_numpy(batch.behaviour).flatten().double()) * weights
            ratio = _exact_ratio(away)
            gains = torch.from_numpy(batch.advantages).flatten().double()
            slope = _slope(ratio, gains, self._policy)
            found = _objective(ratio, gains, self._policy)
        share = weights / math.fsum(weights.tolist())
        loss = -float((found * share).sum())
        d_found = slope.mul_(share).neg_().div_(temperature)
        d_logits = probabilities.mul_(-d_found[:, None])
        d_logits[torch.arange(len(taken)), taken] += d_found  # each place once
        return loss, d_logits.float()


def _run(
    backward: Callable[[Batch], Tensor], descend: Callable[[int], None], batches: Sequence[Batch], first: int
) -> list[float]:
    losses = []
    for index, batch in enumerate(batches):
        if not batch.weights.any():
            losses.append(0.0)
            continue
        losses.append(float(backward(batch)))
        if not math.isfinite(losses[-1]):
            raise OwnFault("the loss is no longer finite", hint="lower inner.lr in the next run")
        descend(first + index)
    return losses


def _objective(ratio: Tensor, gains: Tensor, policy: PolicyConfig) -> Tensor:
    """Return the lower of what is bounded from above alone and what is clipped near one."""
    bounded = ratio.clamp(max=policy.bound) * gains
    return torch.minimum(bounded, ratio.clamp(1 - policy.clip_low, 1 + policy.clip_high) * gains)


def _slope(ratio: Tensor, gains: Tensor, policy: PolicyConfig) -> Tensor:
    """Return the objective's derivative in the log-probability, which fades at its limits."""

    def below(limit: float) -> Tensor:
        return ((limit - ratio) / policy.edge + 0.5).clamp(0.0, 1.0)

    falls = (1.0 - below(1 - policy.clip_low)) * below(policy.bound)
    return ratio * gains * torch.where(gains > 0, below(1 + policy.clip_high), falls)


def _exact_ratio(away: Tensor) -> Tensor:
    """Return e**x of float64 values; beyond 80 in magnitude they count as 80."""
    small = exp(-away.abs().float()).double()
    return torch.where(away > 0, 1.0 / small, small)

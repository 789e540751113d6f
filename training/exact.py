"""Inner steps in exact arithmetic: one result for everybody, whatever machine computes it.

Disputed segments are replayed by `ExactTrainer`, so that all who judge compare with the same reference, and a run
whose profile is exact is trained by it. CPU only; see `training.exact_math` for why the bits agree.
"""

import math

import numpy as np
import torch
from torch import Tensor

from protocol.manifest import InnerConfig, RunManifest
from protocol.tensors import frozen, parameter_layout
from training.assignment import Offsets, batch
from training.corpus import Shard
from training.exact_math import cosine, exact_sum, power, sqrt
from training.exact_model import ExactTransformer
from training.inner import (
    CLIP_EPS,
    InnerState,
    check_vocabulary,
    copy_state,
    last_stretch,
    smoothed_squares,
)


def exact_learning_rate(inner: InnerConfig, step: int, total_steps: int) -> float:
    """Return `training.inner.learning_rate` with the same bits everywhere."""
    warmup = min(1.0, (step + 1) / inner.warmup_steps) if inner.warmup_steps else 1.0
    curve = 0.5 * (1.0 + cosine(step, total_steps))
    return inner.lr * warmup * (inner.min_lr_fraction + (1.0 - inner.min_lr_fraction) * curve)


class ExactDescent:
    """Hold a run's model and AdamW's state, and take its steps with the same bits on every machine."""

    def __init__(self, manifest: RunManifest) -> None:
        self._manifest = manifest
        self._frozen = frozen(manifest)
        self._model = ExactTransformer(manifest.model, frozen=self._frozen)
        self._layout = parameter_layout(manifest.model)
        self._gradient = torch.zeros(self._layout.size)
        self.load(InnerState.fresh(np.zeros(self._layout.size, np.float32)))

    def load(self, state: InnerState) -> None:
        """Take over a state; its arrays are copied."""
        self._parameters, self._exp_avg, self._exp_avg_sq = (
            torch.from_numpy(np.array(vector, dtype=np.float32))
            for vector in (state.parameters, state.exp_avg, state.exp_avg_sq)
        )
        self._steps = state.steps
        self._norms: list[float] = []

    def state(self) -> InnerState:
        """Return a copy of the state reached."""
        return copy_state(self.view())

    def view(self) -> InnerState:
        """Return the state reached, in the trainer's own memory: the next step may change it."""
        parameters, exp_avg, exp_avg_sq = (
            vector.numpy() for vector in (self._parameters, self._exp_avg, self._exp_avg_sq)
        )
        return InnerState(parameters, exp_avg, exp_avg_sq, self._steps)

    @property
    def gradient(self) -> Tensor:
        """Return the gradient that the next step takes, float32[P]; writing to it changes the step."""
        return self._gradient

    def gradient_norms(self) -> list[float]:
        """Return the norms of the gradients since the state was loaded, before clipping, one a step taken."""
        return [*self._norms]

    @torch.no_grad()
    def descend(self, step: int) -> None:
        """Clip the gradient and take AdamW's step at the rate of a global step."""
        rate = exact_learning_rate(self._manifest.inner, step, self._manifest.total_steps)
        self._adamw(self._clipped(self._gradient), rate, last_stretch(self._manifest.inner, step))

    def _clipped(self, gradient: Tensor) -> Tensor:
        """Return the gradient of what learns as float64, scaled down to the manifest's norm if it is longer."""
        wide = gradient.double()
        squares = wide * wide  # exact
        places = [place for place in self._layout.slices.values() if place.start >= self._frozen]
        sums = torch.cat([_sum(squares[place]) for place in places])
        norm = math.sqrt(float(_sum(sums)))
        self._norms.append(norm)
        return wide[self._frozen :].mul_(min(1.0, self._manifest.inner.clip_norm / (norm + CLIP_EPS)))

    def _adamw(self, gradient: Tensor, rate: float, stretch: float) -> None:
        """Take AdamW's step in single float64 operations, each state rounded to float32 once.

        Args:
            stretch: how many times as long as its rate says the step is, but for the decay.
        """
        inner, learning = self._manifest.inner, slice(self._frozen, None)
        fresh = inner.fresh
        if fresh and not self._steps:
            guessed = smoothed_squares(gradient, self._layout, self._frozen, exact_sum).float()
            known = self._exp_avg_sq[learning]
            self._exp_avg_sq[learning] = torch.where(known > 0, known, guessed)
        self._steps += 1
        first, second = self._exp_avg[learning].double(), self._exp_avg_sq[learning].double()
        first.mul_(inner.beta1).add_(gradient * (1.0 - inner.beta1))
        second.mul_(inner.beta2).add_(gradient.mul_(gradient).mul_(1.0 - inner.beta2))
        self._exp_avg[learning], self._exp_avg_sq[learning] = first.float(), second.float()
        rate_corrected, root_correction = rate * stretch, 1.0
        if not fresh:
            rate_corrected /= 1.0 - power(inner.beta1, self._steps)
            root_correction = math.sqrt(1.0 - power(inner.beta2, self._steps))
        below = sqrt(second).div_(root_correction).add_(inner.eps)
        change = first.div_(below).mul_(rate_corrected).float()
        # Decay and step are rounded one by one, as in float32 training: near one that is most of the difference.
        self._parameters[learning].mul_(1.0 - rate * inner.weight_decay).sub_(change)


class ExactTrainer(ExactDescent):
    """Take inner steps on a token shard with the same bits on every machine (`training.trainer.Trainer`).

    Raises:
        ConfigError: the shard holds tokens outside the model's vocabulary.
    """

    def __init__(self, manifest: RunManifest, shard: Shard) -> None:
        check_vocabulary(manifest, shard)
        super().__init__(manifest)
        self._shard = shard

    def run(self, offsets: Offsets, first_step: int) -> list[float]:
        """Take one step a row of `offsets` int64[steps, batch]; return each step's loss in nats a token.

        Args:
            first_step: global step of the first row, round * inner.steps + step; sets the learning rate.

        Raises:
            OwnFault: a value stopped being finite.
        """
        losses = []
        for index, row in enumerate(offsets):
            losses.append(float(self.backward(row)))
            self.descend(first_step + index)
        return losses

    def backward(self, offsets: Offsets) -> Tensor:
        """Leave the gradient of one batch int64[batch] in `gradient` and return its loss."""
        tokens = torch.from_numpy(batch(self._shard, offsets, self._manifest.model.context))
        loss, self._gradient = self._model.loss_and_gradient(self._parameters, tokens)
        return torch.tensor(loss, dtype=torch.float64)


def _sum(values: Tensor) -> Tensor:
    return exact_sum(values, 0)

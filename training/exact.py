"""Inner steps in exact arithmetic: one result for everybody, whatever machine computes it.

Disputed segments are replayed by `ExactTrainer`, so that all who judge compare with the same reference, and a run
whose profile is exact is trained by it. CPU only; see `training.exact_math` for why the bits agree.
"""

import math

import numpy as np
import torch
from torch import Tensor

from protocol.manifest import InnerConfig, MuonConfig, RunManifest
from protocol.tensors import frozen, parameter_layout
from training.assignment import Offsets, batch
from training.corpus import Shard
from training.exact_math import Fixed, cosine, exact_sum, matmul, power, sqrt
from training.exact_model import ExactTransformer
from training.inner import (
    CLIP_EPS,
    InnerState,
    check_vocabulary,
    copy_state,
    ends_round,
    last_stretch,
    smoothed_squares,
)
from training.muon import NORM_EPS, Places, adamw_places, muon_places, orthogonalised, step_length


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
        self._matrices = muon_places(manifest)
        self._others = adamw_places(manifest)
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
        """Clip the gradient and take the step of a global step's rate: AdamW's, and Muon's where the run has it."""
        inner = self._manifest.inner
        rate = exact_learning_rate(inner, step, self._manifest.total_steps)
        stretch = last_stretch(inner, step)
        gradient = self._clipped(self._gradient)
        if inner.fresh and not self._steps:
            self._guess(gradient)
        self._steps += 1
        for place in self._others:
            self._take_adamw(place, gradient[place], rate, stretch)
        if inner.muon is not None:
            for shape, places in self._matrices.items():
                self._take_muon(inner.muon, shape, places, gradient, step, rate * inner.muon.lr / inner.lr)

    def _clipped(self, gradient: Tensor) -> Tensor:
        """Return the gradient as float64[P], scaled down to the manifest's norm if what learns has a longer one."""
        wide = gradient.double()
        squares = wide * wide  # exact
        places = [place for place in self._layout.slices.values() if place.start >= self._frozen]
        sums = torch.cat([_sum(squares[place]) for place in places])
        norm = math.sqrt(float(_sum(sums)))
        self._norms.append(norm)
        return wide.mul_(min(1.0, self._manifest.inner.clip_norm / (norm + CLIP_EPS)))

    def _guess(self, gradient: Tensor) -> None:
        """Start second moments that nobody has said anything of from the round's first gradient, float64[P]."""
        guessed = smoothed_squares(gradient[self._frozen :], self._layout, self._frozen, exact_sum).float()
        guessed = torch.cat((torch.zeros(self._frozen), guessed))
        for place in self._others:
            known = self._exp_avg_sq[place]
            self._exp_avg_sq[place] = torch.where(known > 0, known, guessed[place])

    def _take_adamw(self, place: slice, gradient: Tensor, rate: float, stretch: float) -> None:
        """Take AdamW's step in single float64 operations, each state rounded to float32 once.

        Args:
            gradient: float64, of the entries at `place`.
            stretch: how many times as long as its rate says the step is, but for the decay.
        """
        inner = self._manifest.inner
        first, second = self._exp_avg[place].double(), self._exp_avg_sq[place].double()
        first.mul_(inner.beta1).add_(gradient * (1.0 - inner.beta1))
        second.mul_(inner.beta2).add_((gradient * gradient).mul_(1.0 - inner.beta2))
        self._exp_avg[place], self._exp_avg_sq[place] = first.float(), second.float()
        rate_corrected, root_correction = rate * stretch, 1.0
        if not inner.fresh:
            rate_corrected /= 1.0 - power(inner.beta1, self._steps)
            root_correction = math.sqrt(1.0 - power(inner.beta2, self._steps))
        below = sqrt(second).div_(root_correction).add_(inner.eps)
        change = first.div_(below).mul_(rate_corrected).float()
        self._take(place, change, rate)

    def _take_muon(
        self,
        muon: MuonConfig,
        shape: tuple[int, ...],
        places: Places,
        gradient: Tensor,
        step: int,
        rate: float,
    ) -> None:
        """Take Muon's step of all matrices of one shape, at a rate of its own; gradient float64[P]."""
        slopes = torch.stack([gradient[place].view(shape) for place in places])
        held = torch.stack([self._exp_avg[place].view(shape) for place in places]).double()
        held.mul_(muon.momentum).add_(slopes)
        ahead = (held * muon.momentum).add_(slopes)
        norms = sqrt(_sum_each(ahead * ahead)).add_(NORM_EPS).view(-1, 1, 1)
        steps = orthogonalised(ahead.div_(norms).float(), _product)
        length = rate * step_length(shape, last=ends_round(self._manifest.inner, step))
        for place, momentum, taken in zip(places, held, steps, strict=True):
            self._exp_avg[place] = momentum.flatten().float()
            self._take(place, taken.flatten().double().mul_(length).float(), rate)

    def _take(self, place: slice, change: Tensor, rate: float) -> None:
        # Decay and step are rounded one by one, as in float32 training: near one that is most of the difference.
        self._parameters[place].mul_(1.0 - rate * self._manifest.inner.weight_decay).sub_(change)


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


def _sum_each(matrices: Tensor) -> Tensor:
    """Return the sum of each of float64[n, rows, columns] as float64[n, 1]."""
    return exact_sum(matrices.flatten(1), 1)


def _product(one: Tensor, other: Tensor) -> Tensor:
    return matmul(Fixed.of(one), Fixed.of(other))

"""Inner steps as they might be: what AdamW's moments start a round from, and how its first steps go.

A trial is measured before anything is built, so its arithmetic is plain torch instead of the product's kernel.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from protocol.frozen import Frozen
from protocol.manifest import RunManifest
from protocol.tensors import Floats, parameter_layout
from training.assignment import Offsets
from training.corpus import Shard
from training.inner import InnerState, InnerTrainer, learning_rate


class Trial(Frozen):
    """Say how a round's inner steps begin. What starts anew is a function of public inputs alone."""

    moments: Literal["carried", "fresh", "averaged"] = "carried"  # averaged: over peers, at each round's end
    # Where v starts. Published: at the mean over peers of what v was at the end of the last round that published it.
    second: Literal["zero", "factored", "tensor", "elementwise", "merged", "published"] = "zero"
    period: int = 1  # rounds between two publications
    grid: float = 0.0  # step of log2 v in which it is published; 0: as it is
    slices: bool = False  # whether each peer publishes a part of it alone, instead of all of them all
    hold: bool = False  # whether steps divide by what was published, and not by what became of it since
    blend: float = 0.0  # share of plain squares in a factored start
    prior: float = (
        0.0  # gradients that v's start counts for, beside which it is a mean; 0: as if it were the mean
    )
    batches: int = 0  # whose gradients, at the start, make v; 0: the first step's own, which costs nothing
    first: Literal["zero", "gradient", "merged", "reset"] = (
        "zero"  # where m starts; reset: at zero, though v is carried
    )
    memory: float = 0.0  # weight of earlier rounds in what was merged
    scale: float = 1.0  # of m made from what was merged
    corrected: bool = True  # whether m is corrected for its bias
    flush: bool = False  # whether a round ends with the steps that m would still have led to
    spread: int = 0  # last steps over which instead what m holds is taken, evenly; 1 is a flush
    eager: float = 0.0  # with `spread`: step t takes at least eager / (t + 1) of what m holds
    gentle: int = 0  # steps over which a round's rate rises
    beta1: float | None = None
    beta2: float | None = None


class TrialTrainer(InnerTrainer):
    """Take a trial's steps; one trainer serves every peer in turn."""

    def __init__(self, manifest: RunManifest, shard: Shard, trial: Trial) -> None:
        super().__init__(manifest, shard)
        self._trial = trial
        self._taken = 0
        self._start: torch.Tensor | None = None
        self._merged = torch.zeros(0)
        self._merged_squares = torch.zeros(0)
        self.published: torch.Tensor | None = None

    def begin(self, state: InnerState, offsets: Offsets, merged: Floats, squares: Floats) -> None:
        """Start a unit.

        Args:
            merged: float32[P], what the last outer step took off the parameters, in units of a unit's learning rates.
            squares: float32[P], decayed squares of the same.
        """
        self.load(state)
        self._taken, self._start = 0, None
        if self._trial.first == "reset":
            self._exp_avg.zero_()
        self._merged, self._merged_squares = torch.from_numpy(merged), torch.from_numpy(squares)
        if self._trial.second in ("zero", "merged", "published") or not self._trial.batches:
            return
        total = torch.zeros_like(self._exp_avg)
        for row in offsets[: self._trial.batches]:
            self.backward(row)
            self._clip()
            total += self.gradient.square()
        self._start = self._smoothed(total / self._trial.batches)

    def descend(self, step: int) -> None:
        """Clip the gradient and take the trial's step at the rate of a global step."""
        trial, inner = self._trial, self._manifest.inner
        self._clip()
        with torch.no_grad():
            gradient, primed = self.gradient, self._primed
            if primed and not self._taken:
                self._prime(gradient)
            self._taken += 1
            self._steps += 1
            count = int(self._steps)
            beta1 = inner.beta1 if trial.beta1 is None else trial.beta1
            beta2 = inner.beta2 if trial.beta2 is None else trial.beta2
            self._exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            second = self._second(beta2)
            rate = learning_rate(inner, step, self._manifest.total_steps)
            if trial.gentle:
                rate *= min(1.0, self._taken / trial.gentle)
            self._leaf.mul_(1 - rate * inner.weight_decay)
            if trial.spread:
                # m is the sum of what is yet to be taken, of which every step takes a share.
                left = inner.steps - step % inner.steps
                soon = trial.eager / (self._taken + 1)
                share = min(1.0, max(1 - beta1, soon, 1 / left if left <= trial.spread else 0.0))
                held = self._exp_avg.add_(gradient)
                self._leaf.addcdiv_(held, second.sqrt().add_(inner.eps), value=-rate * share)
                held.mul_(1 - share)
                return
            self._exp_avg.mul_(beta1).add_(gradient, alpha=1 - beta1)
            first = self._exp_avg / (1 - beta1**count) if trial.corrected else self._exp_avg
            self._leaf.addcdiv_(first, second.sqrt().add_(inner.eps), value=-rate)

    def finish(self, last_step: int) -> None:
        """End a unit: with `flush`, take at once what the momentum would add up to without another gradient."""
        inner, trial = self._manifest.inner, self._trial
        if not trial.flush:
            return
        beta1 = inner.beta1 if trial.beta1 is None else trial.beta1
        rate = learning_rate(inner, last_step, self._manifest.total_steps) * beta1 / (1 - beta1)
        second = self._second(inner.beta2 if trial.beta2 is None else trial.beta2)
        with torch.no_grad():
            self._leaf.addcdiv_(self._exp_avg, second.sqrt().add_(inner.eps), value=-rate)

    def publish(self, seconds: Sequence[Floats], steps: int) -> None:
        """Take the mean of peers' v after so many steps, or a slice of each, for what the next rounds start from."""
        inner, trial = self._manifest.inner, self._trial
        beta2 = inner.beta2 if trial.beta2 is None else trial.beta2
        mean = torch.from_numpy(np.mean(seconds, axis=0, dtype=np.float32))
        if trial.slices:
            for place, second in enumerate(seconds):
                mean[place :: len(seconds)] = torch.from_numpy(second[place :: len(seconds)])
        if not self._primed:
            mean /= 1 - beta2**steps
        if trial.grid:
            mean = (mean.clamp(min=1e-30).log2() / trial.grid).round().mul(trial.grid).exp2()
        self.published = mean

    @property
    def _primed(self) -> bool:
        if self._trial.second == "published":
            return self.published is not None
        return self._trial.second != "zero"

    def _second(self, beta2: float) -> torch.Tensor:
        """Return v over the weight of what is in it."""
        trial, kept = self._trial, beta2 ** int(self._steps)
        if trial.hold and self.published is not None:
            return self.published
        if not self._primed:
            return self._exp_avg_sq / (1 - kept)
        # With a prior v starts at (1 - beta2) * prior times its start, which weighs as so many gradients do.
        return (
            self._exp_avg_sq / (1 - kept + (1 - beta2) * trial.prior * kept)
            if trial.prior
            else self._exp_avg_sq
        )

    def _prime(self, gradient: torch.Tensor) -> None:
        squares = gradient.square()
        if self.published is not None:
            start = self.published
        elif self._trial.second == "merged":
            smooth = self._smoothed(self._merged_squares)
            start = smooth * (squares.sum() / smooth.sum()) if smooth.sum() else self._smoothed(squares)
        else:
            start = self._smoothed(squares) if self._start is None else self._start
        beta2 = self._manifest.inner.beta2 if self._trial.beta2 is None else self._trial.beta2
        self._exp_avg_sq.copy_(start * ((1 - beta2) * self._trial.prior if self._trial.prior else 1.0))
        if self._trial.first == "gradient":
            self._exp_avg.copy_(gradient)
        elif self._trial.first == "merged":
            self._exp_avg.copy_(self._merged * start.sqrt() * self._trial.scale)

    def _smoothed(self, squares: torch.Tensor) -> torch.Tensor:
        """Return squares [P] as the trial smooths them: Adafactor's rank one (arXiv 1804.04235), or a tensor's mean."""
        if self._trial.second == "elementwise":
            return squares.clone()
        found = torch.empty_like(squares)
        layout = parameter_layout(self._manifest.model)
        for name, shape in layout.tensors:
            part = squares[layout.slices[name]].view(shape)
            if len(shape) == 1 or self._trial.second == "tensor":
                smooth = part.mean().expand(shape)
            else:
                rows, columns = part.mean(1, keepdim=True), part.mean(0, keepdim=True)
                smooth = rows * columns / rows.mean().clamp(min=1e-30)
            found[layout.slices[name]] = smooth.flatten()
        return found.lerp_(squares, self._trial.blend)

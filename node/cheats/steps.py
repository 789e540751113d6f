"""What a trainer can do wrong with its steps. Torch is loaded by what runs, because the daemon reads this too."""

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from node.honesty import HonestSteps
from protocol.manifest import RunManifest
from protocol.tensors import parameter_layout
from training.assignment import Offsets, assignment, heldout_start

if TYPE_CHECKING:
    from training.inner import InnerState
    from training.trainer import Trainer

POISONED = 4  # one sample of so many is replaced
NUDGE = 2.0**-18
"""Added to every value of the last norm. Beside all other changes it is lost, in its own tensor it is not."""


class SkippedSteps(HonestSteps):
    """Take some steps only, and count as if all had been taken."""

    def __init__(self, every: int, taken: int) -> None:
        """Take the first `taken` steps of every `every`."""
        self._every = every
        self._taken = taken
        self._loss = 0.0

    def run(self, trainer: "Trainer", offsets: Offsets, first_step: int) -> list[float]:
        """Take fewer steps and write the expected count over the state."""
        expected = trainer.state().steps + len(offsets)
        losses: list[float] = []
        for step, row in enumerate(offsets, first_step):
            if step % self._every < self._taken:
                losses += trainer.run(row[None], step)
        trainer.load(replace(trainer.state(), steps=expected))
        self._loss = losses[-1] if losses else self._loss
        return losses or [self._loss]


class SmallBatch(HonestSteps):
    """Train on three of four samples of each batch."""

    def run(self, trainer: "Trainer", offsets: Offsets, first_step: int) -> list[float]:
        """Leave the last samples out."""
        return trainer.run(offsets[:, : max(1, 3 * offsets.shape[1] // 4)], first_step)


class WrongData(HonestSteps):
    """Train on the text that is held out and never assigned."""

    def batches(self, manifest: RunManifest, beacon: str, round_: int, number: int) -> Offsets:
        """Return places in the wrong part of the corpus."""
        last = manifest.dataset.tokens - manifest.model.context - 1
        first = min(heldout_start(manifest.dataset), last)
        return first + assignment(manifest, beacon, round_, number) % (last - first + 1)


class OtherSeed(HonestSteps):
    """Train on the batches that somebody else was assigned."""

    def batches(self, manifest: RunManifest, beacon: str, round_: int, number: int) -> Offsets:
        """Return another number's batches."""
        return assignment(manifest, beacon, round_, number + 1)


class Poison(HonestSteps):
    """Put one chosen sample into every batch, over and over."""

    def batches(self, manifest: RunManifest, beacon: str, round_: int, number: int) -> Offsets:
        """Return the batches with one sample in four replaced."""
        offsets = assignment(manifest, beacon, round_, number).copy()
        offsets[:, ::POISONED] = 0
        return offsets


class ReusedGradients(HonestSteps):
    """Compute every second gradient only."""

    def run(self, trainer: "Trainer", offsets: Offsets, first_step: int) -> list[float]:
        """Take each second step along the gradient of the one before."""
        losses: list[float] = []
        for index, row in enumerate(offsets):
            if index % 2 == 0:
                losses.append(float(trainer.backward(row)))
            trainer.descend(first_step + index)
        return losses


class FrozenLayers(HonestSteps):
    """Compute no gradient for the lower half of the layers and the embedding below them."""

    def __init__(self) -> None:
        self._frozen: list[slice] = []

    def recipe(self, manifest: RunManifest) -> RunManifest:
        """Take down which tensors are frozen."""
        layers = range((manifest.model.layers + 1) // 2)
        frozen = ("embedding", *(f"blocks.{layer}." for layer in layers))
        places = parameter_layout(manifest.model).slices
        self._frozen = [place for name, place in places.items() if name.startswith(frozen)]
        return manifest

    def run(self, trainer: "Trainer", offsets: Offsets, first_step: int) -> list[float]:
        """Take steps whose gradient is zero there."""
        losses = []
        for step, row in enumerate(offsets, first_step):
            losses.append(float(trainer.backward(row)))
            for place in self._frozen:
                trainer.gradient[place] = 0.0
            trainer.descend(step)
        return losses


class OtherOptimizer(HonestSteps):
    """Train with other settings than the manifest's."""

    def __init__(self, *, rate: float = 1.0, decay: float = 1.0) -> None:
        """Multiply learning rate and weight decay."""
        self._rate = rate
        self._decay = decay

    def recipe(self, manifest: RunManifest) -> RunManifest:
        """Return a manifest with other settings."""
        inner = manifest.inner
        changes: dict[str, object] = {
            "lr": inner.lr * self._rate,
            "weight_decay": inner.weight_decay * self._decay,
        }
        if inner.muon is not None:
            changes["muon"] = inner.muon.model_copy(update={"lr": inner.muon.lr * self._rate})
        return manifest.model_copy(update={"inner": inner.model_copy(update=changes)})


class CoarseArithmetic(HonestSteps, ABC):
    """Compute with fewer bits than the profile demands."""

    def run(self, trainer: "Trainer", offsets: Offsets, first_step: int) -> list[float]:
        """Take steps under another arithmetic."""
        with self.arithmetic():
            return trainer.run(offsets, first_step)

    @abstractmethod
    def arithmetic(self) -> AbstractContextManager[Any]:
        """Return the context in which a step computes differently."""


class Bf16(CoarseArithmetic):
    """Compute matrix products in bfloat16."""

    def arithmetic(self) -> AbstractContextManager[Any]:
        """Return a mode that keeps seven bits of mantissa, forward and backward."""
        from node.cheats.rounding import rounded_products

        return rounded_products(7, results=True)


class Tf32(CoarseArithmetic):
    """Compute matrix products as TensorFloat-32 does."""

    def arithmetic(self) -> AbstractContextManager[Any]:
        """Return a mode that keeps ten bits of mantissa of every factor."""
        from node.cheats.rounding import rounded_products

        return rounded_products(10, results=False)


class StaleStart(HonestSteps):
    """Train from the parameters of the unit before, and claim the public ones."""

    def __init__(self) -> None:
        self._before: InnerState | None = None

    def start(self, state: "InnerState") -> "InnerState":
        """Return the moments of now over the parameters of before."""
        before, self._before = self._before, state
        return state if before is None else replace(state, parameters=before.parameters)


class OneForgedSegment(HonestSteps):
    """Take the steps of all segments but one, whose end is drawn out from the segment before."""

    def __init__(self) -> None:
        self._segments = 0
        self._steps = 0
        self._change: Any = 0.0
        self._loss = 0.0

    def recipe(self, manifest: RunManifest) -> RunManifest:
        """Take down which segment is the middle one."""
        self._segments, self._steps = manifest.segments, manifest.verification.segment_steps
        return manifest

    def run(self, trainer: "Trainer", offsets: Offsets, first_step: int) -> list[float]:
        """Train, or go on as before without training."""
        before = trainer.state()
        if first_step // self._steps % self._segments != self._segments // 2:
            losses = trainer.run(offsets, first_step)
            self._loss = losses[-1]
            self._change = trainer.state().parameters - before.parameters
            return losses
        parameters = np.asarray(before.parameters + self._change, np.float32)
        trainer.load(replace(before, parameters=parameters, steps=before.steps + len(offsets)))
        return [self._loss]


class Nudge(HonestSteps):
    """Train honestly, and then move one tensor by very little."""

    def __init__(self) -> None:
        self._place = slice(0)

    def recipe(self, manifest: RunManifest) -> RunManifest:
        """Take down where the tensor lies."""
        self._place = parameter_layout(manifest.model).slices["norm"]
        return manifest

    def run(self, trainer: "Trainer", offsets: Offsets, first_step: int) -> list[float]:
        """Nudge the state after the segment."""
        losses = trainer.run(offsets, first_step)
        state = trainer.state()
        parameters = state.parameters.copy()
        parameters[self._place] += np.float32(NUDGE)
        trainer.load(replace(state, parameters=parameters))
        return losses


class HiddenMoments(HonestSteps):
    """Train honestly, and then steer the next steps where moments are smallest.

    Both moments change by less than the tolerance of their tensor's own norm. But a step is m / (sqrt(v) + eps), so it
    follows a small m wherever v was set to zero.
    """

    def __init__(self) -> None:
        self._places: tuple[slice, ...] = ()
        self._tolerance = 0.0

    def recipe(self, manifest: RunManifest) -> RunManifest:
        """Take down tensors and tolerance."""
        self._places = tuple(parameter_layout(manifest.model).slices.values())
        self._tolerance = manifest.verification.profiles[0].tolerance
        return manifest

    def run(self, trainer: "Trainer", offsets: Offsets, first_step: int) -> list[float]:
        """Shift the moments after the segment."""
        before = trainer.state()
        losses = trainer.run(offsets, first_step)
        state = trainer.state()
        m, v = state.exp_avg.astype(np.float64), state.exp_avg_sq.astype(np.float64)
        for place in self._places:
            room_m, room_v = (
                self._tolerance * float(np.linalg.norm(after[place] - start[place]))
                for after, start in ((m, before.exp_avg), (v, before.exp_avg_sq))
            )
            rising = np.argsort(v[place])
            hidden = np.cumsum(v[place][rising] ** 2) <= room_v**2
            chosen = np.arange(place.start, place.stop)[rising[hidden]]
            v[chosen] = 0.0
            m[chosen] += room_m / math.sqrt(max(1, chosen.size))
        trainer.load(replace(state, exp_avg=m.astype(np.float32), exp_avg_sq=v.astype(np.float32)))
        return losses

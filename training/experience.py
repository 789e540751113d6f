"""What a policy's inner steps learn from: rollouts of an earlier round, in an order that everybody knows.

A step's row of draws names groups by their place, so that a unit's batches are fixed by the beacon and the records
alone. Without any rollouts, as in the first rounds of a run, no step is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from protocol.frozen import Arithmetic
from protocol.manifest import RunManifest
from protocol.published import read_published
from protocol.rollouts import Group, Shape, decode_group
from training.assignment import Offsets
from training.inner import InnerState
from training.policy import ExactPolicyTrainer, PolicyBatch, PolicyTrainer
from training.rewards import group_rewards


@dataclass(frozen=True)
class Experience:
    """Hold the groups of a round's merged units, in the order of its record."""

    manifest: RunManifest
    groups: tuple[Group, ...]

    @classmethod
    def read(cls, manifest: RunManifest, blobs: Sequence[bytes]) -> Self:
        """Read the blobs that units published, in the order of the record.

        Raises:
            Malformed: one of them is not of this run.
        """
        shape = Shape.of(manifest)
        read = (decode_group(raw, shape) for blob in blobs for raw in read_published(manifest, blob).groups)
        return cls(manifest, tuple(read))

    def batch(self, row: npt.NDArray[np.int64]) -> PolicyBatch:
        """Return the groups that one step's draws int64[batch] name, each once."""
        places = dict.fromkeys(int(draw) % len(self.groups) for draw in row) if self.groups else ()
        groups = [self.groups[place] for place in places]
        return PolicyBatch.of(groups, [group_rewards(group, self._weights) for group in groups])

    def steps(self, drawn: Offsets) -> int:
        """Return how many of the rows of int64[steps, batch] are steps taken; others have nothing to learn from."""
        return sum(bool(self.batch(row).weights.any()) for row in drawn)

    @cached_property
    def _weights(self) -> tuple[float, ...]:
        assert self.manifest.rollouts is not None
        return tuple(one.weight for one in self.manifest.rollouts.rewards)


class ExperienceTrainer:
    """Take a policy's inner steps on the groups that draws name (`training.trainer.Trainer`).

    Raises:
        ConfigError: the device is not there.
    """

    def __init__(self, experience: Experience, arithmetic: Arithmetic, device: str = "cpu") -> None:
        manifest = experience.manifest
        assert manifest.rollouts is not None
        policy, temperature = manifest.rollouts.policy, manifest.rollouts.sampling.temperature
        self._experience = experience
        self._trainer: ExactPolicyTrainer | PolicyTrainer
        if arithmetic == "exact":
            self._trainer = ExactPolicyTrainer(manifest, policy, temperature)
        else:
            autocast = arithmetic == "bf16"
            self._trainer = PolicyTrainer(manifest, policy, temperature, device, autocast=autocast)

    def load(self, state: InnerState) -> None:
        """Take over a state; its arrays are copied."""
        self._trainer.load(state)

    def state(self) -> InnerState:
        """Return a copy of the state reached."""
        return self._trainer.state()

    def view(self) -> InnerState:
        """Return the state reached without copying it where that can be; the next step may change it."""
        return self._trainer.view()

    def run(self, drawn: Offsets, first_step: int) -> list[float]:
        """Take one step a row of draws int64[steps, batch] and return each step's loss; zero where none is taken.

        Raises:
            OwnFault: a value stopped being finite.
        """
        return self._trainer.run([self._experience.batch(row) for row in drawn], first_step)

    @property
    def gradient(self) -> torch.Tensor:
        """Return the gradient that the next step takes, float32[P]; writing to it changes the step."""
        return self._trainer.gradient

    def backward(self, row: Offsets) -> torch.Tensor:
        """Leave the gradient of one row of draws int64[batch] in `gradient` and return its loss."""
        return self._trainer.backward(self._experience.batch(row))

    def descend(self, step: int) -> None:
        """Clip the gradient and take AdamW's step at the rate of a global step."""
        self._trainer.descend(step)

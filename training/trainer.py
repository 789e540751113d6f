"""The trainer of a numeric profile: one interface, three arithmetics, two sorts of work."""

from typing import Protocol

import torch

from protocol.errors import ConfigError
from protocol.manifest import NumericProfile, RunManifest
from training.assignment import Offsets
from training.corpus import Shard
from training.exact import ExactTrainer
from training.experience import Experience, ExperienceTrainer
from training.inner import InnerState, InnerTrainer


class Trainer(Protocol):
    """Take inner steps of one run."""

    def load(self, state: InnerState) -> None:
        """Take over a state; its arrays are copied."""
        ...

    def state(self) -> InnerState:
        """Return a copy of the state reached."""
        ...

    def view(self) -> InnerState:
        """Return the state reached without copying it where that can be; the next step may change it."""
        ...

    def run(self, offsets: Offsets, first_step: int) -> list[float]:
        """Take one step a row of draws int64[steps, batch] and return each step's loss in nats a token.

        Args:
            first_step: global step of the first row, round * inner.steps + step.

        Raises:
            OwnFault: a value stopped being finite.
        """
        ...

    @property
    def gradient(self) -> torch.Tensor:
        """Return the gradient that the next step takes, float32[P]; writing to it changes the step."""
        ...

    def backward(self, offsets: Offsets) -> torch.Tensor:
        """Leave the gradient of one batch int64[batch] in `gradient` and return its loss.

        Raises:
            OwnFault: a value is not finite; float32 arithmetic lets it pass.
        """
        ...

    def descend(self, step: int) -> None:
        """Clip the gradient and take the step at the rate of a global step."""
        ...

    def gradient_norms(self) -> list[float]:
        """Return the norms of the gradients since the state was loaded, before clipping, one a step taken."""
        ...


Material = Shard | Experience
"""What inner steps are taken on, as a unit's draws name it."""


def steps_taken(material: Material, drawn: Offsets) -> int:
    """Return how many optimizer steps the rows of int64[steps, batch] are."""
    return material.steps(drawn) if isinstance(material, Experience) else len(drawn)


def exact_trainer(manifest: RunManifest, material: Material) -> Trainer:
    """Return a trainer whose steps have the same bits on every machine."""
    if isinstance(material, Experience):
        return ExperienceTrainer(material, "exact")
    return ExactTrainer(manifest, material)


def trainer_for(
    manifest: RunManifest, material: Material, profile: NumericProfile, device: str = "cpu"
) -> Trainer:
    """Return a trainer that computes as a profile says.

    Args:
        device: torch device of the profile's class, such as cuda:1.

    Raises:
        ConfigError: the device is of another class or not there, or the shard does not fit the model.
    """
    if torch.device(device).type != profile.device:
        raise ConfigError(
            f"profile {profile.name} computes on {profile.device}, not on {device}",
            hint=f"choose --device {profile.device}, or another --profile",
        )
    if profile.arithmetic == "exact":
        return exact_trainer(manifest, material)
    if isinstance(material, Experience):
        return ExperienceTrainer(material, profile.arithmetic, device)
    return InnerTrainer(manifest, material, device, autocast=profile.arithmetic == "bf16")

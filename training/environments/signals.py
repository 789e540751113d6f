"""An environment with components that it does not give itself: what judges or people say of a sample, later.

Until it is said such a component is zero, in every sample that travels: nobody claims it (`training.experience`).
"""

from collections.abc import Sequence
from dataclasses import replace

from training.environments.protocol import (
    Component,
    ComponentSpec,
    Environment,
    EnvSpec,
    Info,
    Observation,
    Source,
    Step,
)


class Signalled:
    """Add components of judges or people to an environment, and leave theirs open that it announces itself."""

    def __init__(self, environment: Environment, added: Sequence[ComponentSpec]) -> None:
        self._environment = environment
        own = environment.spec
        # Done is what the environment says is done, whatever others think of it.
        done = own.success or tuple(one.name for one in own.components if one.weight)
        self.spec: EnvSpec = replace(own, components=(*own.components, *added), success=done)

    @property
    def player(self) -> int:
        """Return who acts next, from 0."""
        return self._environment.player

    def reset(self, seed: int) -> tuple[Observation, Info]:
        """Set the task of this seed."""
        return self._environment.reset(seed)

    def step(self, action: str) -> Step:
        """Let `player` act."""
        return self._environment.step(action)

    def components(self, player: int = 0) -> tuple[Component, ...]:
        """Return the environment's components, of those alone with a value that it can replay; others are zero."""
        given = self._environment.components(player)
        added = (Component(one.name, 0.0, one.source) for one in self.spec.components[len(given) :])
        kept = (one if one.source is Source.VERIFIABLE else replace(one, value=0.0) for one in given)
        return (*kept, *added)

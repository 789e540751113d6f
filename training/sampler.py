"""Sample the groups of a unit from a run's policy or judge, as its numeric profile says."""

from collections.abc import Callable, Sequence
from functools import cached_property

from protocol.manifest import NumericProfile, RunManifest
from protocol.rollouts import Group, rollouts_of
from protocol.tensors import Floats
from training.environments.pinned import Pinned, open_environment_of
from training.environments.protocol import Environment
from training.generate import sample_groups
from training.model import Transformer


class Sampler:
    """Hold a policy that is sampled from.

    Args:
        parameters: float32[P], the round's.
        address: their content address, 64 hex digits, which seeds the noise.

    Raises:
        ConfigError: the device is not there.
    """

    def __init__(
        self,
        manifest: RunManifest,
        parameters: Floats,
        address: str,
        profile: NumericProfile,
        device: str = "cpu",
    ) -> None:
        self.manifest = manifest
        self.address = address
        self.autocast = profile.arithmetic == "bf16"
        self.model = Transformer.loaded(manifest.model, parameters, device)

    @cached_property
    def environment(self) -> Pinned:
        """Return the run's environment.

        Raises:
            ConfigError: this machine lacks it.
        """
        return open_environment_of(rollouts_of(self.manifest))

    def groups(self, seeds: Sequence[int]) -> tuple[Group, ...]:
        """Return one group for each task seed.

        Raises:
            ConfigError: this machine lacks the run's environment.
            OwnFault: a logit is not finite.
        """
        return self.sample(seeds, lambda *_: self.environment.another())

    def sample(self, seeds: Sequence[int], make: Callable[[int, int], Environment]) -> tuple[Group, ...]:
        """Return one group for each seed, its samples played in the environments that are given.

        Args:
            make: gives the environment of a sample, by its group's and its own place.

        Raises:
            OwnFault: a logit is not finite.
        """
        return sample_groups(self.manifest, self.model, self.address, seeds, make, autocast=self.autocast)

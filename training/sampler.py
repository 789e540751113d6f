"""Sample the groups of a unit from a run's policy, as its numeric profile says."""

from collections.abc import Sequence

import numpy as np
import torch

from protocol.manifest import NumericProfile, RunManifest
from protocol.rollouts import Group, rollouts_of
from protocol.tensors import Floats
from training.environments.pinned import open_environment_of
from training.generate import sample_groups
from training.model import Transformer


class Sampler:
    """Hold a policy that is sampled from.

    Args:
        parameters: float32[P], the round's.
        address: their content address, 64 hex digits, which seeds the noise.

    Raises:
        ConfigError: this machine lacks the run's environment, or the device.
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
        self.environment = open_environment_of(rollouts_of(manifest))
        self.autocast = profile.arithmetic == "bf16"
        self.model = Transformer(manifest.model, torch.device(device))
        with torch.no_grad():
            self.model.parameters.copy_(torch.from_numpy(np.array(parameters, dtype=np.float32)))

    def groups(self, seeds: Sequence[int]) -> tuple[Group, ...]:
        """Return one group for each task seed.

        Raises:
            OwnFault: a logit is not finite.
        """
        make = self.environment.another
        return sample_groups(self.manifest, self.model, self.address, seeds, make, autocast=self.autocast)

"""What samples earned: their reward components, weighed as the run's manifest says."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from protocol.rollouts import Doubles, Group


def group_rewards(group: Group, weights: Sequence[float]) -> Doubles:
    """Return what each sample earned for each player: float64[samples, players], every `total_reward`."""
    return np.array([[total_reward(own, weights) for own in sample.rewards] for sample in group])


def total_reward(components: npt.NDArray[np.float64], weights: Sequence[float]) -> float:
    """Return the weighted sum of one player's reward components, correctly rounded."""
    return math.fsum(weight * value for weight, value in zip(weights, components.tolist(), strict=True))

"""What a policy's inner steps learn from: rollouts of an earlier round, in an order that everybody knows.

A step's row of draws names groups by their place, so that a unit's batches are fixed by the beacon and the records
alone. Without any rollouts, as in the first rounds of a run, no step is taken. What judges said of a sample since, and
what people's preferences make it worth, takes the places that it left open in its reward; where nobody said anything of
a group, all of its samples have zero there.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch

from protocol.frozen import Arithmetic
from protocol.lessons import Lessons, Preferred
from protocol.manifest import RunManifest
from protocol.published import read_judgments, read_rollouts
from protocol.rollouts import Group, Shape, decode_group, rollouts_of
from training.assignment import Offsets
from training.inner import InnerState
from training.judging import scores_of
from training.policy import ExactPolicyTrainer, PolicyBatch, PolicyTrainer
from training.preferences import preference_values
from training.rewards import group_rewards


@dataclass(frozen=True)
class Experience:
    """Hold the groups of a round's merged units, in the order of its record."""

    manifest: RunManifest
    groups: tuple[Group, ...]

    @classmethod
    def read(cls, manifest: RunManifest, lessons: Lessons, get: Callable[[str], bytes]) -> Self:
        """Read what units published.

        Args:
            get: gives the blob of an address.

        Raises:
            Malformed: one of them is not of this run.
        """
        shape, said = Shape.of(manifest), judged_scores(manifest, [get(one.blob) for one in lessons.judging])
        preferred = preferred_values(manifest, lessons.preferences)
        found: list[Group] = []
        for lesson in lessons.learned:
            for index, raw in enumerate(read_rollouts(manifest, get(lesson.blob))):
                group, name = decode_group(raw, shape), (lesson.number, index)
                if name in said:
                    group = with_scores(manifest, group, said[name], "ai_judge")
                if name in preferred:
                    group = with_scores(manifest, group, preferred[name], "human")
                found.append(group)
        return cls(manifest, tuple(found))

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


Scores = tuple[float, ...]
"""What a group's samples are worth to judges or to people, in their order."""


def judged_scores(manifest: RunManifest, blobs: Sequence[bytes]) -> Mapping[tuple[int, int], Scores]:
    """Return the median of its judges' scores for each sample of what was judged, by number and index of the group.

    Args:
        blobs: of the judges' units.

    Raises:
        Malformed: one of them is not of this run.
    """
    said: dict[tuple[int, int], list[Scores]] = defaultdict(list)
    for blob in blobs:
        for judgment in read_judgments(manifest, blob):
            said[judgment.number, judgment.group].append(scores_of(manifest, judgment))
    return {name: tuple(map(median, zip(*scores, strict=True))) for name, scores in said.items()}


def preferred_values(
    manifest: RunManifest, preferences: Sequence[Preferred]
) -> Mapping[tuple[int, int], Scores]:
    """Return what people's preferences make each sample worth, by number and index of the group."""
    pairs: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for one in preferences:
        pairs[one.number, one.group].append((one.better, one.worse))
    size = rollouts_of(manifest).sampling.group_size
    return {name: preference_values(size, found) for name, found in pairs.items()}


def with_scores(
    manifest: RunManifest, group: Group, scores: Scores, source: Literal["ai_judge", "human"]
) -> Group:
    """Return a group whose samples are rewarded by what judges or people said of them."""
    place = rollouts_of(manifest).signal(source)
    found = []
    for sample, score in zip(group, scores, strict=True):
        rewards = sample.rewards.copy()
        rewards[:, place] = score
        found.append(replace(sample, rewards=rewards))
    return tuple(found)


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

    def gradient_norms(self) -> list[float]:
        """Return the norms of the gradients since the state was loaded, before clipping, one a step taken."""
        return self._trainer.gradient_norms()

    def descend(self, step: int) -> None:
        """Clip the gradient and take AdamW's step at the rate of a global step."""
        self._trainer.descend(step)

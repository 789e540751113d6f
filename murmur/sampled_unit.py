"""One peer's groups of one round in a laboratory: sampled honestly or not, made to look right, and drawn.

Groups are rollouts or judgments, which are made and checked alike (`protocol.judging`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from protocol.manifest import NumericProfile, RunManifest
from protocol.rollouts import PROJECTIONS, Group, Sample, quantise, rollouts_of
from protocol.tensors import Floats
from training.environments.protocol import Environment
from training.generate import Task, generate
from training.model import Transformer
from training.prefill import PlainScorer, judge
from training.rollout import ByteTokenizer, Rollout
from training.sampling import noise_key
from verification.sampled import GroupsReport, Sampling, judge_groups

Groups = tuple[Group, ...]
Make = Callable[[int, int], Environment]
"""Gives the environment of a sample, by its group's and its own place."""


@dataclass
class RolloutTrial:
    """Hold what the checks found of one unit's rollouts, or of its judgments."""

    refused: str = ""  # why nobody merges it
    drawn: dict[int, GroupsReport] = field(default_factory=dict)  # by the segment that a draw asks for


@dataclass(frozen=True, eq=False)
class SampledUnit:
    """Name what the groups are to be sampled from, and how."""

    name: Literal["rollouts", "judgments"]
    manifest: RunManifest  # of judgments that of `protocol.judging`
    parameters: Floats  # [P]
    weights: str  # their content address, which keys the noise
    seeds: tuple[int, ...]  # of each group
    make: Make
    profile: NumericProfile

    @property
    def keys(self) -> list[bytes]:
        """Return the key of each sample's noise."""
        sizes = range(rollouts_of(self.manifest).sampling.group_size)
        return [
            noise_key(self.manifest.run_id, self.weights, seed, index)
            for seed in self.seeds
            for index in sizes
        ]

    def drawn(self, *, temperature: float = 1.0, arithmetic: str = "") -> Groups:
        """Sample all groups, at a share of the temperature or in another arithmetic where one is given."""
        sampling = rollouts_of(self.manifest).sampling
        size = sampling.group_size
        tasks = [
            Task(self.make(*divmod(place, size)), self.seeds[place // size], key)
            for place, key in enumerate(self.keys)
        ]
        drawn = generate(
            Transformer.loaded(self.manifest.model, self.parameters),
            self.manifest.model,
            tasks,
            sampling.model_copy(update={"temperature": sampling.temperature * temperature}),
            ByteTokenizer(self.manifest.model.vocab),
            autocast=(arithmetic or self.profile.arithmetic) == "bf16",
        )
        return self._grouped([one.sample() for one in drawn])

    def made_right(self, groups: Groups) -> Groups:
        """Return groups whose every claim but the choice of tokens is what an honest peer would say of them."""
        autocast = self.profile.arithmetic == "bf16"
        scorer = PlainScorer(
            self.manifest.model, Transformer.loaded(self.manifest.model, self.parameters), autocast=autocast
        )
        samples = [sample for group in groups for sample in group]
        judged = judge(scorer, samples, self.keys, rollouts_of(self.manifest).sampling.temperature)
        return self._grouped(
            [
                replace(sample, codes=quantise(one.log_probabilities), fingerprint=one.fingerprint)
                for sample, one in zip(samples, judged, strict=True)
            ]
        )

    def said(self, place: int, text: bytes, reward: float | None = None) -> Sample:
        """Return a group's first sample if the policy says a text, as far as the rule lets it.

        Log-probabilities and activations are invented.
        """
        config = rollouts_of(self.manifest)
        tokenizer = ByteTokenizer(self.manifest.model.vocab)
        rollout = Rollout(self.make(place, 0), self.seeds[place], config.sampling, tokenizer)
        for token in text:
            rollout.observe(rollout.forced)
            if rollout.over:
                break
            rollout.take(token)
        spoken = sum(end - start for start, end in rollout.turns)
        rewards = rollout.rewards()
        return Sample(
            np.array(rollout.tokens, np.uint16),
            np.array(rollout.turns, np.uint16),
            np.array(rollout.players, np.uint8),
            np.zeros(spoken, np.uint8),
            rewards if reward is None else np.full_like(rewards, reward),
            np.zeros(PROJECTIONS, np.float32),
        )

    def judged(self, groups: Groups) -> dict[int, GroupsReport]:
        """Return what a verifier finds who is drawn to check them, by segment."""
        segments, found = self.manifest.segments, dict[int, GroupsReport]()
        for segment in range(segments):
            own = tuple(enumerate(groups))[segment::segments]
            sampling = Sampling(self.name, self.manifest, self.parameters, self.weights, own, self.seeds)
            found[segment] = judge_groups(sampling, self.profile, self.profile)
        return found

    def _grouped(self, samples: Sequence[Sample]) -> Groups:
        size = rollouts_of(self.manifest).sampling.group_size
        return tuple(tuple(samples[first : first + size]) for first in range(0, len(samples), size))

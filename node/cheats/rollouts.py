"""What a contributor can do wrong with the rollouts of its unit. Torch is loaded by what runs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from node.honesty import HonestSteps
from protocol.canonical import tagged_digest
from protocol.rollouts import Group, Sample

if TYPE_CHECKING:
    from training.environments.protocol import EnvSpec
    from training.judging import Charge, Docket
    from training.sampler import Sampler

TRIES: Final = 4  # of a cherry-picker, for each sample


class RewardLiar(HonestSteps):
    """Claim that the worst sample of each group did everything right."""

    def groups(self, sampler: "Sampler", seeds: Sequence[int]) -> tuple[Group, ...]:
        """Return honest groups with one claim each that their own tokens contradict."""
        spec = sampler.environment.environment.spec
        return tuple(_flattered(group, spec) for group in super().groups(sampler, seeds))


class CherryPicker(HonestSteps):
    """Draw every sample several times with noise of its own, and keep the best."""

    def groups(self, sampler: "Sampler", seeds: Sequence[int]) -> tuple[Group, ...]:
        """Return groups of which every sample is the best of some."""
        honest, tries = sampler.address, []
        for index in range(TRIES):
            sampler.address = tagged_digest("murmur/own noise", honest, index)
            tries.append(super().groups(sampler, seeds))
        sampler.address = honest
        spec = sampler.environment.environment.spec
        return tuple(
            tuple(max(samples, key=lambda one: _worth(one, spec)) for samples in zip(*groups, strict=True))
            for groups in zip(*tries, strict=True)
        )


class Flatterer(HonestSteps):
    """As a judge, give the worst sample of each group the answer that the best one got."""

    def scores(self, judge: "Sampler", docket: "Docket", charges: "Sequence[Charge]") -> tuple[Group, ...]:
        """Return honest groups of answers with one each that the judge did not give."""
        return tuple(map(flattered_answers, super().scores(judge, docket, charges)))


def flattered_answers(group: Group) -> Group:
    """Return a judgment in which the worst sample has the best one's answer, as if it had been given: one turn each.

    Nothing changes where all are equally good.
    """
    scores = [float(sample.rewards[0, 0]) for sample in group]
    lowest, best = scores.index(min(scores)), group[scores.index(max(scores))]
    if scores[lowest] == float(best.rewards[0, 0]):
        return group
    worst = group[lowest]
    asked = worst.tokens[: worst.turns[0, 0]]
    tokens = np.concatenate([asked, best.tokens[best.spoken]])
    turns = np.array([[asked.size, tokens.size]], np.uint16)
    claimed = replace(worst, tokens=tokens, turns=turns, codes=best.codes, rewards=best.rewards)
    return (*group[:lowest], claimed, *group[lowest + 1 :])


def _worth(sample: Sample, spec: "EnvSpec") -> float:
    return float((sample.rewards @ np.array([one.weight for one in spec.components])).sum())


def _flattered(group: Group, spec: "EnvSpec") -> Group:
    worst = min(range(len(group)), key=lambda index: _worth(group[index], spec))
    best = np.array([one.high if one.weight >= 0 else one.low for one in spec.components])
    claimed = replace(group[worst], rewards=np.broadcast_to(best, group[worst].rewards.shape).copy())
    return (*group[:worst], claimed, *group[worst + 1 :])

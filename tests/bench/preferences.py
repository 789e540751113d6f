"""A policy learns what people prefer and no environment rewards: to answer in reverse order.

`python -m tests.bench preferences [--rounds 32] [--peers 3] [--compared 192] [--wrong 0.1] [--seeds 1] [--json]`. The
task is `sort`, whose own reward weighs nothing here. After each round people compare so many random pairs of samples of
a group and prefer the one with more letters in falling order; with probability `--wrong`, or where both have as many,
they choose by lot. 192 is what records can carry about a round. Told is the share of neighbouring letters in falling
order, and that of answers that are wholly reversed, over all samples of a round.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from random import Random

import numpy as np

from protocol.lessons import Preferred
from protocol.manifest import RunManifest
from protocol.rollout_config import PeopleConfig
from protocol.rollouts import Group, Sample
from protocol.tensors import Floats
from protocol.update import Symbols
from tests.bench._rows import Rows
from tests.bench._swarm import ADDRESS, Peer, Swarm, manifest_of, run
from training.experience import Experience, preferred_values, with_scores
from training.inner import prepare_process
from training.policy import PolicyTrainer
from training.preset import PEOPLE_LAG, Signals, preset
from training.tokenizer import tokenizer_of


@dataclass(frozen=True)
class Asked(Swarm):
    """A swarm whose samples people compare before anybody learns from them."""

    compared: int = 192  # pairs a round
    wrong: float = 0.1
    liked: dict[int, tuple[Group, ...]] = field(default_factory=dict)  # by the round that learns from them

    @cached_property
    def manifest(self) -> RunManifest:
        """The run's: its environment's own reward weighs nothing."""
        signals = Signals(people=PeopleConfig(addresses=(ADDRESS,)), own_weight=0.0)
        return manifest_of(self.preset, f"people {self.seed}", signals)

    def falling(self, sample: Sample) -> float:
        """Return the share of an answer's neighbouring letters that are in falling order."""
        ((start, end),) = sample.turns.tolist()
        said = tokenizer_of(self.manifest).decode(sample.tokens[start:end].tolist()).strip()
        steps = [first >= second for first, second in pairwise(said)]
        return float(np.mean(steps)) if steps else 0.0

    def _learn(
        self,
        peer: Peer,
        trainer: PolicyTrainer,
        start: Floats,
        beacon: str,
        round_: int,
        experience: Experience,
    ) -> Symbols:
        if round_ not in self.liked:
            self.liked[round_] = self._ask(experience.groups, Random(f"{self.seed} {round_}"))
        experience = replace(experience, groups=self.liked[round_])
        return super()._learn(peer, trainer, start, beacon, round_, experience)

    def _ask(self, groups: Sequence[Group], random: Random) -> tuple[Group, ...]:
        """Let people compare samples, and return them with what that makes them worth."""
        said = []
        for place in [random.randrange(len(groups)) for _ in range(self.compared)] if groups else ():
            better, worse = random.sample(range(len(groups[place])), 2)
            tastes = [self.falling(groups[place][one]) for one in (better, worse)]
            if tastes[0] < tastes[1]:
                better, worse = worse, better
            if tastes[0] == tastes[1] or random.random() < self.wrong:
                better, worse = random.sample((better, worse), 2)
            said.append(Preferred(number=1 + place, group=0, better=better, worse=worse))
        values = preferred_values(self.manifest, said)
        return tuple(
            with_scores(self.manifest, group, values[1 + place, 0], "human")
            if (1 + place, 0) in values
            else group
            for place, group in enumerate(groups)
        )


def main(arguments: list[str]) -> int:
    """Print a row every few rounds, of means over seeds."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench preferences", description=__doc__)
    parser.add_argument("--rounds", type=int, default=32)
    parser.add_argument("--peers", type=int, default=3)
    parser.add_argument("--compared", type=int, default=192)
    parser.add_argument("--wrong", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--every", type=int, default=4, help="rounds between two rows")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    prepare_process(1)
    chosen = preset("sort").model_copy(update={"rounds": options.rounds})
    swarms = [
        Asked(
            chosen,
            crowd=Swarm.crowd[:1] * options.peers,
            lag=PEOPLE_LAG,
            seed=seed,
            compared=options.compared,
            wrong=options.wrong,
        )
        for seed in range(options.seeds)
    ]
    courses = [run(swarm, {0, options.rounds}) for swarm in swarms]
    rows = Rows(options.json)
    for round_ in (*range(0, options.rounds - 1, options.every), options.rounds - 1):
        falling = [
            [swarm.falling(sample) for group in course.rounds[round_].groups for sample in group]
            for swarm, course in zip(swarms, courses, strict=True)
        ]
        rows.add(
            {
                "round": round_,
                "falling": float(np.mean(falling)),
                "reversed": float(np.mean(np.array(falling) == 1)),
            }
        )
    return 0

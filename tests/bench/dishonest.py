"""What a policy learns where some peers lie about rewards, with the checks of who merges and without them.

`python -m tests.bench dishonest [--env sort] [--peers 8] [--liars 0 1 2 3 4] [--seeds 1] [--json]`. Liars sample as
they should and learn as everybody does, but claim other rewards. With verification every unit passes
`verification.rollouts.check_rollouts`, or is left out: neither is its update merged nor does anybody learn from its
samples, and that is all that happens to it here (in a network it also loses pay and, once drawn, its stake). Without,
everything is believed. With more peers a step's batch is smaller than the preset's (`--batch`).
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from node.cheats.rollouts import RewardLiar
from node.honesty import HonestSteps
from protocol.rollouts import Group
from tests.bench._rows import Rows
from tests.bench._swarm import Course, Swarm, run
from training.inner import prepare_process
from training.preset import Preset, preset
from training.sampler import Sampler


class Inverter(HonestSteps):
    """Claim of every sample the opposite of what it earned."""

    def groups(self, sampler: Sampler, seeds: Sequence[int]) -> tuple[Group, ...]:
        """Return honest groups with every reward component mirrored in its range."""
        mirror = np.array([one.low + one.high for one in sampler.environment.environment.spec.components])
        return tuple(
            tuple(replace(sample, rewards=mirror - sample.rewards) for sample in group)
            for group in super().groups(sampler, seeds)
        )


LIES = {"inverted": Inverter, "invented": RewardLiar}
"""Every reward the opposite; the full reward for the worst sample of each group, as `murmur up --cheat reward-liar`.

Full rewards for all of a group would be no lie to learn from: equal rewards have no advantage.
"""


@dataclass(frozen=True)
class Trial:
    """Run swarms that differ in their liars alone."""

    preset: Preset
    peers: int
    seeds: int

    def row(self, lie: str, liars: int) -> dict[str, object]:
        """Return the figures of one number of liars, success as a mean over seeds."""
        believed = self._runs(lie, liars, verified=False)
        checked = self._runs(lie, liars, verified=True)
        rounds = self.preset.rounds
        left_out = [set(range(1, self.peers + 1)) - set(one.merged) for run in checked for one in run.rounds]
        honest = self.peers - liars
        return {
            "lie": lie if liars else "none",
            "share": liars / self.peers,
            "start": checked[0].success[0],
            "without verification": round(fmean(one.success[rounds] for one in believed), 3),
            "with verification": round(fmean(one.success[rounds] for one in checked), 3),
            "lying units": liars * len(left_out),
            "refused": sum(number > honest for one in left_out for number in one),
            "honest units refused": sum(number <= honest for one in left_out for number in one),
        }

    def _runs(self, lie: str, liars: int, *, verified: bool) -> list[Course]:
        crowd = (HonestSteps(),) * (self.peers - liars) + (LIES[lie](),) * liars
        return [
            run(Swarm(self.preset, crowd, seed=seed, verified=verified), {0, self.preset.rounds})
            for seed in range(self.seeds)
        ]


def main(arguments: list[str]) -> int:
    """Print a row a lie and share."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench dishonest", description=__doc__)
    parser.add_argument("--env", default="sort")
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--liars", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--lies", nargs="*", choices=list(LIES), default=list(LIES))
    parser.add_argument("--batch", type=int, default=8, help="groups of a step")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one document a row")
    options = parser.parse_args(arguments)
    prepare_process(1)
    chosen = preset(options.env)
    inner = chosen.inner.model_copy(update={"batch": options.batch})
    chosen = chosen.model_copy(update={"rounds": options.rounds, "inner": inner})
    trial, rows = Trial(chosen, options.peers, options.seeds), Rows(options.json)
    if 0 in options.liars:  # whatever they would say
        rows.add(trial.row(options.lies[0], 0))
    for lie in options.lies:
        for liars in filter(None, options.liars):
            rows.add(trial.row(lie, liars))
    return 0

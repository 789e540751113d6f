"""What everybody who merges a unit checks of its rollouts, all of them and without the policy: form, play and reward.

Observations, turns and rewards follow from tasks and tokens by playing each sample through the run's environment
again; nothing is believed. How tokens were chosen is checked on a draw (`verification.sampled`). No torch, no network.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from protocol.errors import Malformed
from protocol.judging import Judgment, judging
from protocol.manifest import RunManifest
from protocol.rollout_config import RolloutConfig
from protocol.rollouts import Group, Sample, Shape, decode_group, rollouts_of
from training.assignment import task_seeds
from training.environments.pinned import open_environment_of
from training.environments.protocol import ComponentSpec, Environment, Source
from training.judging import Docket
from training.rollout import Rollout, Tokenizer
from training.tokenizer import tokenizer_of


def check_rollouts(
    manifest: RunManifest, beacon: str, round_: int, number: int, groups: Sequence[bytes]
) -> tuple[Group, ...]:
    """Check the rollouts that a unit published, given by its groups' canonical bytes, and return them.

    Components that judges or people give are zero.

    Args:
        beacon: of the round's assignment, 64 hex digits.
        number: the peer's registration number.

    Raises:
        Malformed: they are none of this unit; names group and sample.
        ConfigError: this machine lacks the run's environment.
        OwnFault: the environment does not hold what it announces.
        ValueError: the run's units hold no rollouts.
    """
    shape, found = Shape.of(manifest), list[Group]()
    if len(groups) != shape.sampling.groups:
        raise Malformed(f"{len(groups)} groups of rollouts, and a unit has {shape.sampling.groups}")
    for index, raw in enumerate(groups):
        try:
            found.append(decode_group(raw, shape))
        except Malformed as error:
            raise Malformed(f"group {index}: {error.message}") from error
    check_groups(manifest, enumerate(found), task_seeds(manifest, beacon, round_, number))
    return tuple(found)


def check_groups(manifest: RunManifest, groups: Iterable[tuple[int, Group]], seeds: tuple[int, ...]) -> None:
    """Play groups through the run's environment again and compare everything that follows from it.

    Args:
        groups: with their indices in the unit.
        seeds: the unit's, by group (`training.assignment.task_seeds`).

    Raises:
        Malformed, ConfigError, OwnFault: as `check_rollouts`.
    """
    rollouts = rollouts_of(manifest)
    environment = open_environment_of(rollouts).another()
    tokenizer = tokenizer_of(manifest)
    for index, group in groups:
        for place, sample in enumerate(group):
            try:
                _check_sample(rollouts, environment, tokenizer, seeds[index], sample)
            except Malformed as error:
                raise Malformed(f"group {index}, sample {place}: {error.message}") from error


def check_judgments(docket: Docket, number: int, judgments: Sequence[Judgment]) -> tuple[Group, ...]:
    """Check a unit's judgments: whose groups it judges, what it was asked, and the score that each answer means.

    Raises:
        Malformed: they are none of this unit, or what they judge is no rollouts.
        ConfigError: this machine lacks the judge's tokenizer.
    """
    charges, config = docket.charges(number), judging(docket.manifest)
    if [(one.number, one.group) for one in judgments] != [(one.number, one.group) for one in charges]:
        raise Malformed(
            f"{len(judgments)} judgments, and not of the {len(charges)} groups that it was to judge"
        )
    shape, rollouts, tokenizer = Shape.of(config), rollouts_of(config), tokenizer_of(config)
    found = list[Group]()
    for charge, judgment in zip(charges, judgments, strict=True):
        where = f"judgment of group {charge.group} of number {charge.number}"
        try:
            group = decode_group(judgment.data, shape)
            for environment, sample in zip(docket.environments(charge), group, strict=True):
                _check_sample(rollouts, environment, tokenizer, charge.seed, sample)
        except Malformed as error:
            raise Malformed(f"{where}: {error.message}") from error
        found.append(group)
    return tuple(found)


def _check_sample(
    rollouts: RolloutConfig, environment: Environment, tokenizer: Tokenizer, seed: int, sample: Sample
) -> None:
    found = Rollout.replay(environment, seed, rollouts.sampling, tokenizer, sample).rewards()
    for column, component in enumerate(environment.spec.components):
        _check_reward(component, sample.rewards[:, column], found[:, column])


def _check_reward(component: ComponentSpec, claimed: np.ndarray, found: np.ndarray) -> None:
    if np.array_equal(claimed, found):
        return
    player = int(np.flatnonzero(claimed != found)[0])
    if component.source is Source.VERIFIABLE:
        gives = f"its play gives {found[player]:g}"
    else:
        gives = "that is not its worker's to say"
    raise Malformed(f"claims {component.name} {claimed[player]:g} for player {player}, and {gives}")

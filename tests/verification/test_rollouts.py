"""Everybody who merges finds whatever a unit says of its rollouts that did not happen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from protocol.errors import ConfigError, Malformed
from protocol.manifest import RunManifest
from protocol.rollout_config import PeopleConfig, RewardWeight, RolloutConfig
from tests.verification.rollout_run import (
    BEACON,
    NUMBER,
    ROUND,
    Unit,
    honest_unit,
    rollout_config,
    rollout_manifest,
)
from training.assignment import assignment, task_seeds
from training.environments.pinned import open_environment_of
from training.environments.protocol import Component, Source
from verification.rollouts import _check_reward, check_rollouts


def checked(unit: Unit, **other: Any) -> None:
    asked = {"beacon": BEACON, "round_": ROUND, "number": NUMBER, **other}
    check_rollouts(unit.manifest, groups=unit.raw(), **asked)


def refused(unit: Unit, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        checked(unit)


@pytest.mark.parametrize("name", ["sort", "shop", "nim"])
def test_an_honest_unit_passes_and_its_groups_are_returned(name: str) -> None:
    unit = honest_unit(name)
    found = check_rollouts(unit.manifest, BEACON, ROUND, NUMBER, unit.raw())
    assert Unit(unit.manifest, found).raw() == unit.raw()
    assert len({len(sample.tokens) for group in found for sample in group}) > 1


def test_tasks_are_the_peers_own_and_the_rounds() -> None:
    unit = honest_unit()
    for other in ({"number": NUMBER + 1}, {"round_": ROUND + 1}, {"beacon": "ca" * 32}):
        with pytest.raises(Malformed, match="group 0, sample 0: from token 0 on"):
            checked(unit, **other)
    seeds = unit.seeds
    assert len(set(seeds)) == len(seeds) == 3
    assert not set(seeds) & set(assignment(unit.manifest, BEACON, ROUND, NUMBER).flatten().tolist())


def test_groups_in_another_order_are_of_other_tasks() -> None:
    unit = honest_unit()
    refused(Unit(unit.manifest, unit.groups[::-1]), "group 0, sample 0: from token")
    refused(Unit(unit.manifest, (unit.groups[0],) * 3), "group 1, sample 0: from token")


def test_a_missing_group_or_sample_is_no_file_of_the_run() -> None:
    unit = honest_unit()
    with pytest.raises(Malformed, match="2 groups of rollouts, and a unit has 3"):
        check_rollouts(unit.manifest, BEACON, ROUND, NUMBER, unit.raw()[:2])
    smaller = rollout_manifest(
        sampling=rollout_manifest().rollouts.sampling.model_copy(update={"group_size": 3})
    )  # type: ignore[union-attr]
    short = Unit(smaller, tuple(group[:3] for group in unit.groups))
    with pytest.raises(Malformed, match="group 0: "):
        check_rollouts(unit.manifest, BEACON, ROUND, NUMBER, short.raw())


def test_an_invented_reward_is_found() -> None:
    unit = honest_unit()
    claimed = 1.0 - unit.sample(1, 2).rewards
    refused(unit.changed(1, 2, rewards=claimed), "group 1, sample 2: claims sorted 1 for player 0")
    refused(unit.changed(2, 0, rewards=np.full((1, 1), 1e-300)), "group 2, sample 0: claims sorted")


def test_the_other_players_reward_counts_too() -> None:
    unit = honest_unit("nim")
    rewards = unit.sample(0, 1).rewards.copy()
    rewards[1, 0] = 1.0 - rewards[1, 0]
    refused(unit.changed(0, 1, rewards=rewards), "group 0, sample 1: claims won . for player 1")
    players = unit.sample(0, 1).players
    refused(unit.changed(0, 1, players=1 - players), "another player's")


def test_a_changed_prompt_or_observation_is_found() -> None:
    unit = honest_unit("shop")
    group, place = next(
        (group, place)
        for group, samples in enumerate(unit.groups)
        for place, sample in enumerate(samples)
        if len(sample.turns) > 1
    )
    sample = unit.sample(group, place)
    for at in (0, int(sample.turns[0, 1])):
        tokens = sample.tokens.copy()
        tokens[at] ^= 1
        refused(unit.changed(group, place, tokens=tokens), f"group {group}, sample {place}: from token")


def test_a_sample_that_stops_before_its_end_is_found() -> None:
    unit = honest_unit()
    sample = unit.sample(0, 0)
    start, end = sample.turns[0].tolist()
    shorter = sample.tokens[: end - 1]
    cut = unit.changed(
        0, 0, tokens=shorter, turns=np.array([[start, end - 1]], np.uint16), codes=sample.codes[:-1]
    )
    refused(cut, "group 0, sample 0: the sample stops")


def test_a_machine_without_the_runs_environment_cannot_check() -> None:
    good = rollout_config()
    changes: list[tuple[dict[str, Any], str]] = [
        ({"name": "chess"}, "no environment 'chess'"),
        ({"version": "9"}, "version 1 is installed"),
        ({"settings_hash": "00" * 32}, "with configuration 00000"),
        ({"settings": '{"length": 5}'}, "canonical"),
        ({"players": 2}, "states 2 players"),
    ]
    for change, why in changes:
        environment = good.environment.model_copy(update=change)
        with pytest.raises(ConfigError, match=why):
            open_environment_of(good.model_copy(update={"environment": environment}))
    other = good.rewards[0].model_copy(update={"component": "happy"})
    with pytest.raises(ConfigError, match="weighs happy"):
        open_environment_of(good.model_copy(update={"rewards": (other,)}))


def test_a_run_of_pre_training_has_no_rollouts() -> None:
    manifest = honest_unit().manifest
    plain = RunManifest.model_validate({**manifest.model_dump(), "rollouts": None})
    with pytest.raises(ValueError, match="no rollouts"):
        task_seeds(plain, BEACON, ROUND, NUMBER)


def with_people(weight: float) -> RolloutConfig:
    """Return a run in which people's preferences have a weight."""
    weighed = (*rollout_config().rewards, RewardWeight(component="liked", weight=weight, source="human"))
    people = PeopleConfig(addresses=("0x" + "11" * 20,))
    return RolloutConfig.model_validate(
        {**rollout_config().model_dump(), "rewards": weighed, "people": people}
    )


def test_what_judges_or_people_say_is_not_a_workers_to_claim() -> None:
    environment = open_environment_of(with_people(0.5)).another()
    assert [(one.name, one.source) for one in environment.spec.components] == [
        ("sorted", Source.VERIFIABLE),
        ("liked", Source.HUMAN),
    ]
    assert environment.spec.success == ("sorted",)
    environment.reset(1)
    assert environment.components()[1] == Component("liked", 0.0, Source.HUMAN)
    liked = environment.spec.components[1]
    _check_reward(liked, np.zeros(1), np.zeros(1))
    with pytest.raises(Malformed, match="claims liked 1 for player 0, and that is not its worker's to say"):
        _check_reward(liked, np.ones(1), np.zeros(1))


def test_a_weight_and_who_gives_the_value_come_together() -> None:
    config = with_people(1.0).model_dump()
    for change in ({"people": None}, {"rewards": rollout_config().rewards}, {"lag": 1}):
        with pytest.raises(ValidationError, match=r"come together|the lag is at least 2"):
            RolloutConfig.model_validate({**config, **change})
    own = RewardWeight(component="liked", weight=1.0)
    with pytest.raises(ConfigError, match="weighs liked, and environment sort does not give it"):
        open_environment_of(rollout_config().model_copy(update={"rewards": (*rollout_config().rewards, own)}))

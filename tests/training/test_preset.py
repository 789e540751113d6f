"""Presets make manifests that peers accept."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.canonical import ZERO_DIGEST
from protocol.errors import UsageError
from protocol.manifest import DatasetConfig, RunManifest
from protocol.rollout_config import PeopleConfig, RewardWeight
from protocol.rollouts import rollouts_of
from training.environments.demonstration import demonstrate
from training.environments.pinned import open_environment_of
from training.preset import PREFERRED, PRESETS, Signals, preset


def manifest_of(name: str, **signals: Any) -> RunManifest:
    return RunManifest.model_validate(
        {
            "name": "preset",
            "chain_id": 31337,
            "ledger": "0x" + "11" * 20,
            "coordinator": "0x" + "22" * 20,
            "dataset": DatasetConfig(name="none", root=ZERO_DIGEST, tokens=4000),
            "initial_parameters": ZERO_DIGEST,
            "program": ZERO_DIGEST,
            **preset(name).fields(Signals(**signals)),
        }
    )


@pytest.mark.parametrize("name", [one.environment for one in PRESETS])
def test_a_preset_pins_its_environment_and_holds_its_episodes(name: str) -> None:
    manifest = manifest_of(name)
    assert RunManifest.from_bytes(manifest.to_bytes()) == manifest
    rollouts = rollouts_of(manifest)
    opened = preset(name).open()
    sampling = rollouts.sampling
    assert sampling.turns == opened.environment.spec.max_turns
    for seed in range(40):
        shown = demonstrate(opened.definition, opened.environment, seed).outcome
        assert max(len(turn.action) for turn in shown.turns) < sampling.turn_tokens
        length = sum(len(str(turn.observation)) + len(turn.action) + 1 for turn in shown.turns)
        assert length <= sampling.tokens, f"seed {seed}"


def test_an_environment_without_a_preset_names_those_that_have_one() -> None:
    with pytest.raises(UsageError, match="no preset") as caught:
        preset("chess")
    assert "sort" in caught.value.hint


def test_a_preset_that_asks_people_gives_them_time() -> None:
    people = PeopleConfig(addresses=("0x" + "33" * 20,))
    rollouts = rollouts_of(manifest_of("sort", people=people, people_weight=0.25))
    assert rollouts.people == people
    assert rollouts.rewards[-1] == RewardWeight(component=PREFERRED, weight=0.25, source="human")
    assert rollouts.signal("human") == len(rollouts.rewards) - 1
    assert rollouts.lag == 4
    assert [one.name for one in open_environment_of(rollouts).environment.spec.components][-1] == PREFERRED

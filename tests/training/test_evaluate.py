"""Held-out success of policies."""

from __future__ import annotations

import pytest

from tests.verification.judged_run import judge_parameters, judged_manifest
from tests.verification.rollout_run import BEACON, parameters, rollout_manifest
from training.assignment import HELDOUT_SEED, heldout_seeds, task_seeds
from training.environments.protocol import ComponentSpec, EnvSpec, succeeded
from training.evaluate import heldout_success
from training.model import initial_parameters


def test_held_out_tasks_are_never_assigned() -> None:
    manifest = rollout_manifest()
    drawn = {seed for round_ in range(50) for seed in task_seeds(manifest, BEACON, round_, 7)}
    assert max(drawn) < HELDOUT_SEED == min(heldout_seeds(3))
    assert max(drawn) > HELDOUT_SEED // 2


def test_the_same_parameters_measure_the_same_and_others_otherwise() -> None:
    manifest = rollout_manifest("nim")
    first = heldout_success(manifest, parameters(), tasks=40)
    assert heldout_success(manifest, parameters(), tasks=40) == first
    assert heldout_success(manifest, parameters(5), tasks=40) != first
    assert 0 <= first.success <= 1
    assert set(first.components) == {"won", "illegal"}
    total = first.components["won"] - 0.5 * first.components["illegal"]
    assert first.reward == pytest.approx(total)


def test_a_policy_that_only_babbles_does_no_task() -> None:
    manifest = rollout_manifest("shop")
    found = heldout_success(manifest, initial_parameters(manifest.model, 0), tasks=16)
    assert (found.success, found.reward) == (0, 0)


def test_success_is_the_best_value_of_what_counts() -> None:
    components = (
        ComponentSpec("won"),
        ComponentSpec("illegal", weight=-0.5),
        ComponentSpec("style", weight=0.0),
    )
    spec = EnvSpec("game", "1", max_turns=1, max_tokens=1, components=components)
    assert succeeded(spec, [1.0, 0.0, 0.2])
    assert not succeeded(spec, [1.0, 1.0, 1.0])
    assert not succeeded(spec, [0.5, 0.0, 1.0])
    named = EnvSpec("game", "1", max_turns=1, max_tokens=1, components=components, success=("won",))
    assert succeeded(named, [1.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="success names"):
        EnvSpec("game", "1", max_turns=1, max_tokens=1, components=components, success=("wins",))


def test_a_judge_is_asked_about_each_heldout_sample() -> None:
    manifest = judged_manifest()
    without = heldout_success(manifest, parameters(), tasks=40)
    found = heldout_success(manifest, parameters(), judge_parameters(), tasks=40)
    assert without.components["judged"] == 0
    assert 0 < found.components["judged"] < 1
    assert found.success == without.success, "what counts as done is the environment's word"
    assert found.reward == pytest.approx(without.reward + 0.5 * found.components["judged"])

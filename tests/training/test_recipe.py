"""The recipe fills in what nobody named."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.manifest import CodecConfig, OuterConfig
from training.recipe import DENSE, PUBLISHED, SPARSE, recipe, with_recipe


def filled(**given: Any) -> dict[str, Any]:
    return with_recipe({"rounds": 40, **given})


@pytest.mark.parametrize(("rounds", "chosen"), [(1, DENSE), (39, DENSE), (40, SPARSE), (5000, SPARSE)])
def test_a_run_that_is_too_short_to_send_everything_sends_dense_updates(
    rounds: int, chosen: dict[str, Any]
) -> None:
    assert recipe(rounds) == chosen
    found = filled(rounds=rounds, name="some run")
    assert found == {"rounds": rounds, "name": "some run", **chosen}


@pytest.mark.parametrize(("rounds", "slices"), [(40, 40), (100, 100), (5000, 256)])
def test_each_peer_says_every_second_moment_about_once(rounds: int, slices: int) -> None:
    found = filled(rounds=rounds, inner={"moments": "published"})
    assert found["inner"] == {"moments": "published", "slices": slices}
    assert found["verification"] == {"profiles": [PUBLISHED]}


@pytest.mark.parametrize("rounds", [1, 40])
def test_what_it_chooses_is_valid(rounds: int) -> None:
    found = filled(rounds=rounds)
    CodecConfig.model_validate(found["codec"])
    OuterConfig.model_validate(found["outer"])


def test_what_is_named_stays() -> None:
    found = filled(inner={"lr": 1e-3}, outer={"lr": 3.0}, codec=CodecConfig(kind="sparse", k=64))
    assert found["inner"] == {"lr": 1e-3}
    assert found["outer"] == {"lr": 3.0, "momentum": 0.0}
    assert found["codec"] == {**SPARSE["codec"], "k": 64}


def test_a_kind_that_is_named_gets_the_outer_steps_of_its_kind() -> None:
    assert filled(rounds=10, codec={"kind": "sparse"})["outer"] == SPARSE["outer"]
    assert filled(rounds=400, codec={"kind": "dense"})["outer"] == DENSE["outer"]


def test_who_has_moments_published_in_a_short_run_gets_sparse_updates() -> None:
    found = filled(rounds=4, inner={"moments": "published"})
    assert (found["codec"], found["outer"]) == (SPARSE["codec"], SPARSE["outer"])


def test_a_policys_fields_are_its_presets() -> None:
    given = {"rounds": 4, "rollouts": {"environment": {}}, "outer": {"lr": 1.5}}
    assert with_recipe(given) == given

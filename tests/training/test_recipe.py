"""The recipe fills in what nobody named."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.manifest import CodecConfig, InnerConfig, MuonConfig, OuterConfig
from training.recipe import DENSE, SPARSE, recipe, with_recipe


def filled(**given: Any) -> dict[str, Any]:
    return with_recipe({"rounds": 40, **given})


@pytest.mark.parametrize(("rounds", "chosen"), [(1, DENSE), (39, DENSE), (40, SPARSE), (99, SPARSE)])
def test_a_run_that_is_too_short_to_send_everything_sends_dense_updates(
    rounds: int, chosen: dict[str, Any]
) -> None:
    found = filled(rounds=rounds, name="some run")
    assert found == {"rounds": rounds, "name": "some run", **recipe(rounds)}
    assert {group: found[group] for group in chosen} == chosen


@pytest.mark.parametrize("rounds", [100, 5000])
def test_a_long_run_sends_fewer_entries_a_round(rounds: int) -> None:
    found = filled(rounds=rounds)
    assert found["codec"] == {**SPARSE["codec"], "k": 192}
    assert found["outer"] == SPARSE["outer"]
    assert filled(rounds=rounds, codec={"k": 64})["codec"]["k"] == 64


@pytest.mark.parametrize(("rounds", "slices"), [(40, 40), (100, 100), (5000, 256)])
def test_each_peer_says_every_second_moment_about_once(rounds: int, slices: int) -> None:
    inner = filled(rounds=rounds)["inner"]
    assert (inner["moments"], inner["slices"]) == ("published", slices)


@pytest.mark.parametrize(
    "given",
    [
        {"rounds": 10},
        {"codec": {"kind": "dense"}},
        {"outer": OuterConfig(delay=1)},
        {"merging": {"joint_k": 768}},
        {"inner": InnerConfig(moments="carried")},
    ],
    ids=str,
)
def test_moments_are_carried_where_nobody_could_say_them_or_somebody_wants_it(given: dict[str, Any]) -> None:
    assert filled(**given)["inner"] == {"moments": "carried"}


def test_matrices_of_large_models_take_muons_steps_beside_published_moments() -> None:
    large = {"layers": 6, "width": 128, "feed_forward": 384}  # 1.2 M parameters
    assert InnerConfig.model_validate(filled(model=large)["inner"]).muon == MuonConfig()
    assert filled(model=large, inner={"muon": None})["inner"]["muon"] is None
    assert "muon" not in filled()["inner"]
    assert "muon" not in filled(rounds=10, model=large)["inner"]
    assert filled(inner={"muon": {"lr": 0.01}})["inner"]["muon"] == {"lr": 0.01}
    assert "inner" not in with_recipe({"rounds": 40, "rollouts": {}}), "a policy's steps are its preset's"


def test_eps_follows_the_size_of_a_gradients_entries_where_moments_are_published() -> None:
    assert filled()["inner"]["eps"] == 4e-5
    larger = {"layers": 24, "width": 256, "feed_forward": 1024}  # 25.4 M parameters, 0.17 M by default
    assert filled(model=larger)["inner"]["eps"] == 3e-6
    assert filled(inner={"clip_norm": 1e6})["inner"]["eps"] == 4e-5, "who clips nothing gets a valid one too"
    assert filled(inner={"eps": 1e-5})["inner"]["eps"] == 1e-5
    assert "eps" not in filled(rounds=10)["inner"]


@pytest.mark.parametrize("rounds", [1, 40])
def test_what_it_chooses_is_valid(rounds: int) -> None:
    found = filled(rounds=rounds)
    CodecConfig.model_validate(found["codec"])
    OuterConfig.model_validate(found["outer"])
    InnerConfig.model_validate(found["inner"])


def test_what_is_named_stays() -> None:
    found = filled(inner={"lr": 1e-3}, outer={"lr": 3.0}, codec=CodecConfig(kind="sparse", k=64))
    assert found["inner"]["lr"] == 1e-3
    assert found["outer"] == {"lr": 3.0, "momentum": 0.0}
    assert found["codec"] == {**SPARSE["codec"], "k": 64}


def test_a_kind_that_is_named_gets_the_outer_steps_of_its_kind() -> None:
    assert filled(rounds=10, codec={"kind": "sparse"})["outer"] == SPARSE["outer"]
    assert filled(rounds=400, codec={"kind": "dense"})["outer"] == DENSE["outer"]


def test_who_has_moments_published_in_a_short_run_gets_sparse_updates() -> None:
    found = filled(rounds=4, inner={"moments": "published"})
    assert (found["codec"], found["outer"], found["inner"]["slices"]) == (
        SPARSE["codec"],
        SPARSE["outer"],
        4,
    )


def test_a_policys_fields_are_its_presets() -> None:
    given = {"rounds": 4, "rollouts": {"environment": {}}, "outer": {"lr": 1.5}}
    assert with_recipe(given) == given

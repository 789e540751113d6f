"""Without the library behind it an adapter says how to install it; `make test-environments` tests the rest."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest

from protocol.errors import ConfigError, NetworkError
from training.environments import adapters, registry
from training.environments.adapters.gymnasium import GYMNASIUM
from training.environments.adapters.openenv import ADDRESS, OPENENV
from training.environments.adapters.reasoning_gym import REASONING_GYM
from training.environments.adapters.textarena import TEXTARENA
from training.environments.definition import Definition
from training.environments.episode import Episode
from training.environments.registry import full_version

LIBRARIES = {"gymnasium", "reasoning-gym", "textarena", "websockets"}


@pytest.mark.parametrize("definition", [GYMNASIUM, REASONING_GYM, TEXTARENA, OPENENV], ids=lambda one: one.id)
def test_an_adapter_without_its_library_says_how_to_install_it(
    definition: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    def unknown(name: str) -> str:
        assert name in LIBRARIES
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(registry, "version", unknown)
    monkeypatch.setattr(adapters.importlib, "import_module", absent)
    with pytest.raises(ConfigError, match="not installed") as caught:
        definition.make(definition.configure())
    assert caught.value.hint == f"pip install '{definition.requires}'"
    with pytest.raises(ConfigError, match="not installed"):
        full_version(definition)


@pytest.mark.parametrize(
    ("definition", "config"),
    [
        (GYMNASIUM, {"id": "os:Env-v0"}),  # gymnasium would import what is before the colon
        (GYMNASIUM, {"turns": 0}),
        (TEXTARENA, {"game": "../x"}),
        (TEXTARENA, {"players": 0}),
        (REASONING_GYM, {"options": {"seed": 3}}),
        (REASONING_GYM, {"options": [1]}),
        (OPENENV, {"action_field": "a b"}),
        (OPENENV, {"timeout_s": 0}),
        (OPENENV, {"address": "ws://192.0.2.1"}),
    ],
)
def test_a_configuration_from_somebody_else_is_bounded(
    definition: Definition, config: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        definition.configure(config)


def test_a_server_that_is_not_there_is_a_network_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, "ws://127.0.0.1:9")
    with pytest.raises(NetworkError, match="no OpenEnv server answers") as caught:
        Episode(OPENENV.make(OPENENV.configure()), 1)
    assert ADDRESS in caught.value.hint


def test_foreign_rewards_stay_in_their_range() -> None:
    assert [adapters.clamp(one) for one in (2, -1, 0.5, float("nan"), None, "1")] == [1, 0, 0.5, 0, 0, 0]

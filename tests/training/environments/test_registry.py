"""Entry points are the hub: what a run pins is found, and what a peer lacks is named."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from protocol.canonical import canonical_json, digest
from protocol.errors import ConfigError
from training.environments import registry
from training.environments.definition import Definition, config_hash
from training.environments.registry import Pin, find, open_environment, open_pinned
from training.environments.sort import SORT, Sort, SortConfig

ROOT = Path(__file__).parents[3]
SHIPPED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][registry.GROUP]
OLDER = Definition("older", "0", "sort, as it was", SortConfig, Sort)
LYING = Definition("lying", "1", "calls itself sort", SortConfig, Sort)
UNMET = Definition("unmet", "1", "needs what nobody has", SortConfig, Sort, requires="no-such-package==1")
NONSENSE = 7


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Offer what pyproject.toml registers, and what a test adds."""
    points = [EntryPoint(name, value, registry.GROUP) for name, value in SHIPPED.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints(points).select(group=group))
    return points


def offer(hub: list[EntryPoint], name: str, value: str) -> None:
    hub.append(EntryPoint(name, value, registry.GROUP))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_entry_point_leads_to_its_definition(name: str) -> None:
    assert find(name).id == name


def test_a_configuration_is_pinned_with_its_defaults() -> None:
    opened = open_environment("sort")
    written = {"length": 5, "letters": "abcdefghij"}
    assert opened.pin == Pin("sort", "1", digest(canonical_json(written)))
    assert open_environment("sort", {"length": 5}).pin == opened.pin
    assert open_environment("sort", {"length": 6}).pin != opened.pin


def test_a_peer_that_has_what_a_run_pins_opens_it() -> None:
    pin = Pin.parse("sort==1", config_hash(SORT.configure({"length": 4})))
    opened = open_pinned(pin, {"length": 4})
    assert opened.environment.reset(1) == opened.another().reset(1)


def test_a_peer_that_lacks_something_is_told_what() -> None:
    defaults = config_hash(SORT.configure())
    with pytest.raises(ConfigError, match="no environment 'sorting' is installed here") as caught:
        open_pinned(Pin.parse("sorting==1", defaults))
    assert "pip install" in caught.value.hint
    with pytest.raises(ConfigError, match="pins environment sort==2, and version 1 is installed"):
        open_pinned(Pin.parse("sort==2", defaults))
    with pytest.raises(ConfigError, match="with configuration"):
        open_pinned(Pin.parse("sort==1", defaults), {"length": 4})


@pytest.mark.parametrize(
    "text", ["sort", "sort==", "==1", "sort=1", "sort==1 ", "../x==1", "Sort==1", "a" * 99]
)
def test_what_pins_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="does not pin"):
        Pin.parse(text, "00" * 32)


def test_a_hash_that_is_no_hash_pins_nothing() -> None:
    with pytest.raises(ConfigError, match="does not pin"):
        Pin.parse("sort==1", "zz")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"size": 5}, "no setting size"),
        ({"length": "5"}, "not a whole number"),
        ({"length": True}, "not a whole number"),
        ({"length": 5.0}, "not a whole number"),
        ({"length": 0}, "from 1 to 64"),
        ({"letters": "aa"}, "twice"),
        ({"letters": "a\x1b"}, "ASCII"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        open_environment("sort", config)


def test_lists_are_checked_item_by_item() -> None:
    assert open_environment("arithmetic", json.loads('{"bounds": [3, 4]}')).config.bounds == (3, 4)
    with pytest.raises(ConfigError, match="not a list"):
        open_environment("arithmetic", {"bounds": [3, "4"]})


def test_a_name_that_two_packages_offer_means_nothing(hub: list[EntryPoint]) -> None:
    offer(hub, "sort", "somewhere.else:SORT")
    with pytest.raises(ConfigError, match="is offered by") as caught:
        find("sort")
    assert "uninstall" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("gone", "no.such.module:X", "cannot be loaded"),
        ("gone", f"{__name__}:NOT_THERE", "cannot be loaded"),
        ("nonsense", f"{__name__}:NONSENSE", "no definition of that name"),
        ("newer", f"{__name__}:OLDER", "no definition of that name"),
        ("lying", f"{__name__}:LYING", "calls itself sort==1"),
        ("unmet", f"{__name__}:UNMET", "no-such-package==1"),
    ],
)
def test_a_broken_package_is_named(
    hub: list[EntryPoint], monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or __import__(__name__))
    offer(hub, name, value)
    with pytest.raises(ConfigError, match=reason):
        open_environment(name)


@dataclass(frozen=True)
class Large:
    text: str = ""


def test_a_configuration_is_bounded() -> None:
    with pytest.raises(ConfigError, match="exceeds"):
        config_hash(Large("x" * 70_000))

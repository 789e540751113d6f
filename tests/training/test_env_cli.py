"""`murmur env`: what is installed, what it is, and a game by hand."""

from __future__ import annotations

import json
import tomllib
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from protocol.errors import ConfigError, UsageError
from training.env_cli import env_app
from training.environments import registry

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"][registry.GROUP]
    points = EntryPoints(EntryPoint(name, value, registry.GROUP) for name, value in shipped.items())
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))


def run(*words: str, stdin: str = "") -> Result:
    return CliRunner().invoke(env_app, list(words), input=stdin)


def document(*words: str, stdin: str = "") -> Any:
    result = run(*words, "--json", stdin=stdin)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_shipped_environments_are_listed() -> None:
    found = {one["name"]: one for one in document("list")}
    for name in ("sort", "shop", "nim", "arithmetic"):
        assert found[name]["version"] == "1"
        assert found[name]["demonstrator"]
        assert found[name]["problem"] is None
    text = run("list").stdout
    assert "sort==1" in text


def test_what_cannot_be_used_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints([EntryPoint("gone", "no.such.module:X", registry.GROUP)])
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    (gone,) = document("list")
    assert "cannot be loaded" in gone["problem"]
    assert "not usable" in run("list").stdout


def test_an_environment_is_shown_with_what_pins_it() -> None:
    shown = document("show", "sort", "--config", '{"length": 4}')
    assert shown["config"] == {"length": 4, "letters": "abcdefghij"}
    assert shown["config_hash"] != document("show", "sort")["config_hash"]
    assert [one["source"] for one in shown["components"]] == ["verifiable"]
    text = run("show", "nim").stdout
    assert "2 player(s)" in text
    assert "weight -0.5" in text


def test_a_person_plays_by_hand() -> None:
    shown = document("try", "sort", "--seed", "3", "--policy", "random")
    letters = shown["turns"][0]["observation"][5:-1]
    played = run("try", "sort", "--seed", "3", stdin="".join(sorted(letters)) + "\n")
    assert played.exit_code == 0
    assert f"sort {letters}=" in played.stdout
    assert "reward 1 (sorted 1)" in played.stdout
    lost = document("try", "sort", "--seed", "3", stdin="zzz\n")
    assert lost["players"][0]["reward"] == 0
    assert lost["replayed"] is True


@pytest.mark.parametrize("name", ["sort", "shop", "nim", "arithmetic"])
@pytest.mark.parametrize("policy", ["random", "demo"])
def test_a_policy_plays_the_same_game_again(name: str, policy: str) -> None:
    words = ("try", name, "--seed", "8", "--policy", policy)
    one = document(*words)
    assert one == document(*words)
    assert one["turns"]
    assert one["replayed"] is True
    assert "reward" in run(*words).stdout


def test_text_of_others_cannot_drive_the_terminal() -> None:
    played = run("try", "sort", stdin="\x1b]0;x\x07\n")
    assert played.exit_code == 0
    assert "\x1b" not in played.output


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("show", "nothing"), ConfigError),
        (("show", "sort", "--config", "{"), UsageError),
        (("show", "sort", "--config", "[1]"), UsageError),
        (("show", "sort", "--config", "[" * 9000), UsageError),
        (("show", "sort", "--config", '{"size": 1}'), ConfigError),
        (("try", "sort", "--policy", "oracle"), UsageError),
        (("try", "shop"), UsageError),
    ],
)
def test_what_cannot_be_done_is_said(words: tuple[str, ...], error: type[Exception]) -> None:
    result = run(*words)
    assert isinstance(result.exception, error)
    assert getattr(result.exception, "hint", "")

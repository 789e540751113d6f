"""Classes whose public methods are tools: what an action may call, and what it may not."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from training.environments.adapters.tools import tool_definition, tools_of
from training.environments.episode import Episode, Outcome, replay
from training.environments.protocol import Environment, as_text


class Account:
    """Hold a balance that must reach a goal."""

    limit = 100

    def __init__(self) -> None:
        self.balance = 0
        self.goal = 0
        self.said = ""

    def reset(self, seed: int = 0) -> str | None:
        """Draw the goal."""
        self.goal = seed % 10 + 1
        return f"bring the balance to {self.goal}"

    def add(self, amount: int, sign: Literal["+", "-"] = "+", note: str | None = None) -> int:
        """Change the balance."""
        if abs(amount) > self.limit:
            raise ValueError("too much at once")
        self.balance += amount if sign == "+" else -amount
        return self.balance

    def read(self) -> int:
        """Return the balance."""
        return self.balance

    def answer(self, text: str) -> None:
        """Note the final answer."""
        self.said = text

    def get_reward(self) -> float:
        """Reward the goal and an answer."""
        return float(self.balance == self.goal and self.said == "done") * 7

    def _secret(self) -> str:
        return "secret"


ACCOUNT = tool_definition("account", "1", "bring a balance to a goal", Account)


def call(name: str, **arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments})


@pytest.fixture
def environment() -> Environment:
    return ACCOUNT.make(ACCOUNT.configure())


def reward(outcome: Outcome) -> float:
    return outcome.components[0][0].value


def test_tools_are_called_and_the_answer_ends_it(environment: Environment) -> None:
    episode = Episode(environment, 5)
    system, task = episode.observation
    assert "add(amount: int" in system.content  # type: ignore[union-attr]
    goal = int(task.content.split()[-1])  # type: ignore[union-attr]
    assert episode.act(call("add", amount=goal + 2)) == 0.0
    episode.act(call("add", amount=2, sign="-"))
    assert as_text(episode.observation) == f"{goal}\n"
    assert episode.act("done") == 1.0  # 7 is beyond the announced range
    assert reward(episode.outcome()) == 1.0
    actions = [one.action for one in episode.turns]
    assert replay(ACCOUNT.make(ACCOUNT.configure()), 5, actions) == episode.outcome()
    assert reward(replay(environment, 5, [*actions[:2], "finished"])) == 0.0


def test_only_public_methods_are_tools() -> None:
    assert sorted(tools_of(Account)) == ["add", "read"]


@pytest.mark.parametrize(
    "action",
    [
        call("_secret"),
        call("reset"),
        call("get_reward"),
        call("__init__"),
        call("__class__"),
        call("limit"),
        call("add"),
        call("add", amount="1"),
        call("add", amount=True),
        call("add", amount=1.5),
        call("add", amount=1, sign="*"),
        call("add", amount=1, note=3),
        call("add", amount=1, self=2),
        call("add", amount=101),
        call("read", extra=1),
    ],
)
def test_a_call_that_does_not_fit_is_answered_with_an_error(environment: Environment, action: str) -> None:
    episode = Episode(environment, 5)
    episode.act(action)
    assert not episode.over
    assert as_text(episode.observation).startswith("error: ")
    episode.act(call("read"))
    assert as_text(episode.observation) == "0\n"


@pytest.mark.parametrize(
    "action", ["{", "{}", "[" * 4000, '{"a":' * 500, '{"name": 3}', '{"name": "read", "arguments": []}', ""]
)
def test_what_is_no_call_is_an_answer(environment: Environment, action: str) -> None:
    episode = Episode(environment, 5)
    assert episode.act(action) == 0.0
    assert episode.over

"""Tasksets of verifiers (its v1 interface), in one turn and without a runtime.

A package offers its taskset under its own entry point:

    RIDDLES = taskset_definition("riddles", "1", "answer riddles", lambda: RiddleTaskset(RiddleConfig()))

A seed draws a task from the first `tasks` of the taskset. Every `@reward` becomes a component of that name, with the
weight that the taskset gives it. Tasks that need a container, and rewards that need a runtime or a judge, are refused:
they can be scored by nobody who only has the answer.
"""

import asyncio
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from protocol.errors import ConfigError, OwnFault
from training.environments.adapters import clamp, load
from training.environments.definition import Definition, config_hash
from training.environments.protocol import (
    Component,
    ComponentSpec,
    EnvSpec,
    Info,
    Message,
    Observation,
    Step,
    task_random,
)

REQUIRES: Final = "verifiers>=0.4"


@dataclass(frozen=True)
class TasksetConfig:
    """Say from how many tasks a seed draws, and how long an answer may be."""

    tasks: int = 1000
    tokens: int = 512

    def __post_init__(self) -> None:
        if not (1 <= self.tasks <= 1_000_000 and 1 <= self.tokens <= 1 << 16):
            raise ValueError("tasks are from 1 to a million, tokens from 1 to 65536")


class TasksetEnvironment:
    """Ask one task of a taskset."""

    def __init__(self, definition: Definition, taskset: Callable[[], Any], config: TasksetConfig) -> None:
        self._library = load("verifiers.v1", definition.id, REQUIRES)
        self._hash = config_hash(config)
        self._tasks: Sequence[Any] = list(itertools.islice(taskset(), config.tasks))
        if not self._tasks:
            raise ConfigError(f"the taskset of environment {definition.id} is empty")
        self._rewards = _rewards(definition.id, self._tasks[0])
        self._task: Any = None
        self._scores: dict[str, float] = {}
        self.player = 0
        self.spec = EnvSpec(
            definition.id,
            definition.version,
            max_turns=1,
            max_tokens=config.tokens,
            components=tuple(ComponentSpec(name, weight=weight) for name, weight in self._rewards.items()),
            max_action_bytes=64 * config.tokens,
            stop="",
        )

    def reset(self, seed: int) -> tuple[Observation, Info]:
        """Draw a task."""
        self._task = task_random(self.spec, self._hash, seed).choice(self._tasks)
        self._scores = {}
        data = self._task.data
        system = (Message("system", str(data.system_prompt)),) if data.system_prompt else ()
        return (*system, Message("user", str(data.prompt_text))), {}

    def step(self, action: str) -> Step:
        """Score the answer with the taskset's own functions."""
        trace = self._trace(action)
        asyncio.run(self._task.score(trace))
        if set(trace.rewards) != set(self._rewards) or None in trace.rewards.values():
            raise OwnFault(f"the taskset of {self.spec.id} gave other rewards than it announced")
        self._scores = {name: clamp(one.score) for name, one in trace.rewards.items()}
        reward = sum(weight * self._scores[name] for name, weight in self._rewards.items())
        return "", reward, True, False, {}

    def _trace(self, action: str) -> Any:
        vf, task = self._library, self._task
        asked = vf.MessageNode(message=vf.UserMessage(content=task.data.prompt_text), timestamp=0.0)
        answer = vf.MessageNode(
            parent=0, message=vf.AssistantMessage(content=action), sampled=True, timestamp=0.0
        )
        return vf.Trace(
            task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
            agent=vf.AgentInfo(config=vf.AgentConfig(runtime=vf.SubprocessConfig()), trainable=False),
            nodes=[asked, answer],
        )

    def components(self, player: int = 0) -> tuple[Component, ...]:
        """Return every reward of the taskset."""
        return tuple(Component(name, self._scores.get(name, 0.0)) for name in self._rewards)


def _rewards(environment: str, task: Any) -> dict[str, float]:
    """Return the names and weights of a task's rewards; they are the same for all tasks of a taskset."""
    found = {}
    for one in task.hooks("reward"):
        parameter = inspect.signature(one).parameters.get("runtime")
        if parameter is not None and parameter.default is inspect.Parameter.empty:
            raise ConfigError(f"environment {environment}: reward {one.__name__} needs a runtime")
        found[one.__name__] = float(getattr(one, "_vf_weight", 1.0))
    if task.NEEDS_CONTAINER or task.plugged_judges() or not found:
        raise ConfigError(
            f"environment {environment}: its tasks need a container or a judge, or have no reward",
            hint="offer a taskset whose rewards are functions of the answer",
        )
    return found


def taskset_definition(id_: str, version: str, summary: str, taskset: Callable[[], Any]) -> Definition:
    """Return the definition of an environment made of a taskset of verifiers."""

    def make(config: TasksetConfig) -> TasksetEnvironment:
        return TasksetEnvironment(definition, taskset, config)

    definition = Definition(id_, version, summary, TasksetConfig, make, requires=REQUIRES)
    return definition

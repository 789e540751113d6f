"""Classes in the style of TRL's `environment_factory`: `reset() -> str | None`, and every public method is a tool.

A package offers its class under its own entry point:

    COUNTER = tool_definition("counter", "1", "count to a number", Counter)

A tool is called by an action that is one JSON object, `{"name": "add", "arguments": {"number": 3}}`; any other text is
the final answer and ends the episode. Names and arguments are held against the method's signature before the call.
`get_reward() -> float` gives the reward; a class with `answer(text)` is shown the final answer first. `reset` takes the
seed if it has a parameter of that name, and without one the environment has a single task.
"""

import inspect
import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Final

from protocol.canonical import check_depth
from protocol.errors import Malformed
from training.environments.adapters import clamp
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

RESERVED: Final = {"reset", "get_reward", "answer"}
MAX_RESULT: Final = 16_384
_JSON_TYPES: Final = (bool, int, float, str, list, dict, NoneType)
_FAILURES: Final = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError)


@dataclass(frozen=True)
class ToolConfig:
    """Say how many actions an episode may have, and how long they are together."""

    turns: int = 8
    tokens: int = 512

    def __post_init__(self) -> None:
        if not (1 <= self.turns <= 256 and 1 <= self.tokens <= 1 << 20):
            raise ValueError("turns are from 1 to 256, tokens from 1 to a million")


@dataclass(frozen=True)
class Tool:
    """Describe a public method."""

    name: str
    signature: inspect.Signature
    hints: Mapping[str, Any]
    description: str

    def check(self, arguments: Mapping[str, object]) -> str:
        """Return what is wrong with these arguments; empty if nothing is."""
        parameters = {name: one for name, one in self.signature.parameters.items() if name != "self"}
        if unknown := sorted(set(arguments) - set(parameters)):
            return f"no argument {unknown[0]!r:.80}"
        for name, one in parameters.items():
            if name not in arguments:
                if one.default is one.empty:
                    return f"argument {name!r} is missing"
            elif not _is_a(arguments[name], self.hints.get(name, Any)):
                return f"argument {name!r} is of another type"
        return ""


def _is_a(value: object, wanted: Any) -> bool:
    if wanted is Any:
        return True
    if typing.get_origin(wanted) in (typing.Union, UnionType):
        return any(_is_a(value, one) for one in typing.get_args(wanted))
    if typing.get_origin(wanted) is typing.Literal:
        return value in typing.get_args(wanted)
    plain = typing.get_origin(wanted) or wanted
    if plain is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return plain in _JSON_TYPES and type(value) is plain


def tools_of(factory: Callable[..., Any]) -> dict[str, Tool]:
    """Return the tools of a class: its public methods that take plain arguments."""
    found = {}
    for name, method in inspect.getmembers(factory, inspect.isfunction):
        if name.startswith("_") or name in RESERVED:
            continue
        description = inspect.getdoc(method) or ""
        found[name] = Tool(
            name, inspect.signature(method, eval_str=True), typing.get_type_hints(method), description
        )
    return found


class ToolEnvironment:
    """Play one instance of the class."""

    def __init__(self, definition: Definition, factory: Callable[[], Any], config: ToolConfig) -> None:
        self._factory = factory
        self._tools = tools_of(factory)
        self._hash = config_hash(config)
        self._rewarded = hasattr(factory, "get_reward")
        self.player = 0
        self.spec = EnvSpec(
            definition.id,
            definition.version,
            max_turns=config.turns,
            max_tokens=config.tokens,
            components=(ComponentSpec("reward"),),
            max_action_bytes=64 * config.tokens,
            stop="",
        )
        self._instance: Any = None

    def reset(self, seed: int) -> tuple[Observation, Info]:
        """Make an instance, and tell the policy its tools and its task."""
        self._instance = self._factory()
        random = task_random(self.spec, self._hash, seed)
        takes_seed = "seed" in inspect.signature(self._instance.reset).parameters
        task = self._instance.reset(seed=random.below(2**31)) if takes_seed else self._instance.reset()
        lines = [f"{one.name}{one.signature}: {one.description}" for one in self._tools.values()]
        system = (
            'Call a tool with {"name": ..., "arguments": {...}}; any other text is the answer.\n'
            + "\n".join(lines).replace("(self, ", "(").replace("(self)", "()")
        )
        return (Message("system", system), Message("user", str(task or ""))), {}

    def step(self, action: str) -> Step:
        """Call a tool, or take the answer."""
        call = _parse(action)
        if call is None:
            if hasattr(self._instance, "answer"):
                self._instance.answer(action)
            return "", self._reward(), True, False, {}
        said = self._call(*call)
        return (Message("tool", said[:MAX_RESULT]),), 0.0, False, False, {}

    def _call(self, name: str, arguments: Mapping[str, object]) -> str:
        tool = self._tools.get(name)
        if tool is None:
            return f"error: no tool {name!r:.80}; there are {', '.join(self._tools)}"
        if wrong := tool.check(arguments):
            return f"error: {wrong}"
        try:
            return str(getattr(self._instance, name)(**arguments))
        except _FAILURES as error:  # how a tool says no
            return f"error: {error}"

    def _reward(self) -> float:
        return clamp(self._instance.get_reward()) if self._rewarded else 0.0

    def components(self, player: int = 0) -> tuple[Component, ...]:
        """Return `reward`: what `get_reward` says, between 0 and 1."""
        return (Component("reward", self._reward()),)


def _parse(action: str) -> tuple[str, Mapping[str, object]] | None:
    """Return the tool and the arguments that an action names; None if it is no call."""
    if not action.lstrip().startswith("{"):
        return None
    try:
        check_depth(action.encode())
        call = json.loads(action)
    except (ValueError, RecursionError, Malformed):
        return None
    name, arguments = call.get("name"), call.get("arguments", {})
    return (name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None


def tool_definition(id_: str, version: str, summary: str, factory: Callable[[], Any]) -> Definition:
    """Return the definition of an environment made of a class whose public methods are tools."""

    def make(config: ToolConfig) -> ToolEnvironment:
        return ToolEnvironment(definition, factory, config)

    definition = Definition(id_, version, summary, ToolConfig, make)
    return definition

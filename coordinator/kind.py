"""What sort of run is made: a model that learns to predict a text, or a policy that learns from its environment."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from protocol.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from training.base import Base
    from training.preset import Preset

DEFAULT_ENVIRONMENT = "sort"
_LINES = 8  # of progress


class RunKind(StrEnum):
    """Name the sorts of runs."""

    TRAINING = "training"
    ROLLOUT = "rollout"


Kind = Annotated[
    RunKind,
    typer.Option(help="training: on a text; rollout: reinforcement learning in an environment (--env)."),
]
Environment = Annotated[
    str | None,
    typer.Option(
        "--env",
        help=f"Environment of a rollout run: sort, shop or nim; default {DEFAULT_ENVIRONMENT}.",
    ),
]
People = Annotated[
    list[str] | None,
    typer.Option(
        "--people",
        help="Address of a person whose preferences between samples count in a rollout run, or a file with one a "
        "line. Repeatable.",
    ),
]
PeopleWeight = Annotated[
    float,
    typer.Option(
        "--people-weight", min=-1000, max=1000, help="Weight of what people prefer in a sample's reward."
    ),
]
PEOPLE_WEIGHT = 1.0
MAX_PEOPLE_BYTES = 64 << 10


def preset_of(kind: RunKind, environment: str | None) -> "Preset | None":
    """Return what a run of this kind uses, or None for one of training, whose fields have defaults.

    Raises:
        UsageError: an environment for a run of training, or one that there is no preset for.
    """
    if kind is RunKind.TRAINING:
        if environment is not None:
            raise UsageError("only a policy learns in an environment", hint="add --kind rollout")
        return None
    from training.preset import preset

    return preset(environment or DEFAULT_ENVIRONMENT)


def asking_people(chosen: "Preset | None", people: list[str] | None, weight: float) -> "Preset | None":
    """Return a preset under which people's preferences count; without people it stays as it is.

    Args:
        people: addresses, or files of them.

    Raises:
        UsageError: people for a run of training, none of an address's form, one twice, or without a weight.
        ConfigError: a file cannot be read.
    """
    if not people:
        return chosen
    if chosen is None:
        raise UsageError("people compare the samples of a policy", hint="add --kind rollout")
    if not weight:
        raise UsageError("what people prefer has no weight", hint="--people-weight 1, or leave --people out")
    from pydantic import ValidationError

    from protocol.rollout_config import PeopleConfig

    addresses = [address for one in people for address in _addresses(one)]
    try:
        named = PeopleConfig(addresses=tuple(addresses))
    except ValidationError as error:
        raise UsageError(
            f"--people: {error.errors()[0]['msg']}", hint="0x and 40 hex digits each, 256 at most"
        ) from error
    return chosen.model_copy(update={"people": named, "people_weight": weight})


def _addresses(given: str) -> list[str]:
    if given.startswith("0x"):
        return [given]
    try:
        with Path(given).open(encoding="ascii") as file:
            return file.read(MAX_PEOPLE_BYTES).split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {given}: {error}", hint="--people takes an address, or a file with one a line"
        ) from error


def tuned_base(chosen: "Preset", say: Callable[[str], None]) -> "Base":
    """Return the base model that a policy starts from, tuned now if it never was; `say` is told how far it is.

    Raises:
        ConfigError: the environment is not installed, or the cache cannot be written.
    """
    from training.base import base_model
    from training.inner import prepare_process

    def progress(step: int, steps: int, loss: float) -> None:
        if step == 1 or step % max(1, steps // _LINES) == 0:
            say(f"tuning the base model for {chosen.environment}: step {step} of {steps}, loss {loss:.3f}")

    prepare_process(None)
    base = base_model(chosen, progress=progress)
    if base.cached:
        say(f"the base model for {chosen.environment} is in {base.corpus.parent}")
    return base

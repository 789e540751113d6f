"""What sort of run is made: a model that learns to predict a text, or a policy that learns from its environment."""

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from protocol.errors import UsageError

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


def tuned_base(chosen: "Preset", say: Callable[[str], None]) -> "Base":
    """Return the base model that a policy starts from, tuned now if it never was; `say` is told how far it is.

    Raises:
        ConfigError: the environment is not installed, or the cache cannot be written.
    """
    from training.base import base_model
    from training.inner import prepare_process

    prepare_process(None)
    base = base_model(chosen, progress=progress_of(f"the base model for {chosen.environment}", say))
    if base.cached:
        say(f"the base model for {chosen.environment} is in {base.corpus.parent}")
    return base


def progress_of(what: str, say: Callable[[str], None]) -> Callable[[int, int, float], None]:
    def progress(step: int, steps: int, loss: float) -> None:
        if step == 1 or step % max(1, steps // _LINES) == 0:
            say(f"tuning {what}: step {step} of {steps}, loss {loss:.3f}")

    return progress

"""Whose word on a sample counts in a run beside its environment's: a judge's and people's, as a user asks for it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.kind import progress_of
from protocol.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from protocol.rollout_config import PeopleConfig
    from training.judges import Judge
    from training.preset import Preset, Signals

MAX_PEOPLE_BYTES = 64 << 10
TUNED = "tuned"

JudgeChoice = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help=f"Have peers drawn by the beacon score every group with a model: {TUNED}, made here for the "
        "environment, or a directory with judge.json and its parameters (docs/rollouts.md).",
    ),
]
JudgeWeight = Annotated[
    float, typer.Option(min=-1000, max=1000, help="Weight of what judges say in a sample's reward.")
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
    float, typer.Option(min=-1000, max=1000, help="Weight of what people prefer in a sample's reward.")
]
OwnWeight = Annotated[
    float,
    typer.Option(
        min=0,
        max=1000,
        help="Factor of the environment's own rewards; 0 leaves the word to judges and people.",
    ),
]


@dataclass(frozen=True)
class Voices:
    """Say whose word counts, and how much."""

    judge: str | None = None
    judge_weight: float = 1.0
    people: tuple[str, ...] = ()  # addresses, or files of them
    people_weight: float = 1.0
    own_weight: float = 1.0

    def check(self, chosen: "Preset | None") -> None:
        """Refuse what makes no sense before anything is made.

        Raises:
            UsageError: judges or people for a run of training, or without a weight.
        """
        for name, asked, weight in (
            ("judge", self.judge is not None, self.judge_weight),
            ("people", bool(self.people), self.people_weight),
        ):
            if asked and chosen is None:
                raise UsageError(f"--{name} is about samples of a policy", hint="add --kind rollout")
            if asked and not weight:
                hint = f"--{name}-weight 1, or leave --{name} out"
                raise UsageError(f"what --{name} says has no weight", hint=hint)
        if not self.own_weight and self.judge is None and not self.people:
            raise UsageError(
                "nobody would reward anything", hint="--judge or --people, or another --own-weight"
            )
        if self.judge is not None and chosen is not None and chosen.open().environment.spec.players > 1:
            raise UsageError(
                f"a judge scores one player, and several play {chosen.environment}", hint="leave --judge out"
            )
        if self.judge is not None and self.judge != TUNED:
            from training.judges import read_judge

            read_judge(Path(self.judge))
        self._people()

    def open_judge(self, chosen: "Preset | None", say: Callable[[str], None]) -> "Judge | None":
        """Return the judge that was asked for, tuned now if it never was; `say` is told how far it is.

        Raises:
            UsageError: as `check`.
            ConfigError: the directory holds none, or the cache cannot be written.
        """
        self.check(chosen)
        if self.judge is None or chosen is None:
            return None
        from training.inner import prepare_process
        from training.judges import read_judge, tuned_judge

        if self.judge != TUNED:
            return read_judge(Path(self.judge))
        prepare_process(None)
        judge = tuned_judge(chosen, progress=progress_of(f"the judge for {chosen.environment}", say))
        if judge.cached:
            say(f"the judge for {chosen.environment} is in {judge.file.parent}")
        return judge

    def signals(self, judge: "Judge | None") -> "Signals":
        """Return what the manifest says of them.

        Raises:
            UsageError: people without an address's form, or one twice.
            ConfigError: a file of addresses cannot be read.
        """
        from training.preset import Signals

        return Signals(
            judge=None if judge is None else judge.config,
            judge_weight=self.judge_weight,
            people=self._people(),
            people_weight=self.people_weight,
            own_weight=self.own_weight,
        )

    def _people(self) -> "PeopleConfig | None":
        from pydantic import ValidationError

        from protocol.rollout_config import PeopleConfig

        if not self.people:
            return None
        try:
            return PeopleConfig(
                addresses=tuple(address for one in self.people for address in _addresses(one))
            )
        except ValidationError as error:
            raise UsageError(
                f"--people: {error.errors()[0]['msg']}", hint="0x and 40 hex digits each, 256 at most"
            ) from error


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

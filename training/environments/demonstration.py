"""A corpus of mixed quality: tasks done well now and then, badly most of the time, as on the web.

Reinforcement learning sharpens what a policy already does sometimes. From demonstrations that are all good a small
policy has nothing left to gain; from such a mixture it learns to do the task rarely and can be improved.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from protocol.errors import UsageError
from training.environments.definition import Definition
from training.environments.episode import Outcome, play
from training.environments.protocol import Environment, Info, Observation, Policy, TaskRandom


@dataclass(frozen=True)
class Demonstration:
    """Hold one episode and whether it was meant to be good."""

    outcome: Outcome
    good: bool


def demonstrator(definition: Definition, seed: int, good_share: float | None = None) -> tuple[Policy, bool]:
    """Return who shows the task of a seed, and whether they mean to do it well, which the seed decides too.

    Raises:
        UsageError: nobody can show this environment.
    """
    if definition.demonstrator is None:
        raise UsageError(
            f"environment {definition.id} has no demonstrator",
            hint="`murmur env list --json` says which ones have",
        )
    random = TaskRandom(b"demonstration", definition.id.encode(), definition.version.encode(), seed)
    good = random.chance(definition.good_share if good_share is None else good_share)
    return definition.demonstrator(random, good), good


def demonstrate(
    definition: Definition, environment: Environment, seed: int, good_share: float | None = None
) -> Demonstration:
    """Show the task of a seed. Raises as `demonstrator` does."""
    policy, good = demonstrator(definition, seed, good_share)
    return Demonstration(play(environment, seed, [policy]), good)


def corpus(
    definition: Definition, environment: Environment, first_seed: int, good_share: float | None = None
) -> Iterator[Demonstration]:
    """Yield demonstrations of one seed after the other, without end."""
    seed = first_seed
    while True:
        yield demonstrate(definition, environment, seed, good_share)
        seed += 1


class RandomPolicy:
    """Do anything the rules allow, or write letters where they allow too much to list."""

    def __init__(self, random: TaskRandom, letters: str = "abcdefghijklmnopqrstuvwxyz0123456789 ") -> None:
        self._random = random
        self._letters = letters

    def act(self, observation: Observation, info: Info) -> str:
        """Return a random action."""
        if actions := tuple(info.get("legal", ())):
            return str(self._random.choice(actions))
        letters = str(info.get("letters", self._letters))
        return "".join(self._random.choice(letters) for _ in range(int(info.get("length", 8))))

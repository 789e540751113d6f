"""Play an episode within its limits, and play it again from its actions: everybody gets the same rewards.

Whatever a peer sends goes through here. An action is bounded before an environment sees it, and what an environment
says is held against its own spec, so that a plug-in's defect cannot pass for a reward.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from protocol.errors import Malformed, MurmurError, OwnFault
from training.environments.protocol import MAX_SEED, Component, Environment, Observation, Policy, total

MAX_OBSERVATION_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Turn:
    """Hold what one player saw and did."""

    player: int
    observation: Observation
    action: str


@dataclass(frozen=True)
class Outcome:
    """Hold how an episode ended."""

    seed: int
    turns: tuple[Turn, ...]
    closing: Observation  # what was shown after the last action
    terminated: bool  # by the rules
    truncated: bool  # by the limit of turns
    components: tuple[tuple[Component, ...], ...]  # [players][components]


class Episode:
    """Play one seed of an environment."""

    def __init__(self, environment: Environment, seed: int) -> None:
        if not 0 <= seed <= MAX_SEED:
            raise Malformed(f"seed {seed} is not an unsigned 64-bit number")
        self.environment = environment
        self.seed = seed
        self.turns: list[Turn] = []
        self.terminated = self.truncated = False
        with _plugged_in(environment):
            self.observation, self.info = environment.reset(seed)
        _check_observation(self.observation)

    @property
    def over(self) -> bool:
        """Tell whether nobody may act any more."""
        return self.terminated or self.truncated

    @property
    def player(self) -> int:
        """Return who acts next.

        Raises:
            OwnFault: the environment names nobody who plays.
        """
        player = self.environment.player
        if not 0 <= player < self.environment.spec.players:
            raise OwnFault(
                f"environment {self.environment.spec.id} lets player {player} act, who does not exist"
            )
        return player

    def act(self, action: str) -> float:
        """Let the next player act; return the reward of this step under the spec's own weights.

        Raises:
            Malformed: the episode is over, or the action is too long or not text.
            OwnFault: the environment breaks its own promises, or fails.
        """
        spec = self.environment.spec
        if self.over:
            raise Malformed(f"an action after the end of the episode, which had {len(self.turns)} turns")
        check_action(action, spec.max_action_bytes)
        turn = Turn(self.player, self.observation, action)
        with _plugged_in(self.environment):
            self.observation, reward, self.terminated, truncated, self.info = self.environment.step(action)
        _check_observation(self.observation)
        if not math.isfinite(reward):
            raise OwnFault(f"environment {spec.id} gave a reward that is no number")
        self.turns.append(turn)
        self.truncated = not self.terminated and (truncated or len(self.turns) >= spec.max_turns)
        return reward

    def components(self) -> tuple[tuple[Component, ...], ...]:
        """Return every player's components as they stand: [players][components].

        Raises:
            OwnFault: they are not those that the environment announced.
        """
        spec = self.environment.spec
        with _plugged_in(self.environment):
            players = tuple(tuple(self.environment.components(one)) for one in range(spec.players))
        for components in players:
            if [(one.name, one.source) for one in components] != [
                (one.name, one.source) for one in spec.components
            ]:
                raise OwnFault(f"environment {spec.id} gave other components than it announced")
            for one, wanted in zip(components, spec.components, strict=True):
                if not wanted.low <= one.value <= wanted.high:
                    raise OwnFault(
                        f"environment {spec.id}: {one.name} is {one.value}, not from {wanted.low} to {wanted.high}"
                    )
        return players

    def outcome(self) -> Outcome:
        """Return how it ended.

        Raises:
            Malformed: it has not ended.
            OwnFault: the environment's components are not those that it announced.
        """
        if not self.over:
            raise Malformed(f"the episode goes on after {len(self.turns)} turns")
        ended = (self.terminated, self.truncated, self.components())
        return Outcome(self.seed, tuple(self.turns), self.observation, *ended)

    def rewards(self) -> tuple[float, ...]:
        """Return each player's reward under the spec's own weights. Raises as `outcome` does."""
        return tuple(total(self.environment.spec, one) for one in self.outcome().components)


def check_action(action: object, max_bytes: int) -> None:
    """Check a peer's text before anything reads it.

    Raises:
        Malformed: not text, text that no bytes spell, or too long.
    """
    if not isinstance(action, str):
        raise Malformed("an action is text")
    if len(action) > max_bytes:
        raise Malformed(f"an action of {len(action)} characters exceeds {max_bytes} bytes")
    try:
        size = len(action.encode())
    except UnicodeEncodeError as error:
        raise Malformed("an action that is not Unicode text") from error
    if size > max_bytes:
        raise Malformed(f"an action of {size} bytes exceeds {max_bytes}")


@contextmanager
def _plugged_in(environment: Environment) -> Iterator[None]:
    """Let no defect of an environment, which a peer's text may provoke, pass for anything but a fault of ours."""
    try:
        yield
    except MurmurError:
        raise
    except Exception as error:
        raise OwnFault(
            f"environment {environment.spec.id} failed: {type(error).__name__}: {error}"[:200],
            hint="report it to the package that offers it",
        ) from error


def _check_observation(observation: Observation) -> None:
    parts = [observation] if isinstance(observation, str) else [one.content for one in observation]
    if sum(map(len, parts)) > MAX_OBSERVATION_BYTES:
        raise OwnFault("the environment's observation is over a mebibyte")


def play(environment: Environment, seed: int, policies: Sequence[Policy]) -> Outcome:
    """Play to the end, with one policy for all players or one for each."""
    episode = Episode(environment, seed)
    while not episode.over:
        policy = policies[episode.player % len(policies)]
        episode.act(policy.act(episode.observation, episode.info))
    return episode.outcome()


def replay(environment: Environment, seed: int, actions: Sequence[str]) -> Outcome:
    """Play recorded actions again; the outcome is what a reward must be.

    Raises:
        Malformed: an action that no episode can hold, actions after the end, or none where one was due.
        OwnFault: the environment is not deterministic, so that a replay would decide nothing.
    """
    if not environment.spec.deterministic:
        raise OwnFault(f"environment {environment.spec.id} is not deterministic: it cannot be replayed")
    if len(actions) > environment.spec.max_turns:
        raise Malformed(f"{len(actions)} actions exceed {environment.spec.max_turns} turns")
    episode = Episode(environment, seed)
    for action in actions:
        episode.act(action)
    return episode.outcome()

"""Contributors that come late, and contributors that drop out for a round: who, when, and what became of it.

Who drops out is a pure draw of the seed. A drop-out is a real one: the node's process is killed while it trains, and
started again once the commitments of that round are closed, so that the round after is its next chance. Starting takes
seconds; a node that is not back when its next round closes misses that round too, which its count of rounds away tells.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer
from blake3 import blake3
from pydantic import BaseModel, Field

from protocol.errors import UsageError

if TYPE_CHECKING:
    from murmur.supervisor import Child, Supervisor
    from protocol.chain import ChainView
    from verification.public import PublicRun

JoinAt = Annotated[
    list[int] | None,
    typer.Option(
        min=0,
        help="An honest contributor that registers, stakes and starts only when this round begins (the first is 0), "
        "and contributes from the one after. Repeatable.",
    ),
]
Drop = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=0.9,
        help="Each honest contributor's chance to be killed in a round and started again for the next; two stay.",
    ),
]
STAYING = 2  # honest contributors that no round loses
COMMIT_BLOCKS = 40  # until commitments close: a node that starts again takes seconds before it trains
_SCALE = 2**64


class Presence(BaseModel):
    """Say when a contributor was there."""

    joined: int | None = None  # round in which it registered; None: before the first
    killed: list[int] = Field(default_factory=list)  # rounds in which its process was killed
    rostered: list[int] = Field(default_factory=list)  # rounds that counted on it
    away: list[int] = Field(default_factory=list)  # of these, rounds without a merged unit of it


def check_joins(rounds: Sequence[int], last: int) -> tuple[int, ...]:
    """Return the rounds in which somebody joins, in order.

    Args:
        last: rounds of the run.

    Raises:
        UsageError: a round that leaves none to contribute to.
    """
    for one in rounds:
        if one > last - 2:
            raise UsageError(
                f"who joins in round {one} of {last}, counted from 0, has no full round left",
                hint=f"--join-at {max(0, last - 2)} or less, or more --rounds",
            )
    return tuple(sorted(rounds))


def plan_drops(seed: int, present: Sequence[Sequence[str]], probability: float) -> tuple[frozenset[str], ...]:
    """Draw who drops out of each round.

    Args:
        present: by round, whoever may drop out of it.
        probability: for each of them; at least `STAYING` stay, whose draw is farthest from it.
    """
    return tuple(frozenset(_lowest(seed, round_, names, probability)) for round_, names in enumerate(present))


def _lowest(seed: int, round_: int, names: Sequence[str], probability: float) -> Iterable[str]:
    draws = {name: _draw(seed, round_, name) for name in names}
    ranked = sorted(draws, key=lambda name: (draws[name], name))
    for name in ranked[: max(0, len(ranked) - STAYING)]:
        if draws[name] < probability:
            yield name


def _draw(seed: int, round_: int, name: str) -> float:
    found = blake3(f"{seed}/{round_}/{name}".encode(), derive_key_context="murmur local network drop-out")
    return int.from_bytes(found.digest()[:8], "big") / _SCALE


def eligible(peers: Sequence[str], joins: Mapping[str, int], rounds: int) -> list[list[str]]:
    """Return who may drop out of each round: nobody from the first and the last, no joiner from its first full one.

    Args:
        peers: honest contributors who are there from the start.
        joins: by name, the round in which a later one registers.
    """
    return [
        [*peers, *(name for name, joined in joins.items() if round_ > joined + 1)]
        if 0 < round_ < rounds - 1
        else []
        for round_ in range(rounds)
    ]


@dataclass
class Churn:
    """Let contributors come and go as planned, in a supervisor's processes. Tell it regularly where the run stands."""

    supervisor: "Supervisor"
    join: Callable[[str], None]  # registers, stakes and starts a contributor
    joins: Mapping[str, int]  # by name
    drops: Sequence[frozenset[str]]  # by round
    say: Callable[[str], None]
    killed: dict[str, list[int]] = field(default_factory=dict)  # by name, rounds
    _joined: set[str] = field(default_factory=set)
    _seen: int = -1  # newest round whose drop-outs are done
    _away: dict[str, int] = field(default_factory=dict)  # by name, since which round

    def look(self, round_: int, phase: str) -> None:
        """Do what is due in a phase of a round, as the coordinator names them."""
        if phase in ("created", "ready"):
            return
        for name, since in list(self._away.items()):
            if round_ > since or phase != "commit":
                self.say(f"{name} starts again")
                self.supervisor.bring_back(self._child(name))
                del self._away[name]
        if phase == "commit" and round_ > self._seen:
            self._seen = round_
            for name in sorted(self.drops[round_] if round_ < len(self.drops) else ()):
                self._drop(name, round_)
        for name, due in self.joins.items():
            if round_ >= due and name not in self._joined:
                self._joined.add(name)
                self.say(f"{name} joins in round {round_ + 1}")
                self.join(name)

    def _drop(self, name: str, round_: int) -> None:
        child = self._child(name)
        if child.process is None:
            return  # it died of itself, and is about to be started again
        self.say(f"{name} drops out of round {round_ + 1}")
        self.supervisor.take_away(child)
        self.killed.setdefault(name, []).append(round_)
        self._away[name] = round_

    def _child(self, name: str) -> "Child":
        return next(child for child in self.supervisor.children if child.name == name)


def presence(
    run: "PublicRun", chain: "ChainView", number: int, *, joined: int | None, killed: Sequence[int]
) -> Presence:
    """Read from a run's records when a contributor was there."""
    rostered = [round_ for round_ in run.rounds if any(one.number == number for one in chain.roster(round_))]
    merged = {
        round_
        for round_ in rostered
        if any(unit.number == number and unit.merged for unit in run.standing[round_].units)
    }
    return Presence(
        joined=joined,
        killed=list(killed),
        rostered=rostered,
        away=[round_ for round_ in rostered if round_ not in merged],
    )


def churn_missing(found: Mapping[str, Presence], probability: float) -> list[str]:
    """Return what should have become of contributors that came and went, and did not.

    Args:
        found: honest contributors' presence, by name.
        probability: of drop-outs; above 0 somebody has to have dropped out.
    """
    missing = []
    for name, one in found.items():
        merged = set(one.rostered) - set(one.away)
        if one.joined is not None and not merged & set(one.rostered[:1]):
            missing.append(
                f"{name} joined in round {one.joined} and did not contribute in its first full one"
            )
        if one.killed and not any(round_ > one.killed[-1] for round_ in merged):
            missing.append(f"{name} was killed in round {one.killed[-1]} and did not contribute again")
    if probability and not any(one.killed for one in found.values()):
        missing.append(f"nobody dropped out: a chance of {probability:g} drew no one in so few rounds")
    return missing

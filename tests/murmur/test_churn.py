"""Who drops out when is a draw that anyone can repeat; whoever comes late or goes has to contribute all the same."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from murmur.churn import STAYING, Churn, Presence, check_joins, churn_missing, eligible, plan_drops
from murmur.supervisor import Child, Supervisor
from protocol.errors import UsageError

PEERS = [f"peer-{number}" for number in range(1, 9)]


@pytest.mark.parametrize("probability", [0.25, 0.5])
def test_so_many_drop_out_as_was_asked_for(probability: float) -> None:
    drops = plan_drops(0, [PEERS] * 400, probability)
    assert sum(map(len, drops)) / (400 * len(PEERS)) == pytest.approx(probability, abs=0.03)


def test_the_draw_is_the_seeds() -> None:
    present = [PEERS] * 20
    assert plan_drops(3, present, 0.4) == plan_drops(3, present, 0.4) != plan_drops(4, present, 0.4)


def test_two_always_stay() -> None:
    for names in (PEERS[:1], PEERS[:2], PEERS[:3], PEERS):
        for drawn in plan_drops(1, [names] * 30, 0.9):
            assert len(drawn) <= max(0, len(names) - STAYING)
            assert drawn <= set(names)


def test_nobody_drops_out_where_nobody_is_asked_to() -> None:
    assert plan_drops(0, [PEERS] * 5, 0.0) == (frozenset(),) * 5


def test_first_and_last_round_and_a_joiners_first_full_one_are_spared() -> None:
    assert eligible(["a", "b"], {"late": 1}, 5) == [[], ["a", "b"], ["a", "b"], ["a", "b", "late"], []]


def test_who_joins_needs_a_full_round() -> None:
    assert check_joins([3, 1], 5) == (1, 3)
    with pytest.raises(UsageError, match="no full round left"):
        check_joins([4], 5)


@dataclass
class Hands:
    """Note what a supervisor is asked to do."""

    children: list[Child] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    def take_away(self, child: Child) -> None:
        self.done.append(f"kill {child.name}")

    def bring_back(self, child: Child) -> None:
        self.done.append(f"start {child.name}")


def churn(hands: Hands, *drops: set[str]) -> Churn:
    for name in ("a", "b", "c"):
        child = Child(name, (), Path("log"))
        child.process = object()  # type: ignore[assignment]
        hands.children.append(child)
    supervisor: Supervisor = hands  # type: ignore[assignment]

    def join(name: str) -> None:
        hands.done.append(f"join {name}")

    return Churn(supervisor, join, {"late": 1}, [frozenset(one) for one in drops], lambda line: None)


def test_a_node_is_away_until_the_commitments_of_its_round_are_closed() -> None:
    hands = Hands()
    found = churn(hands, set(), {"b"}, set())
    for round_, phase in ((0, "created"), (0, "commit"), (0, "reveal"), (1, "commit"), (1, "commit")):
        found.look(round_, phase)
    assert hands.done == ["kill b", "join late"]
    found.look(1, "post")
    found.look(2, "commit")
    assert hands.done == ["kill b", "join late", "start b"]
    assert found.killed == {"b": [1]}


def test_who_drops_out_twice_in_a_row_starts_in_between() -> None:
    hands = Hands()
    found = churn(hands, {"a"}, {"a"})
    found.look(0, "commit")
    found.look(1, "commit")
    assert hands.done == ["kill a", "start a", "kill a", "join late"]
    assert found.killed == {"a": [0, 1]}


@pytest.mark.parametrize(
    ("one", "missing"),
    [
        (Presence(rostered=[0, 1, 2]), None),
        (Presence(joined=0, rostered=[1, 2]), None),
        (Presence(joined=0, rostered=[1, 2], away=[1]), "did not contribute in its first full one"),
        (Presence(joined=0), "did not contribute in its first full one"),
        (Presence(killed=[1], rostered=[0, 1, 2], away=[1]), None),
        (Presence(killed=[1], rostered=[0, 1, 2], away=[1, 2]), "did not contribute again"),
    ],
)
def test_what_came_of_it_is_said(one: Presence, missing: str | None) -> None:
    found = churn_missing({"peer-1": one}, 0.0)
    assert (found == []) if missing is None else (missing in found[0])


def test_a_chance_that_drew_no_one_is_said() -> None:
    (line,) = churn_missing({"peer-1": Presence(rostered=[0])}, 0.1)
    assert "nobody dropped out" in line

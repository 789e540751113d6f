"""Who verifies earns more than who does not, under the rules that draw, judge and pay."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from murmur.cli import program
from murmur.simulator import (
    STRATEGIES,
    Simulation,
    Strategy,
    cast,
    collusion,
    describe,
    run_simulation,
)
from protocol.errors import UsageError


def simulated(seed: int = 0, rounds: int = 60, **counts: int) -> Simulation:
    return run_simulation(cast(counts, 12), rounds=rounds, seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("strategy", ["lazy", "accuser", "sleeper"])
def test_one_who_does_not_verify_ends_with_less_than_an_honest_one(strategy: Strategy, seed: int) -> None:
    found = simulated(seed, **{strategy: 1})
    honest, other = found.accounts["honest"], found.accounts[strategy]
    assert other.owed >= 10
    assert other.per_verdict == 0
    assert honest.net(found.cost) > 0.45, "an honest verdict pays 1 and costs half of it"
    assert found.units["honest false"] == found.units["honest unjudged"] == 0
    assert found.units["honest void"] == 0, "the third verifier settles what one disturbs"


def test_several_of_each_kind_still_earn_less() -> None:
    found = simulated(rounds=120, lazy=2, accuser=1, sleeper=1)
    honest = found.accounts["honest"]
    for strategy in ("lazy", "accuser", "sleeper"):
        assert found.accounts[strategy].per_verdict < honest.net(found.cost)
    assert found.units["honest false"] == 0


def test_false_units_are_found_and_honest_verifiers_are_hardly_ever_wrong() -> None:
    found = run_simulation(cast({}, 12), rounds=60, dishonest=0.3, seed=3)
    assert found.units["dishonest false"] > 20
    assert set(found.units) == {"dishonest false", "honest passed"}
    honest = found.accounts["honest"]
    assert (honest.wrong, honest.moot, honest.silent) == (0, 0, 0)
    assert honest.per_verdict == 1


def test_a_ring_is_right_only_where_it_holds_the_majority_of_a_panel() -> None:
    found = simulated(rounds=200, ring=4)
    ring, honest = found.accounts["ring"], found.accounts["honest"]
    assert ring.right / ring.owed == pytest.approx(collusion(12, 4).ring, abs=0.06)
    assert honest.right / honest.owed == pytest.approx(collusion(12, 4).honest, abs=0.03)
    assert ring.per_verdict < honest.net(found.cost), (
        "what it loses where it is wrong is more than a replay costs"
    )
    assert simulated(rounds=200, ring=1).accounts["ring"].per_verdict == 0


def test_collusion_is_priced_by_the_number_of_colluders() -> None:
    assert collusion(12, 0).honest == 1.0
    assert (collusion(12, 1).covered, collusion(12, 1).ring) == (0.0, 0.0)
    assert collusion(3, 2).covered == 1.0
    pair = collusion(12, 2)
    assert pair.covered == pytest.approx(1 / 66 + 2 * (2 / 12) * (10 / 11) * (1 / 10))
    prices = [collusion(12, ring) for ring in range(1, 12)]
    assert [one.ring for one in prices] == sorted(one.ring for one in prices)
    assert [one.honest for one in prices] == sorted((one.honest for one in prices), reverse=True)


def test_the_same_seed_gives_the_same_run_and_another_another() -> None:
    first, again, other = (simulated(seed, rounds=20, lazy=1).to_json() for seed in (5, 5, 6))
    assert first == again
    assert first["verifiers"] != other["verifiers"]


def test_there_cannot_be_more_liars_than_verifiers() -> None:
    assert cast({"lazy": 2}, 3) == ("honest", "lazy", "lazy")
    with pytest.raises(UsageError, match="4 dishonest verifiers among 3"):
        cast({"lazy": 4}, 3)


def test_the_command_prints_a_table_or_one_document() -> None:
    arguments = ["verifier", "simulate", "--rounds", "10", "--seed", "1"]
    shown = CliRunner().invoke(program(), arguments)
    assert shown.exit_code == 0
    assert all(strategy in shown.stdout for strategy in STRATEGIES)
    document = json.loads(CliRunner().invoke(program(), [*arguments, "--json"]).stdout)
    assert {one["strategy"] for one in document["verifiers"]} == set(STRATEGIES)
    assert "\n".join(describe(run_simulation(cast({}, 2), rounds=1)))

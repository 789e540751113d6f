"""The committed gas figures: complete, under the ceilings, and what a real chain charges."""

import json
from pathlib import Path

import pytest

CONTRACTS = Path(__file__).parents[2] / "contracts"
CEILINGS = {
    "a round with its share of an epoch of 10": 180_000,
    "a repeat claim at 16,000 leaves": 75_000,
    "a registration with permit and link": 205_000,
}


def snapshot(name: str) -> dict[str, int]:
    figures: dict[str, str] = json.loads((CONTRACTS / "gas" / f"{name}.json").read_text())
    return {label: int(figure) for label, figure in figures.items()}


@pytest.mark.parametrize("contract", ["Ledger", "Jury"])
def test_every_function_that_changes_something_has_its_figure(contract: str) -> None:
    abi = json.loads((CONTRACTS / "artifacts" / f"{contract}.json").read_text())["abi"]
    names = {
        one["name"] for one in abi if one["type"] == "function" and one["stateMutability"] == "nonpayable"
    }
    figures = snapshot(contract)
    assert names <= figures.keys()
    assert all(21_000 < figure < 3_000_000 for figure in figures.values())


def test_the_figures_stay_under_the_ceilings() -> None:
    figures = snapshot("Ceilings")
    assert figures.keys() == CEILINGS.keys()
    for label, ceiling in CEILINGS.items():
        assert figures[label] <= ceiling, label

"""The Solidity tests reach every error and every event, and their vectors are the published ones."""

import re
from pathlib import Path

import pytest

from tests.golden import quicknet

CONTRACTS = Path(__file__).parents[2] / "contracts"
TESTS = "".join(path.read_text() for path in sorted((CONTRACTS / "test").glob("*.t.sol")))


def declared(kind: str, library: str) -> list[str]:
    text = (CONTRACTS / "src" / "libraries" / f"{library}.sol").read_text()
    return re.findall(rf"^    {kind} (\w+)\(", text, re.MULTILINE)


@pytest.mark.parametrize("error", declared("error", "ErrorsLib"))
def test_an_error_is_reached(error: str) -> None:
    assert re.search(rf"ErrorsLib\.{error}\.selector", TESTS)


@pytest.mark.parametrize("event", declared("event", "EventsLib"))
def test_an_event_is_expected(event: str) -> None:
    assert re.search(rf"emit EventsLib\.{event}\(", TESTS)


def test_the_vectors_are_those_that_drand_published() -> None:
    assert quicknet.render() == quicknet.PATH.read_text()

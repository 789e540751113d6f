"""Which appeals count, who judges them, and what a unit is after them."""

from __future__ import annotations

import pytest

from protocol.chain import Appeal
from protocol.messages import Judgement, UnitRecord
from tests.coordinator.conftest import SimulatedChain, World, make_manifest
from verification.appeal import (
    MAX_ACCUSATIONS,
    MAX_CONTESTS,
    appealed,
    blocks_since,
    combined,
    may_still_appeal,
)
from verification.judge import Outcome
from verification.sample import Draw

UNITS = tuple(UnitRecord(number=number, commitment="ab" * 32, merged=True) for number in (1, 2, 3))
ACCUSER = 2


@pytest.fixture
def chain() -> SimulatedChain:
    """A chain on which round 0 is anchored, with three contributors and four verifiers."""
    world = World(make_manifest(), verifiers=4)
    chain = world.chain
    chain.mine()
    chain.records[0] = ("cd" * 32, chain.height)
    chain.mine()
    return chain


def count(
    chain: SimulatedChain, *drawn: Draw, outcome: Outcome | None = None, units: tuple[UnitRecord, ...] = UNITS
) -> tuple[Draw, ...]:
    manifest = make_manifest()
    return appealed(manifest, manifest.run_id, chain, 0, units, drawn, lambda case: outcome)


def test_an_accusation_counts_once_its_beacon_is_there_and_is_judged_from_then_on(
    chain: SimulatedChain,
) -> None:
    case = chain.appeal(0, 1, 1, ACCUSER)
    assert count(chain) == (), "nobody may know who judges before the accusation stands"
    chain.mine()
    (found,) = count(chain)
    assert (found.number, found.segment, found.case, found.filed) == (1, 1, case, chain.height - 1)
    assert sorted(found.verifiers) == [101, 102, 103, 104]
    assert blocks_since(chain, 0, found) == 0


def test_an_accusation_after_the_window_does_not_count(chain: SimulatedChain) -> None:
    window = make_manifest().deadlines.appeal
    chain.mine(window - 1)
    chain.appeal(0, 1, 0, ACCUSER)
    chain.appeal(0, 1, 1, ACCUSER)
    chain.mine()
    assert [one.segment for one in count(chain)] == [0]


@pytest.mark.parametrize(("number", "segment"), [(4, 0), (1, 2)], ids=["not listed", "no such segment"])
def test_an_accusation_of_what_is_not_there_does_not_count(
    chain: SimulatedChain, number: int, segment: int
) -> None:
    chain.appeal(0, number, segment, ACCUSER)
    chain.mine()
    assert count(chain) == ()


def test_only_the_first_accusations_of_a_round_count(chain: SimulatedChain) -> None:
    chain.appealed += [
        Appeal(case, 0, number, segment, ACCUSER, 10, chain.height)
        for case, (number, segment) in enumerate([(1, 0), (1, 1), (3, 0), (3, 1)] * 3, start=1)
    ]
    chain.mine()
    assert [one.case for one in count(chain)] == list(range(1, MAX_ACCUSATIONS + 1))


def test_a_contest_is_not_displaced_by_older_ones_whose_units_are_found_void_later(
    chain: SimulatedChain,
) -> None:
    owners = range(1, MAX_CONTESTS + 2)
    units = tuple(UnitRecord(number=number, commitment="ab" * 32, merged=True) for number in owners)
    drawn = tuple(Draw(number, 1, (101, 102, 103, 104)) for number in owners)
    chain.appealed += [Appeal(number, 0, number, 1, number, 10, chain.height) for number in owners]
    chain.mine()
    manifest = make_manifest()

    def counted(void: range) -> list[int]:
        def outcome(case: Draw) -> Outcome:
            return "void" if case.number in void else "passed"

        found = appealed(manifest, manifest.run_id, chain, 0, units, drawn, outcome)
        return [one.number for one in found]

    assert counted(range(2, MAX_CONTESTS + 2)) == [*range(2, MAX_CONTESTS + 1)]
    assert counted(range(1, MAX_CONTESTS + 2)) == [*range(1, MAX_CONTESTS + 1)]


def test_a_verifier_that_accuses_does_not_judge(chain: SimulatedChain) -> None:
    chain.appeal(0, 1, 0, 103)
    chain.mine()
    (found,) = count(chain)
    assert sorted(found.verifiers) == [101, 102, 104]


@pytest.mark.parametrize("outcome", ["passed", "false", None])
def test_only_what_was_found_void_or_not_judged_is_contested(
    chain: SimulatedChain, outcome: Outcome | None
) -> None:
    draw = Draw(1, 1, (101, 102, 103, 104))
    chain.appeal(0, 1, 1, appellant=1)
    chain.mine()
    assert count(chain, draw, outcome=outcome) == ()
    assert len(count(chain, draw, outcome="void")) == len(count(chain, draw, outcome="unjudged")) == 1


def test_whoever_judged_first_comes_last_in_a_contest(chain: SimulatedChain) -> None:
    draw = Draw(1, 1, (103, 101, 104, 102))
    chain.appeal(0, 1, 1, appellant=1)
    chain.mine()
    (found,) = count(chain, draw, outcome="void")
    assert set(found.verifiers[2:]) == {103, 101}


def test_a_contest_is_about_the_segment_that_was_judged(chain: SimulatedChain) -> None:
    chain.appeal(0, 1, 0, appellant=1)
    chain.mine()
    assert count(chain, Draw(1, 1, (101, 102)), outcome="void") == ()


def test_a_contest_has_time_until_after_the_verifiers(chain: SimulatedChain) -> None:
    manifest = make_manifest()
    draw = Draw(1, 1, (101, 102, 103, 104))
    chain.mine(draw.closes_after(manifest) + manifest.deadlines.appeal - 1)
    chain.appeal(0, 1, 1, appellant=1)
    chain.mine()
    assert len(count(chain, draw, outcome="void")) == 1
    chain.appealed.clear()
    chain.appeal(0, 1, 1, appellant=1)
    chain.mine()
    assert count(chain, draw, outcome="void") == ()


def test_a_round_stays_open_while_something_of_it_may_be_appealed(chain: SimulatedChain) -> None:
    manifest = make_manifest()
    draw = Draw(1, 1, (101, 102, 103, 104))

    def open_for(outcome: Outcome) -> int:
        """Return at which block after its beacon a round with such a draw is over."""
        chain.height = began = chain.records[0][1] + 1
        while may_still_appeal(manifest, chain, 0, (draw,), lambda case: outcome):
            chain.height += 1
        return chain.height - began

    window = manifest.deadlines.appeal
    assert open_for("passed") == open_for("false") == window + 1
    assert open_for("void") == open_for("unjudged") == draw.closes_after(manifest) + window + 1


def judged(*outcomes: tuple[int, int, Outcome]) -> list[Judgement]:
    return [
        Judgement(round=0, number=1, case=case, segment=segment, outcome=outcome)
        for case, segment, outcome in outcomes
    ]


@pytest.mark.parametrize(
    ("cases", "outcome"),
    [
        ([], "passed"),
        ([(0, 0, "passed"), (1, 1, "false")], "false"),
        ([(0, 0, "passed"), (1, 1, "void")], "void"),
        ([(0, 0, "void"), (1, 0, "passed")], "passed"),
        ([(1, 0, "passed"), (0, 0, "void")], "passed"),
        ([(0, 0, "void"), (1, 0, "unjudged")], "void"),
        ([(0, 0, "unjudged"), (1, 0, "passed")], "passed"),
        ([(0, 0, "void"), (1, 0, "passed"), (2, 1, "void")], "void"),
        ([(0, 0, "false"), (1, 0, "passed")], "false"),
        ([(1, 1, "unjudged")], "passed"),
        ([(0, 0, "unjudged")], "unjudged"),
    ],
)
def test_a_unit_is_as_bad_as_the_worst_of_what_stands(
    cases: list[tuple[int, int, Outcome]], outcome: Outcome
) -> None:
    assert combined(judged(*cases)) == outcome

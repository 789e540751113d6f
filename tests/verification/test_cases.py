"""Which cases change pay, how long they may come, and what a unit is after them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contracts.types import CaseOutcome
from protocol.chain import OPENING_ROUND
from protocol.manifest import RunManifest
from protocol.messages import Judgement, UnitRecord
from tests.verification.simchain import SimChain
from tests.verification.testbed import Testbed
from verification.cases import (
    MAX_ACCUSATIONS,
    MAX_CONTESTS,
    combined,
    confirmed_faults,
    counted_cases,
    may_still_open,
)
from verification.judge import Outcome
from verification.sample import Draw

ANCHOR = 20
UNITS = tuple(UnitRecord(number=number, commitment="ab" * 32, merged=True) for number in (1, 2, 3))
DRAW = Draw(1, 1, (8, 9, 10))


@pytest.fixture
def chain(bed: Testbed) -> SimChain:
    """A chain on which round 0 is anchored."""
    numbers = dict.fromkeys((1, 2, 3), "contributor") | dict.fromkeys((8, 9, 10), "verifier")
    found = SimChain(bed.manifest, numbers, height=ANCHOR)
    found.anchors = {OPENING_ROUND: 10, 0: ANCHOR}
    return found


def count(
    chain: SimChain, *drawn: Draw, outcome: Outcome | None = None, units: tuple[UnitRecord, ...] = UNITS
) -> list[tuple[int, int]]:
    found = counted_cases(chain.manifest, chain, 0, units, drawn, lambda draw: outcome)
    return [(one.number, one.segment) for one in found]


def window(manifest: RunManifest, draw: Draw | None = None) -> int:
    """Return the last block for an accusation, or for a case about a drawn segment."""
    late = 0 if draw is None else draw.closes_after(manifest)
    return ANCHOR + 1 + manifest.deadlines.appeal + late


def test_a_fault_is_confirmed_in_the_epoch_in_which_the_jurys_case_was_closed(chain: SimChain) -> None:
    first, second = (chain.manifest.rounds_of(epoch)[-1] for epoch in (0, 1))
    chain.anchors = {OPENING_ROUND: 10, first: 100, second: 200}

    def close(number: int, outcome: int, height: int) -> None:
        case = chain.open_case(0, number, 0)
        chain.height = height
        chain.close_case(case, outcome)

    close(1, CaseOutcome.FALSE, 100)
    close(2, CaseOutcome.UNAVAILABLE, 101)
    close(3, CaseOutcome.RIGHT, 102)
    close(3, CaseOutcome.VOID, 103)
    chain.open_case(0, 3, 1)  # under way
    chain.height = 300
    assert confirmed_faults(chain.manifest, chain, 0) == {1}
    assert confirmed_faults(chain.manifest, chain, 1) == {2}
    del chain.anchors[second]
    assert confirmed_faults(chain.manifest, chain, 1) == frozenset(), "the epoch has not ended"


def test_an_accusation_counts_from_the_block_that_holds_it(chain: SimChain) -> None:
    chain.open_case(0, 1, 1)
    assert count(chain) == [(1, 1)]


def test_an_accusation_after_the_window_does_not_count(chain: SimChain) -> None:
    chain.height = window(chain.manifest) - 1
    chain.open_case(0, 1, 0)
    chain.open_case(0, 1, 1)
    assert count(chain) == [(1, 0)]


@pytest.mark.parametrize(("number", "segment"), [(4, 0), (1, 3)], ids=["not listed", "no such segment"])
def test_an_accusation_of_what_is_not_there_does_not_count(
    chain: SimChain, number: int, segment: int
) -> None:
    chain.open_case(0, number, segment)
    assert count(chain) == []


def test_what_verifiers_proved_false_is_accused_in_time_however_long_they_took(chain: SimChain) -> None:
    chain.height = window(chain.manifest, DRAW) - 1
    chain.open_case(0, 1, 1)
    assert count(chain, DRAW, outcome="false") == [(1, 1)]
    assert count(chain, DRAW, outcome="passed") == [], "nobody judged it false, and the window is over"
    chain.open_case(0, 1, 1)
    assert count(chain, DRAW, outcome="false") == [(1, 1)], "the second came too late"


def test_only_the_first_accusations_of_a_round_count(chain: SimChain) -> None:
    places = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2)]
    chain.manifest = chain.manifest.model_copy(
        update={"deadlines": chain.manifest.deadlines.model_copy(update={"appeal": 20})}
    )
    for number, segment in places:
        chain.open_case(0, number, segment)
    assert count(chain) == places[:MAX_ACCUSATIONS]


def test_a_contest_is_not_displaced_by_older_ones_whose_units_are_found_void_later(chain: SimChain) -> None:
    owners = range(1, MAX_CONTESTS + 2)
    units = tuple(UnitRecord(number=number, commitment="ab" * 32, merged=True) for number in owners)
    drawn = tuple(Draw(number, 1, (8, 9, 10)) for number in owners)
    for number in owners:
        chain.open_case(0, number, 1, contests=True)
        chain.height = ANCHOR + 1
    for case in chain.opened:
        chain.opened[case] = replace(chain.opened[case], block=ANCHOR + 1)

    def counted(void: range) -> list[int]:
        def outcome(draw: Draw) -> Outcome:
            return "void" if draw.number in void else "passed"

        return [one.number for one in counted_cases(chain.manifest, chain, 0, units, drawn, outcome)]

    assert counted(range(2, MAX_CONTESTS + 2)) == [*range(2, MAX_CONTESTS + 1)]
    assert counted(range(1, MAX_CONTESTS + 2)) == [*range(1, MAX_CONTESTS + 1)]


@pytest.mark.parametrize("outcome", ["void", "unjudged", "false"])
def test_an_owner_contests_what_did_not_pass(chain: SimChain, outcome: Outcome) -> None:
    chain.open_case(0, 1, 1, contests=True)
    assert count(chain, DRAW, outcome=outcome) == [(1, 1)]


@pytest.mark.parametrize("outcome", ["passed", None])
def test_what_passed_or_is_undecided_is_not_contested(chain: SimChain, outcome: Outcome | None) -> None:
    chain.open_case(0, 1, 1, contests=True)
    assert count(chain, DRAW, outcome=outcome) == []


def test_a_contest_is_about_the_segment_that_was_judged(chain: SimChain) -> None:
    chain.open_case(0, 1, 0, contests=True)
    assert count(chain, DRAW, outcome="void") == []


def test_a_contest_has_time_until_after_the_verifiers(chain: SimChain) -> None:
    chain.height = window(chain.manifest, DRAW) - 1
    chain.open_case(0, 1, 1, contests=True)
    assert count(chain, DRAW, outcome="void") == [(1, 1)]
    chain.opened.clear()
    chain.open_case(0, 1, 1, contests=True)
    assert count(chain, DRAW, outcome="void") == []


def test_a_round_stays_open_while_a_case_may_come(chain: SimChain) -> None:
    def open_for(outcome: Outcome) -> int:
        """Return the last block in which a round with such a draw is open."""
        chain.height = ANCHOR
        while may_still_open(chain.manifest, chain, 0, (), (DRAW,), lambda draw: outcome):
            chain.height += 1
        return chain.height - 1

    assert open_for("passed") == window(chain.manifest)
    assert open_for("false") == open_for("void") == open_for("unjudged") == window(chain.manifest, DRAW)


def test_a_round_waits_for_an_open_case_and_not_beyond_the_one_that_settles_a_fault(chain: SimChain) -> None:
    def is_open() -> bool:
        counted = counted_cases(chain.manifest, chain, 0, UNITS, (DRAW,), lambda draw: "false")
        return may_still_open(chain.manifest, chain, 0, counted, (DRAW,), lambda draw: "false")

    case = chain.open_case(0, 1, 1)
    chain.height = 1000
    assert is_open(), "the jury takes its time"
    chain.height = window(chain.manifest) + 1
    chain.close_case(case, 3)
    assert not is_open(), "what verifiers proved false is settled, and nothing else is left"


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
        ([(0, 0, "false"), (1, 0, "passed")], "passed"),
        ([(0, 0, "false"), (1, 0, "unjudged")], "false"),
        ([(1, 1, "unjudged")], "passed"),
        ([(0, 0, "unjudged")], "unjudged"),
    ],
)
def test_a_unit_is_as_bad_as_the_worst_of_what_stands(
    cases: list[tuple[int, int, Outcome]], outcome: Outcome
) -> None:
    assert combined(judged(*cases)) == outcome

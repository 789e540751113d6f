"""Cases before the jury, as scenarios on a simulated chain: what a ruling makes of a unit, and who waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coordinator.state import Accuse, Export
from coordinator.summary import summarize
from protocol.manifest import DeadlineConfig, SamplingSchedule
from protocol.messages import PROVEN_FALSE, REJECTED, Opening
from tests.coordinator.conftest import verification

MakeWorld = Callable[..., Any]
NOBODY_DRAWN = verification(
    schedule=SamplingSchedule(fresh_probability=0.0, floor_probability=0.0), witnesses=0
)
# Nobody commits to round 1 before a test says so, however long the jury takes.
DEADLINES = DeadlineConfig(ready=20, commit=1000, reveal=5, verify=6, appeal=3)


@pytest.fixture
def undrawn(make_world: MakeWorld) -> Any:
    """A run in which no draw picks anybody, with its first round anchored."""
    world = make_world(rounds=2, verification=NOBODY_DRAWN, deadlines=DEADLINES)
    world.open()
    world.commit(0)
    world.reveal(0)
    return world


@pytest.fixture
def drawn(make_world: MakeWorld) -> Any:
    """A run in which everybody is drawn, with its first round anchored, and everybody but number 1 judged."""
    world = make_world(rounds=2, deadlines=DEADLINES)
    world.open()
    world.commit(0)
    world.reveal(0)
    world.mine()
    world.judge_all(0, but=lambda draw: draw.number == 1)
    return world


def accuse(world: Any, number: int) -> int:
    """Accuse a unit of round 0; return the case."""
    case: int = world.chain.open_case(0, number, 1)
    world.mine()
    return case


def first(world: Any) -> Any:
    """Return the draw of number 1 in round 0."""
    return next(one for one in world.draws(0) if one.number == 1)


def contest(world: Any) -> int:
    """Let the owner contest what was said of number 1's unit of round 0; return the case."""
    case: int = world.chain.open_case(0, 1, first(world).segment, contests=True)
    world.mine()
    return case


def say(world: Any, outcome: int, *, forged: bool = False, opened: bool = False) -> None:
    """Let two verifiers say the same of number 1's unit of round 0."""
    draw = first(world)
    for verifier in draw.verifiers[:2]:
        world.verdict(0, draw, verifier, outcome, forged=forged, opened=opened)


def finish(world: Any) -> dict[int, int]:
    """Play the run to its end; return what each number is owed by the last table."""
    numbers = [one.number for one in world.chain.roster(1)]
    world.commit(1, numbers)
    world.reveal(1, numbers)
    world.mine()
    world.judge_all(1)
    world.mine(60)
    assert world.chain.final is not None
    owed: dict[int, int] = world.owed(world.manifest.epochs - 1)
    return owed


def outcomes(world: Any, number: int = 1) -> dict[int, str]:
    """Return the decisions on a number's unit of round 0, by case."""
    return {one.case: one.outcome for one in world.decisions if (one.round, one.number) == (0, number)}


def declared(world: Any) -> list[tuple[int, int, int, str]]:
    """Return what records and the closing word declare of cases."""
    told = (*world.record(1).judged, *world.statements["finish", 1, 0].body.judged)
    return [(one.case, one.number, one.segment, one.outcome) for one in told if one.case]


# Accusations


def test_an_accused_unit_that_is_false_earns_nothing_although_no_draw_picked_it(undrawn: Any) -> None:
    case = accuse(undrawn, 1)
    undrawn.rule(case, "false")
    owed = finish(undrawn)
    assert 1 not in owed
    assert owed[2] == 2 * undrawn.manifest.pay.unit_wei
    assert declared(undrawn) == [(case, 1, 1, "false")]
    assert undrawn.record(1).judged[0].heard == (), "a jury's names are on the chain"
    assert not undrawn.wanted(Accuse), "it is before the jury already"
    assert not owed.keys() & {101, 102, 103}, "the jury pays its jurors itself"


def test_an_accused_unit_that_is_honest_is_paid(undrawn: Any) -> None:
    case = accuse(undrawn, 1)
    undrawn.rule(case, "passed")
    assert finish(undrawn)[1] == 2 * undrawn.manifest.pay.unit_wei
    assert declared(undrawn) == [(case, 1, 1, "passed")]


def test_an_accusation_that_no_jury_decides_changes_nothing(undrawn: Any) -> None:
    case = accuse(undrawn, 1)
    undrawn.rule(case, "unjudged")
    assert finish(undrawn)[1] == 2 * undrawn.manifest.pay.unit_wei
    assert declared(undrawn) == [(case, 1, 1, "unjudged")]


def test_a_residual_that_the_jury_finds_forged_is_declared_so_and_unpaid(undrawn: Any) -> None:
    case = accuse(undrawn, 1)
    undrawn.rule(case, "false", forged_residual=True)
    assert 1 not in finish(undrawn)
    (judgement,) = (one for one in undrawn.record(1).judged if one.case == case)
    assert (judgement.outcome, judgement.forged_residual) == ("false", True)
    assert [(one.round, one.number) for one in undrawn.record(1).retracted] == [(0, 1)]


def test_two_cases_about_one_unit_are_decided_each_for_itself(undrawn: Any) -> None:
    honest, fault = undrawn.chain.open_case(0, 1, 0), accuse(undrawn, 1)
    undrawn.rule(honest, "passed")
    undrawn.rule(fault, "false")
    assert outcomes(undrawn) == {honest: "passed", fault: "false"}
    assert 1 not in finish(undrawn), "right in one segment is not right in the other"


def test_a_case_about_nobodys_unit_or_a_segment_that_is_not_there_changes_nothing(undrawn: Any) -> None:
    cases = [undrawn.chain.open_case(0, 99, 0), undrawn.chain.open_case(0, 1, undrawn.manifest.segments)]
    for case in cases:
        undrawn.rule(case, "passed")
    finish(undrawn)
    assert undrawn.decisions == []
    assert declared(undrawn) == []


# The epoch waits


def test_the_epoch_waits_for_an_open_case_across_a_restart(undrawn: Any) -> None:
    case = accuse(undrawn, 1)
    undrawn.mine(200)
    assert 0 in undrawn.state.judging, "however long the jury takes"
    undrawn.restart()
    assert 0 in undrawn.state.judging
    assert undrawn.decisions == []
    undrawn.rule(case, "false")
    assert outcomes(undrawn) == {case: "false"}
    undrawn.restart()
    assert len(undrawn.decisions) == 1
    assert 1 not in finish(undrawn)


def test_no_epoch_waits_for_a_case_that_came_too_late_for_its_pay(undrawn: Any) -> None:
    undrawn.mine(1 + undrawn.manifest.deadlines.appeal)
    case = accuse(undrawn, 1)
    assert 0 not in undrawn.state.judging
    unit = undrawn.manifest.pay.unit_wei
    assert finish(undrawn)[1] == 2 * unit, "its case is still open"
    undrawn.rule(case, "false")
    assert undrawn.chain.lost[1], "it is the stake that it costs"
    assert undrawn.decisions == []


def test_a_case_too_late_for_its_unit_forfeits_what_is_unvested_when_the_jury_rules(
    make_world: MakeWorld,
) -> None:
    paid = {}
    for when in ("ruled while round 1 lasts", "ruled after the last epoch"):
        pay = {"epoch_rounds": 1, "vest_epochs": 1}
        world = make_world(rounds=2, verification=NOBODY_DRAWN, deadlines=DEADLINES, pay=pay)
        world.open()
        world.commit(0)
        world.reveal(0)
        world.mine(1 + world.manifest.deadlines.appeal)
        case = accuse(world, 1)
        assert 0 not in world.state.judging, "its own pay is decided"
        if when == "ruled while round 1 lasts":
            world.rule(case, "false")
            world.restart()
        paid[when] = finish(world).get(1, 0)
    assert paid == {
        "ruled while round 1 lasts": 0,
        "ruled after the last epoch": 2 * world.manifest.pay.unit_wei,
    }


def test_the_last_block_in_time_and_the_first_too_late(make_world: MakeWorld) -> None:
    found = {}
    for late in (0, 1):
        world = make_world(rounds=2, verification=NOBODY_DRAWN, deadlines=DEADLINES)
        world.open()
        world.commit(0)
        world.reveal(0)
        last = world.chain.anchor(0) + 1 + world.manifest.deadlines.appeal
        world.mine(last - world.chain.height - 1 + late)
        world.chain.open_case(0, 1, 0)
        world.mine()
        found[late] = 0 in world.state.judging
    assert found == {0: True, 1: False}


def test_the_summary_names_the_jury_and_then_the_time_for_disputes(make_world: MakeWorld) -> None:
    world = make_world(rounds=1, verification=NOBODY_DRAWN, deadlines=DEADLINES)
    world.open()
    world.commit(0)
    world.reveal(0)
    world.mine()
    assert summarize(world.state, world.chain).phase == "disputes"
    case = accuse(world, 1)
    found = summarize(world.state, world.chain)
    assert (found.phase, found.detail) == ("jury", "1 cases are before the jury")
    world.rule(case, "passed")
    assert summarize(world.state, world.chain).phase == "disputes"
    world.mine(3)
    assert summarize(world.state, world.chain).phase == "settling"


# Rulings on what verifiers have judged


def test_an_owner_contests_a_void_unit_and_is_paid(drawn: Any) -> None:
    say(drawn, REJECTED, opened=True)
    case = contest(drawn)
    assert not drawn.wanted(Accuse), "void takes no stake"
    drawn.rule(case, "passed")
    assert outcomes(drawn) == {0: "void", case: "passed"}
    assert finish(drawn)[1] == 2 * drawn.manifest.pay.unit_wei


def test_a_contest_that_the_jury_finds_false_costs_the_epoch_and_the_stake(drawn: Any) -> None:
    say(drawn, REJECTED, opened=True)
    drawn.rule(contest(drawn), "false")
    assert drawn.chain.lost[1]
    assert 1 not in finish(drawn)


def test_where_the_jury_hangs_the_verdicts_stand(drawn: Any) -> None:
    say(drawn, REJECTED, opened=True)
    drawn.rule(contest(drawn), "unjudged")
    assert finish(drawn)[1] == drawn.manifest.pay.unit_wei, "round 0 is unpaid, round 1 is not"


def test_what_was_not_opened_to_verifiers_goes_before_the_jury(drawn: Any) -> None:
    say(drawn, REJECTED)
    (accusation,) = drawn.wanted(Accuse)
    assert (accusation.number, accusation.refusal) == (1, True)
    (case,) = drawn.chain.opened
    drawn.rule(case, "false")
    assert drawn.chain.lost[1]
    assert 1 not in finish(drawn)


def test_who_opens_to_the_jury_what_it_did_not_open_before_is_paid(drawn: Any) -> None:
    say(drawn, REJECTED)
    (case,) = drawn.chain.opened
    drawn.rule(case, "passed")
    assert outcomes(drawn) == {0: "void", case: "passed"}
    assert finish(drawn)[1] == 2 * drawn.manifest.pay.unit_wei


def test_a_refusal_that_no_jury_decides_costs_the_epoch(drawn: Any) -> None:
    say(drawn, REJECTED)
    (case,) = drawn.chain.opened
    drawn.rule(case, "unjudged")
    assert 1 not in finish(drawn)


def test_a_jury_that_finds_a_unit_void_could_fetch_it(drawn: Any) -> None:
    say(drawn, REJECTED, opened=True)
    drawn.rule(contest(drawn), "void")
    assert finish(drawn)[1] == drawn.manifest.pay.unit_wei, "round 0 is unpaid, round 1 is not"


def test_a_unit_that_nobody_judged_is_paid_once_the_jury_passes_it(drawn: Any) -> None:
    drawn.mine(drawn.manifest.deadlines.verify * 3 + 2)
    case = contest(drawn)
    assert outcomes(drawn) == {0: "unjudged"}
    drawn.rule(case, "passed")
    assert finish(drawn)[1] == 2 * drawn.manifest.pay.unit_wei


def test_the_jury_acquits_whom_verifiers_proved_false(drawn: Any) -> None:
    say(drawn, PROVEN_FALSE)
    (case,) = drawn.chain.opened
    drawn.mine(100)
    assert 0 in drawn.state.judging
    drawn.rule(case, "passed")
    assert outcomes(drawn) == {0: "false", case: "passed"}
    assert not drawn.chain.lost
    assert finish(drawn)[1] == 2 * drawn.manifest.pay.unit_wei


def test_a_hung_jury_leaves_who_was_proven_false_its_stake_and_no_pay(drawn: Any) -> None:
    say(drawn, PROVEN_FALSE)
    (case,) = drawn.chain.opened
    drawn.rule(case, "unjudged")
    assert not drawn.chain.lost
    assert 1 not in finish(drawn)


def test_an_acquitted_residual_is_not_taken_back_from_its_chain(drawn: Any) -> None:
    say(drawn, PROVEN_FALSE, forged=True)
    (case,) = drawn.chain.opened
    drawn.rule(case, "passed")
    assert finish(drawn)[1] == 2 * drawn.manifest.pay.unit_wei
    assert drawn.record(1).retracted == ()


def test_a_unit_proven_false_that_nobody_brings_before_the_jury_is_settled_when_its_time_is_over(
    drawn: Any,
) -> None:
    drawn.hold = {Accuse}
    say(drawn, PROVEN_FALSE)
    draw, deadlines = first(drawn), drawn.manifest.deadlines
    last = drawn.chain.anchor(0) + 1 + draw.closes_after(drawn.manifest) + deadlines.appeal
    drawn.mine(last - drawn.chain.height)
    assert 0 in drawn.state.judging
    drawn.mine()
    assert 0 not in drawn.state.judging
    assert 1 not in finish(drawn)


def test_the_accusation_of_what_was_proven_false_late_still_counts(drawn: Any) -> None:
    draw = first(drawn)
    drawn.verdict(0, draw, draw.verifiers[0], PROVEN_FALSE)
    drawn.mine(drawn.manifest.deadlines.verify + 2)  # the second rank stays silent
    drawn.verdict(0, draw, draw.verifiers[2], PROVEN_FALSE)
    (case,) = drawn.chain.opened
    assert drawn.chain.opened[case].block > drawn.chain.anchor(0) + 1 + drawn.manifest.deadlines.appeal
    drawn.rule(case, "passed")
    assert finish(drawn)[1] == 2 * drawn.manifest.pay.unit_wei


def test_an_accusation_ruled_before_the_verdicts_overrides_them_all_the_same(drawn: Any) -> None:
    case = drawn.chain.open_case(0, 1, first(drawn).segment)
    drawn.rule(case, "passed")
    say(drawn, REJECTED)
    assert list(outcomes(drawn).items()) == [(case, "passed"), (0, "void")]
    assert finish(drawn)[1] == 2 * drawn.manifest.pay.unit_wei


def test_a_passed_unit_is_not_contested(drawn: Any) -> None:
    drawn.judge_all(0, but=lambda draw: draw.number != 1)
    case = drawn.chain.open_case(0, 1, 0, contests=True)
    drawn.mine()
    assert 0 not in drawn.state.judging or not drawn.state.judging[0].cases
    drawn.rule(case, "false")
    assert outcomes(drawn) == {0: "passed"}


# Openings


def opening(world: Any, case: int, segment: int = 1) -> Opening:
    said = {name: "dd" * 32 for name, one in Opening.model_fields.items() if one.is_required()}
    commitment = world.state.judging[0].commitments[1].id
    return Opening.model_validate(
        said | {"number": 1, "case": case, "commitment": commitment, "segment": segment}
    )


def test_what_a_case_asks_for_is_opened_in_public(undrawn: Any) -> None:
    case = accuse(undrawn, 1)
    undrawn.hear(1, 0, opening(undrawn, case))
    assert [one.body.case for one in undrawn.wanted(Export)[-1].dossier.openings] == [case]


def test_an_opening_of_another_segment_than_the_accused_one_is_refused(undrawn: Any) -> None:
    case = accuse(undrawn, 1)
    undrawn.hear(1, 0, opening(undrawn, case, segment=0))
    assert undrawn.refusals() == ["about segment 0 instead of 1"]


def test_an_opening_waits_for_the_case_that_asks_for_it(undrawn: Any) -> None:
    undrawn.mine()
    undrawn.hear(1, 0, opening(undrawn, 1))
    assert not undrawn.wanted(Export)[-1].dossier.openings
    assert undrawn.refusals() == []
    accuse(undrawn, 1)
    assert [one.body.case for one in undrawn.wanted(Export)[-1].dossier.openings] == [1]

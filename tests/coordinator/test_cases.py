"""Accusations and contests, as scenarios on a simulated chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coordinator.state import SettleAppeal, Slash
from protocol.manifest import SamplingSchedule
from protocol.messages import PASSED, PROVEN_FALSE, REJECTED
from tests.coordinator.conftest import verification

MakeWorld = Callable[..., Any]
NOBODY_DRAWN = verification(
    schedule=SamplingSchedule(fresh_probability=0.0, floor_probability=0.0), witnesses=0
)


@pytest.fixture
def undrawn(make_world: MakeWorld) -> Any:
    """A run in which no draw picks anybody, with its first round anchored."""
    world = make_world(rounds=2, verification=NOBODY_DRAWN)
    world.open()
    world.commit(0)
    world.reveal(0)
    return world


def accuse(world: Any, number: int, accuser: int = 2) -> Any:
    """Accuse a unit of round 0; return the case as verifiers see it."""
    case = world.chain.appeal(0, number, 1, accuser)
    world.mine()
    (found,) = (one for one in world.state.judging[0].appeals if one.case == case)
    return found


def judge(world: Any, case: Any, outcome: int) -> None:
    for verifier in case.verifiers[:2]:
        world.verdict(0, case, verifier, outcome)


def finish(world: Any) -> dict[int, int]:
    """Play the run to its end; return what each number is owed."""
    numbers = [one.number for one in world.chain.roster(1)]
    world.commit(1, numbers)
    world.reveal(1, numbers)
    world.mine(60)
    assert world.chain.final is not None
    entries = world.statements["rewards", 1, 0].body.entries
    wallets = {one.wallet: number for number, one in world.chain.members.items()}
    return {wallets[entry.account]: entry.cumulative_wei for entry in entries}


def test_an_accused_unit_that_is_false_is_slashed_although_no_draw_picked_it(undrawn: Any) -> None:
    case = accuse(undrawn, 1)
    judge(undrawn, case, PROVEN_FALSE)
    assert [(one.round, one.number) for one in undrawn.wanted(Slash)] == [(0, 1)]
    (settled,) = undrawn.wanted(SettleAppeal)
    assert (settled.case, settled.outcome) == (case.case, PROVEN_FALSE)
    assert {one.body.case for one in settled.verdicts} == {case.case}
    pay = undrawn.manifest.pay
    owed = finish(undrawn)
    assert 1 not in owed
    assert [owed[judge] for judge in case.verifiers[:2]] == [pay.verdict_wei] * 2
    declared = [one for one in undrawn.record(1).judged if one.case]
    assert [(one.number, one.segment, one.outcome) for one in declared] == [(1, 1, "false")]


def test_an_accused_unit_that_is_honest_is_paid_and_the_bond_is_settled(undrawn: Any) -> None:
    case = accuse(undrawn, 1)
    judge(undrawn, case, PASSED)
    assert not undrawn.wanted(Slash)
    (settled,) = undrawn.wanted(SettleAppeal)
    assert settled.outcome == PASSED
    assert finish(undrawn)[1] == 2 * undrawn.manifest.pay.unit_wei


def test_an_accusation_that_nobody_judges_changes_nothing(undrawn: Any) -> None:
    accuse(undrawn, 1)
    assert finish(undrawn)[1] == 2 * undrawn.manifest.pay.unit_wei
    assert not undrawn.wanted(SettleAppeal), (
        "there are no verdicts; the ledger gives the bond back after a time"
    )


def test_the_epoch_waits_for_an_open_appeal_across_a_restart(undrawn: Any) -> None:
    case = accuse(undrawn, 1)
    undrawn.mine(3)
    assert 0 in undrawn.state.judging, "nothing else is open"
    first, second = case.verifiers[:2]
    undrawn.verdict(0, case, first, PROVEN_FALSE)
    undrawn.restart()
    undrawn.verdict(0, case, second, PROVEN_FALSE)
    assert {(one.number, one.case): one.outcome for one in undrawn.decisions} == {(1, case.case): "false"}
    undrawn.restart()
    assert len(undrawn.decisions) == 1
    assert 1 not in finish(undrawn)


def test_an_owner_contests_a_void_unit_and_is_paid(make_world: MakeWorld) -> None:
    world = make_world(rounds=2)
    world.open()
    world.commit(0)
    world.reveal(0)
    world.mine()
    world.judge_all(0, but=lambda draw: draw.number == 1)
    draw = next(one for one in world.draws(0) if one.number == 1)
    judge(world, draw, REJECTED)
    case_number = world.chain.appeal(0, 1, draw.segment, appellant=1)
    world.mine()
    (case,) = world.state.judging[0].appeals
    assert case.case == case_number
    assert case.verifiers[0] not in draw.verifiers[:2], (
        "a verifier that has not judged it yet has the first word"
    )
    judge(world, case, PASSED)
    world.mine(3)
    world.play(1)
    world.mine(40)
    outcomes = {(one.round, one.number, one.case): one.outcome for one in world.decisions}
    assert (outcomes[0, 1, 0], outcomes[0, 1, case_number]) == ("void", "passed")
    entries = world.statements["rewards", 1, 0].body.entries
    owed = {int(entry.account, 16): entry.cumulative_wei for entry in entries}
    assert owed[1] == 2 * world.manifest.pay.unit_wei


def test_a_passed_unit_is_not_contested(make_world: MakeWorld) -> None:
    world = make_world(rounds=2)
    world.open()
    world.commit(0)
    world.reveal(0)
    world.mine()
    world.judge_all(0)
    draw = next(one for one in world.draws(0) if one.number == 1)
    world.chain.appeal(0, 1, draw.segment, appellant=1)
    world.mine()
    assert 0 not in world.state.judging or not world.state.judging[0].appeals

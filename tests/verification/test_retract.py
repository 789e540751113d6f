"""What is taken back, when, and in which order; and that everybody ends with the same parameters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Malformed
from protocol.messages import PROVEN_FALSE, Judgement, Retraction, RoundRecord, UnitRecord
from tests.verification.mischief import forged_residual, other_rate
from tests.verification.testbed import Testbed, wallet
from training.model import initial_parameters
from training.outer import contribution, load_parameters
from verification.audit import audit
from verification.blobs import find_blob
from verification.commit import carries_on
from verification.lateness import in_force
from verification.retract import chained, moving_units, moving_updates, sources, waiting


def record(
    *numbers: int,
    judged: tuple[Judgement, ...] = (),
    retracted: tuple[tuple[int, int], ...] = (),
    unmerged: tuple[int, ...] = (),
) -> RoundRecord:
    units = [
        UnitRecord(
            number=number,
            commitment="ab" * 32,
            merged=number not in unmerged,
            blob=f"{number:02x}" * 32,
            symbols="cd" * 32,
        )
        for number in numbers
    ]
    named = tuple(Retraction(round=round_, number=number) for round_, number in retracted)
    return RoundRecord(parameters="ab" * 32, units=tuple(units), judged=judged, retracted=named)


def judgement(round_: int, number: int, outcome: str = "void", *, forged: bool = False) -> Judgement:
    return Judgement.model_validate(
        {"round": round_, "number": number, "segment": 0, "outcome": outcome, "forged_residual": forged}
    )


def keys(found: tuple[Retraction, ...]) -> list[tuple[int, int]]:
    return [(one.round, one.number) for one in found]


def test_void_and_false_units_wait_oldest_first_and_others_do_not() -> None:
    outcomes = [(1, 3, "void"), (0, 2, "false"), (0, 1, "passed"), (1, 1, "unjudged"), (0, 3, "void")]
    now = record(1, 2, 3, judged=tuple(judgement(*one) for one in outcomes))
    assert keys(waiting([record(1, 2, 3), record(1, 2, 3), now])) == [(0, 2), (0, 3), (1, 3)]


def test_a_unit_that_was_not_merged_has_nothing_to_take_back() -> None:
    now = record(1, judged=(judgement(0, 2), judgement(0, 9)))
    assert waiting([record(1, 2, unmerged=(2,)), now]) == ()


def test_what_was_taken_back_waits_no_more_and_what_did_not_fit_still_does() -> None:
    old = record(1, 2, 3)
    first = record(judged=(judgement(0, 1), judgement(0, 2)), retracted=((0, 1),))
    assert keys(waiting([old, first, record()])) == [(0, 2)]
    assert keys(waiting([old, first, record(retracted=((0, 2),))])) == [(0, 2)], "its own say is not read"


def test_a_round_that_came_too_late_neither_merged_nor_took_back() -> None:
    old = record(1, 2)
    late = record(1, 2, judged=(judgement(0, 1),), retracted=((0, 1),))
    now = record(judged=(judgement(1, 2),))
    assert keys(waiting([old, late, now])) == [(1, 2)]
    assert keys(waiting([old, in_force(late, void=True), now])) == [(0, 1)]


def test_a_forged_residual_takes_its_whole_chain_and_no_other() -> None:
    rounds = [
        record(1, 2),
        record(2),  # number 1 was away and starts from zero in round 2
        record(1, 2),
        record(1, 2),  # forged here
        record(1, 2),  # carried on, beside the judgement
        record(1, 2, judged=(judgement(3, 1, "false", forged=True),)),  # and once more
        record(1, 2),  # starts from zero
    ]
    chain = [(2, 1), (3, 1), (4, 1), (5, 1)]
    assert chained(rounds, [(3, 1)]) == frozenset(chain)
    assert keys(waiting(rounds[:6])) == chain[:3]
    rounds[5] = rounds[5].model_copy(
        update={"retracted": tuple(Retraction(round=r, number=n) for r, n in chain[:3])}
    )
    assert keys(waiting(rounds)) == chain[3:], "what the record itself merged follows in the next"
    assert keys(waiting([*rounds, record()])) == chain[3:]


def test_a_doubt_before_it_ends_a_chain() -> None:
    rounds = [record(1), record(1, judged=(judgement(0, 1),)), record(1), record(1)]
    now = record(judged=(judgement(2, 1, "false", forged=True),))
    assert keys(waiting([*rounds, now])) == [(0, 1), (2, 1), (3, 1)]


def test_judgements_on_rounds_that_are_not_there_are_no_crash() -> None:
    now = record(1, judged=(judgement(7, 1, "false", forged=True), judgement(1, 1), judgement(2, 1)))
    assert waiting([record(1), now]) == ()


@given(
    st.lists(
        st.tuples(st.frozensets(st.integers(1, 3)), st.frozensets(st.integers(1, 3))), min_size=1, max_size=7
    ),
    st.integers(0, 6),
    st.integers(1, 3),
)
def test_a_chain_is_what_carries_on_around_the_forged_unit(
    lived: list[tuple[frozenset[int], frozenset[int]]], at: int, number: int
) -> None:
    records = [
        record(*sorted(listed), judged=tuple(judgement(0, one) for one in sorted(doubted)))
        for listed, doubted in lived
    ]
    at = min(at, len(records) - 1)
    found = {round_ for round_, _ in chained(records, [(at, number)])}
    assert at in found
    assert found == set(range(min(found), max(found) + 1))
    links = [carries_on(number, before) for before in records]
    assert all(links[round_] for round_ in range(min(found), max(found)))
    assert min(found) == 0 or not links[min(found) - 1]
    assert max(found) == len(records) - 1 or not links[max(found)]


def test_an_aggregation_needs_all_updates_of_the_old_rounds() -> None:
    records = {0: record(1, 2, 3, unmerged=(1,)), 1: record(1, 2)}
    named = tuple(Retraction(round=round_, number=number) for round_, number in ((0, 3), (1, 1), (1, 2)))
    old, newer = sources(records, named)
    assert (old.updates, old.taken) == (moving_updates(moving_units(records[0])).updates, (1,))
    assert (newer.updates, newer.taken) == (("01" * 32, "02" * 32), (0, 1))
    for wrong in (Retraction(round=0, number=1), Retraction(round=2, number=1)):
        with pytest.raises(Malformed, match="taken back"):
            sources(records, (wrong,))


# whole rounds


def run_with(
    make_bed: Callable[..., Testbed], cheat: object, at: int, rounds: int, **changes: object
) -> Testbed:
    bed = make_bed(rounds=rounds, **changes)
    bed.play_run({(at, 2): cheat})  # type: ignore[dict-item]
    return bed


def test_a_forged_residual_costs_all_that_hangs_together_with_it(make_bed: Callable[..., Testbed]) -> None:
    bed = run_with(make_bed, {"symbols": forged_residual}, 1, 4)
    assert bed.reports[1, 2].outcome == PROVEN_FALSE
    assert bed.records[2].body.judged[1].forged_residual
    assert keys(bed.records[2].body.retracted) == [(0, 2), (1, 2)]
    assert keys(bed.records[3].body.retracted) == [(2, 2)], (
        "made beside the judgement, on the forged residual"
    )
    assert bed.contributors == (1, 2, 3)
    pay = {entry.account: entry.cumulative_wei for entry in bed.settlement.rewards[-1].body.entries}
    assert pay[wallet(1)] == 4 * bed.manifest.pay.unit_wei
    assert pay.get(wallet(2), 0) == 0, "the chain goes unpaid in the epoch after, too"
    report = audit(bed.archive, bed.chain, bed.run, find_blob([bed.archive.blobs]))
    checks = {check.name: check for check in report.checks}
    assert {name for name, check in checks.items() if not check.ok} <= {"replays"}
    assert checks["retractions"].count == 3


def test_the_parameters_end_as_if_only_the_others_had_been_summed(make_bed: Callable[..., Testbed]) -> None:
    bed = run_with(make_bed, other_rate(0, 0.5) | other_rate(1, 0.5) | other_rate(2, 0.5), 0, 2)
    manifest = bed.manifest
    assert keys(bed.records[1].body.retracted) == [(0, 2)]
    start = initial_parameters(manifest.model, seed=1).astype(np.float64)
    gradient = np.zeros_like(start)
    for round_ in range(2):
        updates = bed.updates(bed.records[round_].body)
        for place in range(len(updates)):
            if (round_, place) != (0, 1):  # number 2
                share = contribution(updates, place)
                gradient[share.positions] += np.ldexp(share.integers.astype(np.float64), share.grid)
    end = load_parameters(manifest, bed.public.get(bed.parameters, max_size=1 << 24)).parameters
    np.testing.assert_allclose(end, start - manifest.outer.lr * gradient, rtol=1e-6, atol=1e-8)

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.canonical import ZERO_DIGEST
from protocol.errors import Malformed
from protocol.manifest import CPU_EXACT, CPU_FP32, PayConfig, RunManifest, SamplingSchedule
from protocol.merkle import reward_tree
from protocol.messages import (
    PASSED,
    PROVEN_FALSE,
    REJECTED,
    Judgement,
    RoundRecord,
    UnitRecord,
    Verdict,
)
from protocol.state import NOTHING_CARRIED
from tests.verification.testbed import Testbed
from verification.commit import Carried, carried, check_commitment
from verification.judge import contradiction, disagreement, grade, is_disputed
from verification.lateness import in_force
from verification.merge import check_published, check_reveal, copied_from
from verification.sample import Draw, draws
from verification.settle import (
    EpochEarnings,
    JudgedCase,
    SettledRound,
    earned_in_epoch,
    epoch_earnings,
    forfeited_in,
    max_payout,
    reward_entries,
    settled_round,
    vested,
)
from verification.unit import ReplayReport

DIGEST = st.binary(min_size=32, max_size=32).map(bytes.hex)
NUMBERS = st.lists(st.integers(1, 200), min_size=1, max_size=20, unique=True)
RUN = "ab" * 32


def with_verification(manifest: RunManifest, **changes: object) -> RunManifest:
    return manifest.model_copy(update={"verification": manifest.verification.model_copy(update=changes)})


def verdict(outcome_: int, judge: int, number: int = 1) -> Verdict:
    return Verdict.model_validate(
        {
            "number": number,
            "verifier": judge,
            "outcome": outcome_,
            "commitment": "ab" * 32,
            "opening": None,
            "segment": 0,
            "profile": "cpu-fp32",
            "reason": "",
            "distance": 0.0,
            "tensor": "",
            "replay_cpu_s": 0.0,
        }
    )


# sampling


def sampled(manifest: RunManifest, probability: float) -> RunManifest:
    return with_verification(manifest, schedule=SamplingSchedule(fresh_probability=probability))


def listed(numbers: Iterable[int]) -> list[UnitRecord]:
    return [UnitRecord(number=number, commitment="ab" * 32, merged=True) for number in numbers]


@given(DIGEST, st.integers(0, 1000), NUMBERS, NUMBERS, st.randoms(use_true_random=False))
def test_anybody_draws_the_same_whatever_the_order(
    manifest: RunManifest,
    beacon: str,
    round_: int,
    numbers: list[int],
    judges: list[int],
    shuffle: random.Random,
) -> None:
    manifest = sampled(manifest, 0.5)
    found = draws(manifest, RUN, beacon, round_, listed(numbers), judges)
    shuffle.shuffle(numbers)
    shuffle.shuffle(judges)
    assert draws(manifest, RUN, beacon, round_, listed(numbers), judges) == found
    assert [draw.number for draw in found] == sorted(draw.number for draw in found)
    for draw in found:
        assert 0 <= draw.segment < manifest.segments
        assert sorted(draw.verifiers) == sorted(judges)


@given(DIGEST, NUMBERS, NUMBERS)
def test_probability_zero_draws_nobody_and_one_draws_all(
    manifest: RunManifest, beacon: str, numbers: list[int], judges: list[int]
) -> None:
    nobody = sampled(manifest, 0.0)
    everybody = sampled(manifest, 1.0)
    assert draws(nobody, RUN, beacon, 0, listed(numbers), judges) == ()
    assert [one.number for one in draws(everybody, RUN, beacon, 0, listed(numbers), judges)] == sorted(
        numbers
    )


@given(DIGEST, NUMBERS, st.integers(201, 300))
def test_who_else_commits_changes_nobody_s_draw(
    manifest: RunManifest, beacon: str, numbers: list[int], newcomer: int
) -> None:
    manifest = sampled(manifest, 0.5)
    before = draws(manifest, RUN, beacon, 3, listed(numbers), [1, 2, 3])
    after = draws(manifest, RUN, beacon, 3, listed([*numbers, newcomer]), [1, 2, 3])
    assert tuple(one for one in after if one.number != newcomer) == before


def test_the_share_drawn_is_the_probability_and_segments_and_judges_spread(manifest: RunManifest) -> None:
    manifest = sampled(manifest, 0.2)
    found = draws(manifest, RUN, "cd" * 32, 0, listed(range(1, 4001)), [1, 2, 3, 4])
    assert 700 < len(found) < 900
    for segment in range(manifest.segments):
        assert sum(draw.segment == segment for draw in found) > len(found) / manifest.segments * 0.8
    for judge in (1, 2, 3, 4):
        assert sum(draw.verifiers[0] == judge for draw in found) > len(found) / 4 * 0.8


def test_a_silent_verifier_is_replaced_by_the_next_rank(manifest: RunManifest) -> None:
    draw, wait = Draw(1, 0, (7, 8, 9, 10)), manifest.deadlines.verify
    assert [judge for judge in draw.verifiers if draw.due(manifest, judge, 0, 0)] == [7, 8]
    assert draw.due(manifest, 9, wait, 1)
    assert not draw.due(manifest, 9, wait - 1, 1)
    assert not draw.due(manifest, 9, wait, 2)
    assert not draw.due(manifest, 10, wait, 1)
    assert draw.due(manifest, 10, 2 * wait, 1)
    assert not draw.due(manifest, 11, 9 * wait, 0)
    assert draw.closes_after(manifest) == 4 * wait
    assert Draw(1, 0, (7,)).closes_after(manifest) == 2 * wait


def test_the_next_rank_takes_the_place_of_an_inconclusive_one_at_once(manifest: RunManifest) -> None:
    draw, wait = Draw(1, 0, (7, 8, 9, 10)), manifest.deadlines.verify
    at_once = [judge for judge in draw.verifiers if draw.due(manifest, judge, 0, 0, {7})]
    assert at_once == [7, 8, 9]
    assert draw.due(manifest, 10, 0, 0, {7, 8})
    assert not draw.due(manifest, 10, wait - 1, 0, {7})
    assert draw.due(manifest, 10, wait, 0, {7})
    # A later rank with nothing to say makes room for nobody before it.
    assert not draw.due(manifest, 9, 0, 0, {10})
    assert not draw.due(manifest, 9, 0, 2, {7})


# judging


@pytest.mark.parametrize("fresh", [False, True])
def test_a_distance_is_disputed_by_the_profile_and_graded_by_exact_arithmetic(fresh: bool) -> None:
    bound, proven = CPU_FP32.bound(fresh), CPU_FP32.slash_bound(fresh)
    assert not any(is_disputed(CPU_FP32, one, fresh=fresh) for one in (0.0, bound))
    assert all(is_disputed(CPU_FP32, one, fresh=fresh) for one in (bound * 1.01, proven, 1e30))
    assert [grade(CPU_FP32, one, fresh=fresh) for one in (0.0, bound, proven)] == [REJECTED] * 3
    assert [grade(CPU_FP32, one, fresh=fresh) for one in (proven * 1.01, 1e30)] == [PROVEN_FALSE] * 2


def test_a_segment_from_zero_moments_may_be_farther_away() -> None:
    between = (CPU_FP32.tolerance + CPU_FP32.fresh_tolerance) / 2
    assert is_disputed(CPU_FP32, between, fresh=False)
    assert not is_disputed(CPU_FP32, between, fresh=True)
    assert CPU_FP32.slash_bound(fresh=True) > CPU_FP32.slash_bound(fresh=False) == CPU_FP32.slash_tolerance


def test_exact_arithmetic_disputes_and_proves_any_difference() -> None:
    for fresh in (False, True):
        assert not is_disputed(CPU_EXACT, 0.0, fresh=fresh)
        assert is_disputed(CPU_EXACT, 1e-30, fresh=fresh)
        assert grade(CPU_EXACT, 1e-30, fresh=fresh) == PROVEN_FALSE


def test_a_verdict_is_compared_with_our_replay() -> None:
    report = ReplayReport(PROVEN_FALSE, "far", 0.5, "norm", exact="ab" * 32, exact_distance=0.5)
    same = verdict(PROVEN_FALSE, 1).model_copy(
        update={"distance": 0.4, "exact": "ab" * 32, "exact_distance": 0.5 * (1 + 1e-9)}
    )
    assert disagreement(same, report) == ""
    for changes, difference in (
        ({"outcome": REJECTED}, "says rejected, our replay says proven false"),
        ({"exact": "cd" * 32}, "names the exact reference cdcd"),
        ({"exact": None}, "names the exact reference none"),
        ({"exact_distance": 0.50001}, "is 0.50001 from the exact reference"),
    ):
        assert difference in disagreement(same.model_copy(update=changes), report)


# carrying and committing


def record(*judged: Judgement) -> RoundRecord:
    units = tuple(UnitRecord(number=number, commitment="cd" * 32, merged=False) for number in (1, 2))
    return RoundRecord(parameters="ab" * 32, units=units, judged=judged)


def test_a_peer_carries_what_it_committed_until_a_unit_is_found_void_or_false(bed: Testbed) -> None:
    body = bed.make(0, 1).commitment.body
    roots = Carried.after(body)
    assert carried(1, body, record()) == roots
    assert carried(1, body, in_force(record(), void=True)) == Carried(), "it could never have been drawn"
    assert carried(1, None, record()) == carried(1, body, None) == Carried(NOTHING_CARRIED, NOTHING_CARRIED)
    for verdict_, expected in {
        "passed": roots,
        "unjudged": roots,
        "void": Carried(),
        "false": Carried(),
    }.items():
        judgement = Judgement.model_validate({"round": 0, "number": 1, "segment": 0, "outcome": verdict_})
        assert carried(1, body, record(judgement)) == expected
        assert carried(1, body, record(judgement.model_copy(update={"number": 2}))) == roots


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"parameters": "cd" * 32}, "other parameters"),
        ({"assignment": "cd" * 32}, "other batches"),
        ({"moments_before": "cd" * 32}, "chain of carried"),
        ({"residual_before": "cd" * 32}, "chain of carried"),
        ({"segments": ("cd" * 32,) * 3}, "3 segment roots instead of 4"),
    ],
)
def test_what_is_public_of_a_commitment_is_checked(
    bed: Testbed, changes: dict[str, object], reason: str
) -> None:
    body = bed.make(0, 1).commitment.body
    expected = {"parameters": body.parameters, "assignment": body.assignment}
    check_commitment(bed.manifest, 0, body, **expected, expected=Carried())
    with pytest.raises(Malformed, match=reason):
        check_commitment(bed.manifest, 0, body.model_copy(update=changes), **expected, expected=Carried())


def test_a_run_of_fresh_moments_carries_none_into_or_out_of_a_round(bed: Testbed) -> None:
    inner = bed.manifest.inner.model_copy(update={"moments": "fresh"})
    manifest = bed.manifest.model_copy(update={"inner": inner})
    body = bed.make(0, 1).commitment.body.model_copy(update={"moments_after": NOTHING_CARRIED})
    expected = {"parameters": body.parameters, "assignment": body.assignment}
    check_commitment(manifest, 0, body, **expected, expected=Carried())
    for field, reason in (("moments_after", "carries moments out"), ("moments_before", "chain of carried")):
        forged = body.model_copy(update={field: "cd" * 32})
        with pytest.raises(Malformed, match=reason):
            check_commitment(manifest, 0, forged, **expected, expected=Carried())


FAR, NEAR = CPU_FP32.slash_tolerance * 2, CPU_FP32.slash_tolerance / 2


@pytest.mark.parametrize(
    ("outcome_", "opened", "distance", "exact", "exact_distance", "reason"),
    [
        (PASSED, False, 0.0, False, 0.0, "nothing was opened"),
        (PROVEN_FALSE, False, 0.0, False, 0.0, "nothing was opened"),
        (REJECTED, False, 0.0, False, 0.0, ""),
        (PASSED, True, 0.0, False, 0.0, ""),
        (PASSED, True, 1e-6, False, 0.0, ""),
        (PROVEN_FALSE, True, 0.0, False, 0.0, ""),
        (REJECTED, True, 0.0, False, 0.0, "rejected without a distance"),
        (REJECTED, True, 1e-6, False, 0.0, "does not give its outcome"),
        (PROVEN_FALSE, True, 1e-6, False, 0.0, "does not give its outcome"),
        (PROVEN_FALSE, True, 0.5, False, 0.0, "no exact replay is named"),
        (PASSED, True, 0.5, False, 0.0, "no exact replay is named"),
        (PROVEN_FALSE, True, 1e-6, True, 0.5, "within tolerance"),
        (PASSED, True, 0.0, False, 0.5, "within tolerance"),
        (PROVEN_FALSE, True, 0.5, True, FAR, ""),
        (PROVEN_FALSE, True, 0.5, True, NEAR, "from exact arithmetic does not give its outcome"),
        (REJECTED, True, 0.5, True, FAR, "from exact arithmetic does not give its outcome"),
        (PASSED, True, 0.5, True, NEAR, "from exact arithmetic does not give its outcome"),
        (REJECTED, True, 0.5, True, NEAR, ""),
    ],
)
def test_a_verdict_that_contradicts_itself_does_not_count(
    bed: Testbed,
    outcome_: int,
    opened: bool,
    distance: float,
    exact: bool,
    exact_distance: float,
    reason: str,
) -> None:
    changes = {
        "segment": 1,
        "opening": "ab" * 32 if opened else None,
        "distance": distance,
        "exact": "ab" * 32 if exact else None,
        "exact_distance": exact_distance,
    }
    said = verdict(outcome_, judge=9).model_copy(update=changes)
    found = contradiction(bed.manifest, bed.make(0, 1).commitment.body, said)
    assert reason in found
    assert bool(found) == bool(reason)


# merging


def test_a_reveal_must_open_its_commitment(bed: Testbed) -> None:
    dossier = bed.play_round(0)
    commitment, reveal = dossier.commitments[0], dossier.reveals[0].body
    check_reveal(commitment, reveal, 1 << 20)
    for changes in ({"salt": "cd" * 32}, {"symbols": "cd" * 32}, {"commitment": "cd" * 32}):
        with pytest.raises(Malformed):
            check_reveal(commitment, reveal.model_copy(update=changes), 1 << 20)
    with pytest.raises(Malformed, match="exceeds"):
        check_reveal(commitment, reveal, 10)


def test_update_bytes_must_be_what_was_revealed(bed: Testbed) -> None:
    dossier = bed.play_round(0)
    reveal, other = dossier.reveals[0].body, dossier.reveals[1].body
    check = partial(check_published, bed.manifest, ZERO_DIGEST, 0)
    blob = bed.public.get(reveal.blob, max_size=1 << 20)
    check(reveal, blob)
    with pytest.raises(Malformed, match="other symbols"):
        check(reveal.model_copy(update={"symbols": other.symbols}), blob)
    for changed in (blob[:-1], blob + bytes(1)):
        with pytest.raises(Malformed, match="another length"):
            check(reveal, changed)
    with pytest.raises(Malformed, match="another length"):
        check(reveal.model_copy(update={"blob_bytes": 1}), blob)
    with pytest.raises(Malformed, match="exceeds"):
        check(reveal.model_copy(update={"blob_bytes": 1 << 20}), bytes(1 << 20))


def test_who_shows_symbols_again_is_a_copy() -> None:
    earlier = {"ab" * 32: (0, 1)}
    assert copied_from("cd" * 32, 2, earlier) == ""
    assert copied_from("ab" * 32, 2, earlier) == "same symbols as number 1 in round 0"
    assert copied_from("ab" * 32, 1, earlier) == "own symbols repeated"


# pay


def units(*merged: int) -> RoundRecord:
    return RoundRecord(
        parameters="ab" * 32,
        units=tuple(UnitRecord(number=number, commitment="ab" * 32, merged=True) for number in merged),
        judged=(),
    )


def test_what_passed_or_was_not_drawn_is_paid_and_what_nobody_judged_is_not(manifest: RunManifest) -> None:
    pay = manifest.pay
    outcomes = {1: "passed", 2: "void", 3: "unjudged"}
    settled = SettledRound(0, units(1, 2, 3, 4), outcomes, [8, 9, 8])  # type: ignore[arg-type]
    assert earned_in_epoch(manifest, [settled]) == {
        1: pay.unit_wei,
        4: pay.unit_wei,
        8: 2 * pay.verdict_wei,
        9: pay.verdict_wei,
    }


def test_a_false_unit_forfeits_the_epoch(manifest: RunManifest) -> None:
    rounds = [SettledRound(0, units(1, 2), {}, []), SettledRound(1, units(1, 2), {1: "false"}, [8])]
    assert earned_in_epoch(manifest, rounds) == {2: 2 * manifest.pay.unit_wei, 8: manifest.pay.verdict_wei}


@pytest.mark.parametrize(
    ("percent", "times", "kept"), [(100, 1, 0), (60, 1, 40), (60, 2, 0), (1, 2, 98), (0, 2, 100)]
)
def test_a_drawn_unit_that_is_not_opened_costs_a_share_of_the_epoch(
    manifest: RunManifest, percent: int, times: int, kept: int
) -> None:
    pay = manifest.pay.model_copy(update={"refusal_percent": percent})
    manifest = manifest.model_copy(update={"pay": pay})
    refusals = [
        SettledRound(round_, units(1, 2), {1: "void"}, [8], frozenset({1})) for round_ in range(times)
    ]
    honest = [SettledRound(round_, units(1, 2), {}, []) for round_ in range(times, 10)]
    earned = earned_in_epoch(manifest, refusals + honest)
    assert earned.get(1, 0) == (10 - times) * pay.unit_wei * kept // 100
    assert (earned[2], earned[8]) == (10 * pay.unit_wei, times * pay.verdict_wei)


def test_a_unit_that_is_void_for_its_distance_costs_only_itself(manifest: RunManifest) -> None:
    rounds = [SettledRound(0, units(1), {1: "void"}, [8, 9]), SettledRound(1, units(1), {}, [])]
    assert earned_in_epoch(manifest, rounds)[1] == manifest.pay.unit_wei


@given(st.lists(st.dictionaries(st.integers(1, 6), st.integers(1, 10**20)), min_size=1, max_size=5))
def test_pay_is_cumulative_sorted_and_never_falls(epochs: list[dict[int, int]]) -> None:
    wallets = {number: "0x" + f"{number * 37 % 256:02x}" * 20 for number in range(1, 7)}
    before: dict[str, int] = {}
    for upto in range(1, len(epochs) + 1):
        entries = reward_entries(epochs[:upto], wallets)
        assert [e.account.lower() for e in entries] == sorted(e.account.lower() for e in entries)
        now = {entry.account: entry.cumulative_wei for entry in entries}
        assert sum(now.values()) == sum(sum(epoch.values()) for epoch in epochs[:upto])
        assert all(now[account] >= amount for account, amount in before.items())
        before = now
        if entries:
            assert len(reward_tree(entries).root) == 32


def vesting_manifest(manifest: RunManifest, epochs: int, vest: int) -> RunManifest:
    pay = PayConfig(epoch_rounds=1, vest_epochs=vest)
    return manifest.model_copy(update={"rounds": epochs, "pay": pay})


Epochs = list[tuple[dict[int, int], set[int]]]


@st.composite
def runs(draw: st.DrawFn) -> tuple[int, Epochs]:
    """Draw a vesting time, and epochs in which those at fault earn nothing, as `earned_in_epoch` has it."""
    epoch = st.tuples(st.dictionaries(st.integers(1, 4), st.integers(1, 10**20)), st.sets(st.integers(1, 4)))
    found: Epochs = []
    for earned, at_fault in draw(st.lists(epoch, min_size=1, max_size=7)):
        found.append(({n: wei for n, wei in earned.items() if n not in at_fault}, at_fault))
    return draw(st.integers(0, 8)), found


def earnings_of(epochs: Epochs) -> list[EpochEarnings]:
    return [EpochEarnings(earned, frozenset(at_fault)) for earned, at_fault in epochs]


@given(runs())
def test_pay_vests_once_never_falls_and_is_lost_to_a_fault_before(
    manifest: RunManifest, run: tuple[int, Epochs]
) -> None:
    vest, drawn = run
    manifest, epochs = vesting_manifest(manifest, len(drawn), vest), earnings_of(drawn)
    added = vested(manifest, epochs)
    for upto in range(len(epochs) + 1):
        assert vested(manifest, epochs[:upto]) == added[:upto], "a table does not depend on what comes later"
    paid = {number: sum(one.get(number, 0) for one in added) for number in range(1, 5)}
    for number in paid:
        due = 0
        for epoch, one in enumerate(epochs):
            until = min(epoch + vest, len(epochs) - 1)
            if not any(number in later.at_fault for later in epochs[epoch : until + 1]):
                due += one.earned.get(number, 0)
        assert paid[number] == due
    assert all(amount > 0 for one in added for amount in one.values())
    if not vest:
        assert added == tuple(dict(one.earned) for one in epochs), "without vesting an epoch pays at once"


@given(runs(), st.integers(1, 4))
def test_what_a_fault_forfeits_is_nobody_elses(
    manifest: RunManifest, run: tuple[int, Epochs], number: int
) -> None:
    vest, drawn = run
    manifest, epochs = vesting_manifest(manifest, len(drawn), vest), earnings_of(drawn)
    honest = [EpochEarnings(one.earned, one.at_fault - {number}) for one in epochs]
    for ours, theirs in zip(vested(manifest, epochs), vested(manifest, honest), strict=True):
        others = {one: wei for one, wei in theirs.items() if one != number}
        assert {one: wei for one, wei in ours.items() if one != number} == others
        assert ours.get(number, 0) <= theirs.get(number, 0)


def test_a_fault_reaches_back_to_what_is_unvested_and_no_further(manifest: RunManifest) -> None:
    unit = manifest.pay.unit_wei
    rounds = [SettledRound(round_, units(1, 2), {}, []) for round_ in range(5)]
    rounds[3] = SettledRound(3, units(1, 2), {1: "false", 2: "void"}, [])
    for vest, kept in ((0, 4), (1, 3), (2, 2), (9, 1)):
        manifest = vesting_manifest(manifest, 5, vest)
        epochs = [epoch_earnings(manifest, [one]) for one in rounds]
        added = vested(manifest, epochs)
        assert sum(one.get(1, 0) for one in added) == kept * unit
        assert sum(one.get(2, 0) for one in added) == 4 * unit, "a void costs only itself"
        entries = [
            reward_entries(added[: upto + 1], {1: "0x" + "01" * 20, 2: "0x" + "02" * 20}) for upto in range(5)
        ]
        assert all(not one for one in entries[: min(vest, 4)]), "before anything vests there is no table"
        lost = [forfeited_in(manifest, epochs, epoch, 1) for epoch in range(5)]
        assert [epoch for epoch, one in enumerate(lost) if one == 3] == [
            epoch for epoch in range(5) if epoch <= 3 <= min(epoch + vest, 4)
        ]


def test_a_ruling_forfeits_what_is_unvested_when_it_comes(manifest: RunManifest) -> None:
    unit = manifest.pay.unit_wei
    rounds = [SettledRound(round_, units(1, 2), {}, []) for round_ in range(5)]
    for vest, kept in ((0, 4), (1, 3), (9, 0)):
        manifest = vesting_manifest(manifest, 5, vest)
        ruled = {3: frozenset({1})} if vest < 9 else {4: frozenset({1})}
        epochs = [epoch_earnings(manifest, [one], ruled=ruled.get(one.round, frozenset())) for one in rounds]
        added = vested(manifest, epochs)
        assert sum(one.get(1, 0) for one in added) == kept * unit
        assert sum(one.get(2, 0) for one in added) == 5 * unit


def test_an_acquittal_by_the_jury_gives_back_what_was_unvested(manifest: RunManifest) -> None:
    manifest = vesting_manifest(manifest, 3, 2)
    verifiers = JudgedCase(Judgement(round=1, number=1, segment=0, outcome="false"), (8,), False)
    jury = JudgedCase(Judgement(round=1, number=1, case=7, segment=0, outcome="passed"), (), False)
    hung = JudgedCase(Judgement(round=1, number=1, case=7, segment=0, outcome="unjudged"), (), False)
    for cases, paid in (((verifiers,), 1), ((verifiers, jury), 3), ((verifiers, hung), 1)):
        judged = [
            settled_round(1, units(1), cases) if one == 1 else SettledRound(one, units(1), {}, [])
            for one in range(3)
        ]
        added = vested(manifest, [epoch_earnings(manifest, [one]) for one in judged])
        assert sum(one.get(1, 0) for one in added) == paid * manifest.pay.unit_wei


def test_the_largest_payout_covers_every_run(make_bed: Callable[..., Testbed]) -> None:
    bed = make_bed(pay=PayConfig(unit_wei=7, verdict_wei=3, epoch_rounds=2))
    bed.play_run()
    paid = sum(entry.cumulative_wei for entry in bed.settlement.rewards[-1].body.entries)
    assert paid == max_payout(bed.manifest, 3)  # everybody drawn, everybody honest

"""Profits computed by hand, and manifests that must be refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.economics import (
    Attack,
    Honest,
    Line,
    Plan,
    Terms,
    false_loss,
    lazy_segments,
    plan,
    refuser_value,
    window,
)
from coordinator.odds import convictions
from protocol.manifest import (
    DeadlineConfig,
    PayConfig,
    PenaltyConfig,
    RunManifest,
    SamplingSchedule,
    VerificationConfig,
)
from protocol.messages import PASSED, PROVEN_FALSE, REJECTED
from tests.protocol.makers import manifest

TOKEN = 10**18
PROFILE = "cpu-fp32"
SURE = Honest(0, 10_000, 0, 10_000, 10_000, 0.1, 10_000, 0.1)
TERMS = Terms(stake_wei=100 * TOKEN, unbonding_blocks=3000, cost=0.4, verifiers=2)
TRUSTED = replace(TERMS, collusion=0.0, slash_share=0.0)  # nobody colludes, nothing comes back
HALF = Attack("half-steps", "", 0.5, caught=100, proven=100, tried=100)
REFUSAL = Attack("refuse-opening", "", 1.0, kind="refusal")


def run(p: float = 0.2, floor: float | None = None, *, rounds: int = 40, **pay: Any) -> RunManifest:
    schedule = SamplingSchedule(fresh_probability=p, floor_probability=p if floor is None else floor)
    return manifest(rounds=rounds, verification=VerificationConfig(schedule=schedule), pay=PayConfig(**pay))


def line(manifest: RunManifest, terms: Terms, attack: Attack) -> Line:
    return plan(manifest, terms, {PROFILE: SURE}, {PROFILE: [attack]}).lines[0]


def whole(manifest: RunManifest, terms: Terms = TERMS, *attacks: Attack, honest: Honest = SURE) -> Plan:
    return plan(manifest, terms, {PROFILE: honest}, {PROFILE: attacks})


# who is convicted


def test_honest_verifiers_convict_and_colluding_ones_do_not() -> None:
    found = run()
    assert convictions(found, 2, 0.0, PROVEN_FALSE) == {"false": 1.0}
    assert convictions(found, 2, 0.0, REJECTED) == {"void": 1.0}
    assert convictions(found, 2, 0.0, REJECTED, opened=False) == {"refused": 1.0}
    assert convictions(found, 2, 1.0, PROVEN_FALSE) == {"passed": 1.0}
    assert convictions(found, 2, 0.0, PASSED) == {"passed": 1.0}


def test_a_third_of_colluding_verifiers_spares_some_of_the_convicted() -> None:
    found = convictions(run(), 2, 1 / 3, PROVEN_FALSE)
    assert found == pytest.approx({"false": 4 / 9, "void": 4 / 9, "passed": 1 / 9})
    assert convictions(run(), 2, 1 / 3, REJECTED, opened=False)["refused"] == pytest.approx(4 / 9)


def test_one_verifier_alone_convicts_nobody() -> None:
    assert convictions(run(), 1, 0.0, PROVEN_FALSE) == {"void": 1.0}
    assert convictions(run(), 1, 0.0, REJECTED, opened=False) == {"void": 1.0}


# laziness


def test_the_profit_of_half_the_steps_is_what_a_pencil_gives() -> None:
    # 0.5 x 0.4 saved; drawn with 0.2, proven with 0.05^(1/100) = 0.970487 at least, costing stake and pay.
    found = line(run(0.2), TRUSTED, HALF)
    assert found.profit == pytest.approx(0.2 - 0.2 * 0.970487 * 101, abs=1e-4)
    assert not found.pays
    # With r = 1/3, four of nine lose 1 as void; four of nine go to a jury, which is right with 0.855 and takes the pay
    # and a stake of which a finder's 0.3 and colluding jurors' third of 0.2 come back.
    found = line(run(0.2), TERMS, HALF)
    assert found.profit == pytest.approx(
        0.2 - 0.2 * 0.970487 * (4 / 9 * 0.855154 * 64.3333 + 4 / 9), abs=1e-4
    )


def test_without_stake_laziness_pays() -> None:
    found = line(run(0.2), replace(TRUSTED, stake_wei=0), HALF)
    assert found.profit == pytest.approx(0.2 - 0.2 * 0.970487, abs=1e-5)
    assert found.pays


def test_a_stake_that_is_free_before_the_verdict_counts_for_nothing() -> None:
    found = run(0.2)
    # 3 + 40 + 20 + 200 to the beacon, 1200 for cases, 566 for one with its appeal, 4 to dispute a reward root.
    assert window(found, TERMS) == 2033
    assert window(found, replace(TERMS, case_blocks=1000)) == 2033 + 434
    assert whole(found, replace(TERMS, unbonding_blocks=2033), HALF).holds
    short = whole(found, replace(TERMS, unbonding_blocks=2032), HALF)
    assert short.lines[0].pays
    assert "unbonding takes 2032 blocks, a slash up to 2033" in short.reasons[0]
    soon = found.model_copy(update={"penalties": PenaltyConfig(window=100)})
    assert whole(soon, replace(TERMS, unbonding_blocks=933), HALF).holds


def test_the_ladder_of_the_manifest_counts() -> None:
    half = run(0.2).model_copy(update={"penalties": PenaltyConfig(fault_percent=50, equivocation_percent=20)})
    assert line(half, TRUSTED, HALF).profit == pytest.approx(0.2 - 0.2 * 0.970487 * 51, abs=1e-4)
    twice = Attack("equivocate", "", 0.0, kind="equivocation")
    assert line(half, TERMS, twice).profit == pytest.approx(-20 * 0.7)
    assert line(run(0.2), TERMS, twice).profit == pytest.approx(-10 * 0.7)


def test_jurors_who_accuse_an_honest_unit_lose_their_bonds_unless_bonds_are_cheap() -> None:
    (_, framing) = whole(run(0.2), TERMS, HALF).lines
    # The first jury of three is theirs with 7/27, the second of nine with 0.144846: 50 R against a bond of 10.
    assert framing.profit == pytest.approx(7 / 27 * (0.144846 * 50 - 0.855154 * 10) - 20 / 27 * 10, abs=1e-4)
    assert not framing.pays
    assert whole(run(0.2), replace(TERMS, case_bond_wei=TOKEN), HALF).lines[1].pays
    assert whole(run(0.2), replace(TERMS, collusion=0.5), HALF).lines[1].pays


def test_what_comes_back_of_a_burnt_stake_deters_nobody() -> None:
    kept = replace(TRUSTED, slash_share=0.99)
    assert line(run(0.2), kept, HALF).profit == pytest.approx(0.2 - 0.2 * 0.970487 * 2, abs=1e-5)


def test_the_lowest_probability_counts() -> None:
    rare = line(run(0.2, 0.01), TRUSTED, HALF)
    assert rare.profit == pytest.approx(0.2 - 0.01 * 0.970487 * 101, abs=1e-4)
    # Everybody is new for the whole of a short run.
    fresh = line(run(0.2, 0.01, rounds=20), TRUSTED, HALF)
    assert fresh.profit == pytest.approx(0.2 - 0.2 * 0.970487 * 101, abs=1e-4)


def test_a_fault_that_cannot_be_proven_costs_a_units_pay() -> None:
    doubtful = replace(HALF, proven=0)
    found = line(run(0.2), TRUSTED, doubtful)
    assert found.profit == pytest.approx(0.2 - 0.2 * 0.970487, abs=1e-5)


def test_what_was_never_measured_is_never_caught() -> None:
    assert line(run(0.2), TERMS, replace(HALF, caught=0, proven=0, tried=0)).profit == pytest.approx(0.2)
    few = line(run(0.2), TERMS, replace(HALF, caught=1, proven=1, tried=1))
    assert few.profit > line(run(0.2), TERMS, HALF).profit, "one catch says less than a hundred"


def test_a_comparison_of_bits_needs_no_sample() -> None:
    found = line(run(0.2), TRUSTED, Attack("forged-bytes", "", 0.5, exact=True))
    assert found.profit == pytest.approx(0.2 - 0.2 * 101)


def test_laziness_in_any_number_of_segments_is_as_dear_a_segment() -> None:
    found = run(0.2)
    lines = [line(found, TERMS, attack) for attack in lazy_segments(found.segments, 100, 100, 100)]
    assert len(lines) == found.segments == 5
    assert [one.profit / lazy for lazy, one in enumerate(lines, 1)] == pytest.approx([lines[0].profit] * 5)
    assert not any(one.pays for one in lines)


def test_work_that_is_never_merged_is_never_paid() -> None:
    found = line(run(0.2), TERMS, Attack("withhold-reveal", "", 1.0, kind="unpaid"))
    assert (found.profit, found.pays) == (pytest.approx(0.4 - 1), False)


# refusal


def test_one_unit_refused_is_a_coin_toss_for_its_pay() -> None:
    # Found with 0.1, void with 0.1: 0.8 without work against 0.6 with it.
    assert refuser_value(1, 0.4, 0.1, 0.1, 1.0) == pytest.approx(0.8)
    assert refuser_value(1, 0.4, 0.5, 0.0, 1.0) == pytest.approx(0.6)


def test_an_epoch_at_stake_deters_late_and_not_early() -> None:
    # The second unit risks two units' pay: 2 x 0.8 = 1.6 either way. The first risks what is to come: 0.8 x 1.6.
    assert refuser_value(2, 0.4, 0.2, 0.0, 1.0) == pytest.approx(1.28)
    assert refuser_value(2, 0.4, 0.5, 0.0, 1.0) == pytest.approx(1.2)


def test_a_small_share_of_the_epoch_deters_nobody() -> None:
    # Two units without work, found with a half each: 2, 1 x 0.99 twice, or 0.
    assert refuser_value(2, 0.9, 0.5, 0.0, 0.01) == pytest.approx(0.25 * 2 + 0.5 * 0.99)
    assert refuser_value(2, 0.9, 0.5, 0.0, 0.0) == pytest.approx(1.0)


def test_refusal_does_not_pay_under_the_rule_and_pays_at_one_percent() -> None:
    assert whole(run(0.1624), TERMS, REFUSAL).holds
    refused = whole(run(0.1624, refusal_percent=1), TERMS, REFUSAL)
    assert not refused.holds
    assert refused.reasons[0].startswith("cpu-fp32: refuse-opening pays +")
    assert "forfeits 1% of the epoch's pay" in refused.reasons[0]
    assert not whole(run(0.1624, refusal_percent=0), TERMS, REFUSAL).holds


def test_refusal_pays_where_draws_are_rare_epochs_short_or_stakes_soon_free() -> None:
    assert whole(run(0.09), TERMS, REFUSAL).holds, "the least that `run create` draws"
    assert not whole(run(0.08), TERMS, REFUSAL).holds
    locked = replace(TERMS, unbonding_blocks=40 * 263)
    assert whole(run(0.05, epoch_rounds=40), locked, REFUSAL).reasons == ()
    assert not whole(run(0.05, epoch_rounds=10), TERMS, REFUSAL).holds
    assert not whole(run(0.1624, epoch_rounds=2), TERMS, REFUSAL).holds
    assert not whole(run(0.1624, rounds=41), TERMS, REFUSAL).holds, "the last epoch has one round"
    assert not whole(run(0.1624), replace(TERMS, unbonding_blocks=500), REFUSAL).holds
    assert not whole(run(0.1624), replace(TERMS, cost=0.8), REFUSAL).holds


def test_refusal_costs_stake_as_often_as_somebody_accuses() -> None:
    # Two units without work: each is drawn and slashed with 0.1, which loses a stake of 10 and the pay so far.
    assert refuser_value(2, 1.0, 0.0, 0.0, 1.0, 0.1, 10.0) == pytest.approx(max(0.9 * (0.9 * 2 - 1) - 1, 0.0))
    assert refuser_value(1, 1.0, 0.0, 0.0, 1.0, 0.1, 5.0) == pytest.approx(0.9 - 0.5)
    rare = run(0.02)
    assert not whole(rare, replace(TERMS, accused=0.0), REFUSAL).lines[0].profit < 0
    assert not whole(rare, replace(TERMS, accused=1.0), REFUSAL).lines[0].pays


# honesty


def test_what_honest_work_may_lose_is_what_a_pencil_gives() -> None:
    # 1 - 0.05^(1/1000) = 0.0029913; a hundredth of it, by the tail, costs 101.
    loss, _ = false_loss(run(0.2), Honest(0, 1000, 0, 1000, 1000, 0.1, 1000, 0.1), 100)
    assert loss == pytest.approx(0.2 * (0.0029913 + 0.000029913 * 140), rel=1e-4)  # 20 R unvested twice
    # A tenth in the first half of 40 units, then a twentieth.
    loss, _ = false_loss(run(0.1, 0.05), Honest(0, 1000, 0, 1000, 1000, 0.0, 1000, 0.0), 100)
    assert loss == pytest.approx(0.075 * 0.0029913, rel=1e-4)


def test_an_outage_that_is_taken_for_a_refusal_counts() -> None:
    still = Honest(0, 10**7, 0, 10**7, 10**7, 0.0, 10**7, 0.0)
    calm = false_loss(run(0.2), still, 100)[0]
    assert false_loss(run(0.2), still, 100, 1e-5)[0] - calm == pytest.approx(0.2 * 1e-5 * 140)
    assert whole(run(0.2), replace(TERMS, accused=1.0, outage=1e-5), honest=still).holds
    refused = whole(run(0.2), replace(TERMS, accused=1.0, outage=1e-4), honest=still)
    assert "false rejections and outages may cost" in refused.reasons[0]


def test_a_newcomers_first_segment_weighs_once_in_a_run() -> None:
    found, honest = run(0.2), Honest(0, 1000, 0, 10, 1000, 0.0, 1000, 0.0)
    extra = (1 - 0.05 ** (1 / 10)) - (1 - 0.05 ** (1 / 1000))
    assert false_loss(found, honest, 100)[0] == pytest.approx(0.2 * (0.0029913 + extra / (5 * 40)), rel=1e-4)
    far = replace(honest, fresh_tried=1000, fresh_exact_ratio=0.1)
    once = 0.0029913 * 0.1**2 / (5 * 40)
    assert false_loss(found, far, 100)[0] == pytest.approx(0.2 * (0.0029913 + 140 * once), rel=1e-4)


def test_honest_operators_may_not_lose_more_than_a_thousandth() -> None:
    few = Honest(0, 200, 0, 200, 200, 0.05, 200, 0.05)
    refused = whole(run(0.2), honest=few)
    assert refused.false_loss > 0.001
    assert "calibrate with more segments" in refused.reasons[0]
    assert whole(run(0.01, epoch_rounds=40), honest=few).false_loss < 0.001
    often = replace(SURE, rejected=100)
    assert not whole(run(0.2), honest=often).holds


def test_exact_arithmetic_has_no_false_rejections_to_bound() -> None:
    assert false_loss(run(1.0), Honest(0, 10**7, 0, 10**7, 10**7, 0.0, 10**7, 0.0), 100)[0] < 1e-6


def test_a_profile_without_calibration_is_refused() -> None:
    found = plan(run(0.2), TERMS, {}, {})
    assert found.reasons == ("profile cpu-fp32 is not calibrated: nothing bounds its false rejections",)


def test_work_that_costs_its_pay_is_refused() -> None:
    assert "honest work does not pay" in whole(run(0.2), replace(TERMS, cost=1.0)).reasons[0]


def test_if_all_verifiers_collude_everything_that_saves_pays() -> None:
    found = whole(run(1.0), replace(TERMS, collusion=1.0), HALF, REFUSAL)
    assert [one.pays for one in found.lines[:2]] == [True, True]


def test_longer_deadlines_ask_for_longer_unbonding() -> None:
    base = run(0.2)
    slow = base.model_copy(update={"deadlines": DeadlineConfig(record=4000)})
    assert window(slow, TERMS) == window(base, TERMS) + 3800
    assert whole(slow, TERMS, HALF).lines[0].pays

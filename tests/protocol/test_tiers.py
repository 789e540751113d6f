"""Tiers are smaller units of the same run: other steps and batch, the same id, pay and weight by samples."""

from contextlib import nullcontext

import pytest
from pydantic import ValidationError

from protocol.errors import Malformed
from protocol.manifest import UNJUDGED, InnerConfig, MergingConfig, RunManifest, TierConfig
from protocol.messages import RoundRecord, UnitRecord, check_tiers
from tests.protocol.makers import asking, manifest

INNER = InnerConfig(steps=15, batch=8, warmup_steps=40)


def tiered(*tiers: tuple[int, int], **changes: object) -> RunManifest:
    return manifest(
        inner=INNER, tiers=[TierConfig(steps=steps, batch=batch) for steps, batch in tiers], **changes
    )


def test_weight_and_pay_follow_the_samples() -> None:
    run = tiered((9, 8), (6, 4))
    assert run.tier_samples == (120, 72, 24)
    assert run.tier_weights == (5, 3, 1)
    assert [run.unit_pay(tier) for tier in range(3)] == [10**18, 6 * 10**17, 2 * 10**17]
    assert (run.smallest_tier, manifest().smallest_tier, manifest().tier_weights) == (2, 0, (1,))


def test_a_unit_sees_the_run_with_the_steps_of_its_tier() -> None:
    run = tiered((9, 8), (6, 4))
    own = run.at(2)
    assert (own.inner.steps, own.inner.batch, own.inner.warmup_steps) == (6, 4, 16)
    assert (own.segments, own.total_steps) == (2, 6 * run.rounds)
    assert own.run_id == run.run_id
    assert own.at(0) is run
    assert own.at(1) == run.at(1)
    assert run.at(1) is run.at(1)
    assert run.at(0) is run


def test_a_tier_that_the_run_does_not_have_is_refused() -> None:
    for tier in (1, 7):
        with pytest.raises(Malformed, match=f"tier {tier}"):
            manifest().at(tier)


@pytest.mark.parametrize(
    ("tiers", "why"),
    [
        ([(15, 8)], "fewer samples"),
        ([(18, 4)], "within inner's"),
        ([(6, 4), (9, 8)], "fewer samples"),
        ([(7, 8)], "segment length"),
    ],
)
def test_tiers_that_make_no_sense_make_no_manifest(tiers: list[tuple[int, int]], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        tiered(*tiers)


def test_tiers_whose_weights_would_not_fit_a_record_make_no_manifest() -> None:
    with pytest.raises(ValidationError, match="whole multiples"):
        manifest(
            inner=InnerConfig(steps=15, batch=64),
            tiers=[TierConfig(steps=15, batch=63), TierConfig(steps=3, batch=1)],
        )


def test_a_policys_units_are_all_of_one_tier() -> None:
    with pytest.raises(ValidationError, match="one tier"):
        tiered((9, 8), rollouts=asking())


@pytest.mark.parametrize(
    ("merging", "tier", "weight", "stands"),
    [
        (MergingConfig(), 1, 3, True),
        (MergingConfig(), 1, 0, True),
        (MergingConfig(), 1, 5, False),
        (MergingConfig(), 3, 1, False),
        (UNJUDGED, 2, 1, True),
        (UNJUDGED, 2, 0, False),
    ],
    ids=["its tier's", "doubted", "another tier's", "no such tier", "not judged", "doubted by nobody"],
)
def test_a_record_gives_a_unit_its_tiers_weight_or_none(
    merging: MergingConfig, tier: int, weight: int, stands: bool
) -> None:
    run, root = tiered((9, 8), (6, 4), merging=merging), "ab" * 32
    unit = UnitRecord(number=1, commitment=root, tier=tier, merged=True, weight=weight)
    left_out = UnitRecord(number=2, commitment=root, merged=False)
    record = RoundRecord(parameters=root, units=(unit, left_out), judged=())
    with nullcontext() if stands else pytest.raises(Malformed, match="tier"):
        check_tiers(run, record)

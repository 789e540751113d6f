"""A contributor declares the largest tier that its machine finishes in time."""

import pytest

from node.tiers import MARGIN, Pace, fitting_tier, next_tier
from protocol.manifest import RunManifest, TierConfig
from tests.node.world import manifest
from verification.commit import Carried

TIERS = (TierConfig(steps=9, batch=8), TierConfig(steps=6, batch=4))
RUN: RunManifest = manifest(tiers=TIERS, inner={"steps": 15, "batch": 8}, pay={"epoch_rounds": 2})
OLD = Carried("aa" * 32, "bb" * 32, 1)


@pytest.mark.parametrize(
    ("tier", "unit_s", "expected"),
    [(2, 1.0, 0), (2, 1.01, 1), (0, 8.0, 1), (1, 5.01, 2), (0, 1000.0, 2)],
    ids=["a fast newcomer", "just too slow", "a full unit too many", "slower still", "hopeless"],
)
def test_the_largest_tier_that_fits_is_wished_for(tier: int, unit_s: float, expected: int) -> None:
    window_s = 5.0 / MARGIN  # in which a full unit may take 5 seconds
    assert fitting_tier(RUN, tier, unit_s, window_s) == expected


def test_a_tier_changes_with_an_epoch_and_after_a_newcomers_first_unit() -> None:
    assert next_tier(RUN, 0, Carried(), 0) == 0
    assert next_tier(RUN, 0, Carried(), None) == 2, "the smallest, until something is known"
    assert next_tier(RUN, 2, OLD, 0) == 1, "round 3 is of the same epoch"
    assert next_tier(RUN, 3, OLD, 0) == 0
    assert next_tier(RUN, 3, OLD, None) == 1


def test_pace_measures_blocks_and_units_on_a_clock_of_its_own() -> None:
    now, height = 0.0, 100
    pace = Pace(RUN, None, lambda: now, lambda: height)
    assert pace.wish(2, 0.0) is None, "no block has passed"
    now, height = 40.0, 120  # two seconds a block, so that commitments close after 80
    assert pace.wish(2, 39.0) == 0
    assert pace.wish(2, 20.0) == 2
    assert Pace(RUN, 1, lambda: now, lambda: height).wish(2, 20.0) == 1
    assert Pace(manifest(), 1, lambda: now, lambda: height).wish(0, 20.0) is None

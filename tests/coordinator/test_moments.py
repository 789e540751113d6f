"""The choice of where moments start becomes fields, and what goes with nothing is refused."""

from __future__ import annotations

import pytest

from coordinator.moments import MomentsStart, check_forgeries, moments_fields
from protocol.errors import UsageError
from training.preset import preset


def test_what_nobody_chose_is_left_to_the_manifest() -> None:
    assert moments_fields(None, None) == {}
    assert moments_fields(None, preset("sort")) == {}


def test_a_choice_keeps_the_fields_that_were_given() -> None:
    found = moments_fields(MomentsStart.PUBLISHED, None, {"inner": {"lr": 1e-3}, "rounds": 4})
    assert found == {"inner": {"lr": 1e-3, "moments": "published"}}


def test_a_policy_has_no_choice() -> None:
    with pytest.raises(UsageError, match="carries its moments"):
        moments_fields(MomentsStart.FRESH, preset("sort"))


@pytest.mark.parametrize("moments", [None, MomentsStart.CARRIED, MomentsStart.FRESH])
def test_nobody_lies_about_what_is_not_published(moments: MomentsStart | None) -> None:
    check_forgeries(["forged-moments"], MomentsStart.PUBLISHED)
    check_forgeries(["skip-steps"], moments)
    with pytest.raises(UsageError, match="publishes none"):
        check_forgeries(["skip-steps", "forged-moments"], moments)

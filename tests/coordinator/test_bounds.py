"""Bounds of a probability against values that are known in closed form or from tables."""

from __future__ import annotations

import math

import pytest

from coordinator.bounds import lower_bound, upper_bound


@pytest.mark.parametrize("trials", [1, 10, 100, 3000])
def test_of_no_hits_the_rule_of_three_is_the_bound(trials: int) -> None:
    assert upper_bound(0, trials) == pytest.approx(1 - 0.05 ** (1 / trials), abs=1e-12)
    assert upper_bound(0, trials) <= 3 / trials
    assert lower_bound(trials, trials) == pytest.approx(0.05 ** (1 / trials), abs=1e-12)


@pytest.mark.parametrize(
    ("hits", "trials", "upper"), [(1, 10, 0.394163), (5, 10, 0.777559), (2, 50, 0.120614)]
)
def test_bounds_are_those_of_clopper_and_pearson(hits: int, trials: int, upper: float) -> None:
    assert upper_bound(hits, trials) == pytest.approx(upper, abs=2e-6)
    p = upper_bound(hits, trials)
    tail = sum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(hits + 1))
    assert tail == pytest.approx(0.05, abs=1e-9)
    assert lower_bound(trials - hits, trials) == pytest.approx(1 - upper, abs=2e-6)


def test_nothing_tried_says_nothing() -> None:
    assert (lower_bound(0, 0), upper_bound(0, 0)) == (0.0, 1.0)
    assert (lower_bound(0, 10), upper_bound(10, 10)) == (0.0, 1.0)


def test_a_count_never_reaches_what_it_bounds() -> None:
    for trials in (7, 40):
        for hits in range(trials + 1):
            assert lower_bound(hits, trials) <= hits / trials <= upper_bound(hits, trials)

"""Draws are the same for everybody, spread evenly, and bound to purpose, beacon, run and round."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.beacon import ASSIGNMENT, SAMPLING, chosen, draw, seed

RUN, BEACON = "ab" * 32, "cd" * 32
GOLDEN_SEED = "ac4e9eadef95e1e2c650a4bb0bd55c92510867a43f485cf56655a35152934595"
GOLDEN_DRAW = 4404508245151585805


def test_seed_and_draw_are_frozen() -> None:
    assert seed(ASSIGNMENT, BEACON, RUN, 3) == GOLDEN_SEED
    assert draw(GOLDEN_SEED, 1, 2) == GOLDEN_DRAW


def test_every_input_changes_the_seed() -> None:
    seeds = {
        seed(ASSIGNMENT, BEACON, RUN, 3),
        seed(SAMPLING, BEACON, RUN, 3),
        seed(ASSIGNMENT, RUN, BEACON, 3),
        seed(ASSIGNMENT, BEACON, RUN, 4),
        seed(ASSIGNMENT, "ce" * 32, RUN, 3),
    }
    assert len(seeds) == 5


def test_labels_are_separate_draws() -> None:
    draws = [draw(GOLDEN_SEED, *labels) for labels in ((), (1,), (2,), (1, 2), (2, 1), (1, 2, 0))]
    assert len(set(draws)) == len(draws)


@given(st.integers(0, 2**64 - 1))
def test_probability_zero_never_and_one_always_happens(label: int) -> None:
    assert not chosen(GOLDEN_SEED, 0.0, label)
    assert chosen(GOLDEN_SEED, 1.0, label)


@pytest.mark.parametrize("probability", [0.05, 0.25, 0.9])
def test_events_happen_as_often_as_their_probability_says(probability: float) -> None:
    happened = sum(chosen(GOLDEN_SEED, probability, label) for label in range(4000))
    # Five standard deviations of the binomial distribution.
    assert abs(happened - 4000 * probability) < 5 * (4000 * probability * (1 - probability)) ** 0.5


def test_what_happens_at_a_probability_happens_at_every_higher_one() -> None:
    low = {label for label in range(500) if chosen(GOLDEN_SEED, 0.1, label)}
    high = {label for label in range(500) if chosen(GOLDEN_SEED, 0.3, label)}
    assert low < high

"""Bradley and Terry's values of a group's samples."""

import random
from fractions import Fraction

import pytest

from training.preferences import preference_values

PAIRS = [(0, 1), (1, 2), (0, 2), (3, 0), (1, 2), (2, 3), (4, 1)]


def test_one_pair_worked_by_hand() -> None:
    # With one win over the other and one of each against the reference p0 = 1 / p1, and p0 solves p^3 - p^2 - 2 = 0.
    strength = 1.69562076955986
    assert strength**3 - strength**2 == pytest.approx(2, abs=1e-12)
    better, worse = preference_values(2, [(0, 1)])
    assert better == pytest.approx(strength / (strength + 1), abs=1e-12)
    assert worse == pytest.approx(1 / (strength + 1), abs=1e-12)


def test_nobody_compared_is_worth_a_half() -> None:
    assert preference_values(3, []) == (0.5, 0.5, 0.5)
    assert preference_values(3, [(0, 1)])[2] == 0.5


def test_the_order_of_the_pairs_does_not_matter() -> None:
    shuffled = PAIRS[:]
    random.Random(3).shuffle(shuffled)
    assert preference_values(5, shuffled) == preference_values(5, PAIRS)


def test_who_wins_where_others_lose_has_the_opposite_value() -> None:
    values = preference_values(5, PAIRS)
    turned = preference_values(5, [(worse, better) for better, worse in PAIRS])
    assert [a + b for a, b in zip(values, turned, strict=True)] == pytest.approx([1.0] * 5, abs=1e-9)


def test_a_chain_of_preferences_is_an_order() -> None:
    values = preference_values(4, [(2, 0), (0, 3), (3, 1)])
    assert sorted(range(4), key=lambda place: -values[place]) == [2, 0, 3, 1]


def test_names_do_not_matter() -> None:
    places = [3, 0, 4, 1, 2]
    values = preference_values(5, PAIRS)
    renamed = preference_values(5, [(places[better], places[worse]) for better, worse in PAIRS])
    assert [renamed[place] for place in places] == pytest.approx(values, abs=1e-15)


def test_values_stay_inside_whatever_the_pairs() -> None:
    everybody = [(0, other) for other in range(1, 33)] * 6  # as many as records carry in three rounds
    values = preference_values(33, everybody)
    assert 0.95 < values[0] < 1
    assert all(0 < value < 0.5 for value in values[1:])


def test_the_values_solve_the_likelihood_equations() -> None:
    strengths = [value / (1 - value) for value in preference_values(5, PAIRS)]
    for own in range(5):
        wins = Fraction(1 + sum(better == own for better, _ in PAIRS))
        rivals = [sum(pair) - own for pair in PAIRS if own in pair]
        expected = 2 * strengths[own] / (strengths[own] + 1)
        expected += sum(strengths[own] / (strengths[own] + strengths[rival]) for rival in rivals)
        assert expected == pytest.approx(float(wins), abs=1e-9)


@pytest.mark.parametrize("pair", [(0, 0), (0, 2), (-1, 0)])
def test_a_pair_of_samples_that_are_not_there_is_refused(pair: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="of 2"):
        preference_values(2, [pair])

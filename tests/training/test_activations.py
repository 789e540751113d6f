"""A fingerprint is a sum with signs that only the sample's key gives, the same in any order."""

from __future__ import annotations

import numpy as np

from protocol.rollouts import MAX_PROJECTION, PROJECTIONS
from training.activations import distance, fingerprint, projections

PLACES = [(bytes([one]) * 32, 7 * one) for one in range(6)]


def hidden(seed: int = 1, width: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (len(PLACES), width)).astype(np.float32)


def test_a_projection_is_a_signed_sum() -> None:
    ones = np.eye(5, dtype=np.float32)
    found = np.stack([fingerprint(projections(row[None], PLACES[:1])[0]) for row in ones])
    assert set(np.abs(found).flatten().tolist()) == {1.0}
    whole = fingerprint(projections(np.ones((1, 5), np.float32), PLACES[:1])[0])
    np.testing.assert_array_equal(found.sum(axis=0), whole)


def test_signs_belong_to_key_and_position() -> None:
    row = np.repeat(hidden(width=600)[:1], 3, axis=0)
    shown = projections(row, [PLACES[1], (PLACES[1][0], 8), (PLACES[2][0], 7)])
    assert shown.shape == (3, PROJECTIONS)
    assert len(set(shown.flatten().tolist())) == shown.size


def test_rows_add_up_to_the_same_bits_in_any_order() -> None:
    shown = projections(hidden(), PLACES)
    again = projections(hidden()[::-1], PLACES[::-1])
    np.testing.assert_array_equal(fingerprint(shown.sum(axis=0)), fingerprint(again.sum(axis=0)))


def test_distances_are_those_of_the_activations() -> None:
    """Over many samples a relative change of activations is the relative distance of their projections."""
    rng = np.random.default_rng(3)
    places = [(bytes([one % 256]) * 32, one) for one in range(400)]
    true = rng.normal(0, 1, (400, 64)).astype(np.float32)
    off = true + rng.normal(0, 1e-3, true.shape).astype(np.float32)
    claimed, wanted = (fingerprint(projections(one, places)) for one in (off, true))
    energy = float((true.astype(np.float64) ** 2).sum())
    assert 0.8e-3 < distance(claimed, wanted, energy) < 1.2e-3
    assert distance(wanted, wanted, energy) == 0


def test_what_is_not_finite_or_too_large_is_bounded() -> None:
    broken = np.array([[np.nan, np.inf, -np.inf, 1e30]], np.float32)
    shown = fingerprint(projections(broken, PLACES[:1]))
    assert np.isfinite(shown).all()
    assert (np.abs(fingerprint(np.array([2**62, -(2**62)]))) <= MAX_PROJECTION).all()

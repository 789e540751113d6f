"""Noise is one for everybody, tokens follow the softmax, and shortcuts choose no other token."""

from __future__ import annotations

import json
import math
from decimal import Context, Decimal, localcontext

import numpy as np
import pytest
import torch

from protocol.errors import OwnFault
from tests.golden.sampling import PATH, vectors
from training.exact_math import log
from training.sampling import choose, gumbel, noise_key, noise_words, scores_of

KEY = noise_key("ab" * 32, "cd" * 32, 7, 0)


def words_of(rows: int, vocab: int, key: bytes = KEY) -> np.ndarray:
    return np.stack([noise_words(key, position, vocab) for position in range(rows)])


def test_this_machine_computes_the_golden_vectors() -> None:
    assert vectors() == json.loads(PATH.read_bytes())


@pytest.mark.parametrize("word", [0, 1, 12345, 2**31, 2**32 - 2, 2**32 - 1])
def test_noise_is_the_double_logarithm(word: int) -> None:
    with localcontext(Context(prec=40)):
        truth = -((-(((Decimal(word) + Decimal("0.5")) / 2**32).ln())).ln())
    assert gumbel(np.array([word], np.uint32))[0] == pytest.approx(float(truth), rel=1e-13, abs=1e-13)


def test_the_exact_logarithm_is_near_the_libraries() -> None:
    values = torch.from_numpy(np.random.default_rng(1).lognormal(0, 30, 20_000))
    assert torch.allclose(log(values), values.log(), rtol=2e-15, atol=2e-15)
    assert log(torch.ones(1, dtype=torch.float64)).item() == 0.0


@pytest.mark.parametrize("field", range(4))
def test_every_part_of_the_key_changes_the_noise(field: int) -> None:
    other = ["ab" * 32, "cd" * 32, 7, 0]
    other[field] = 1 if field > 1 else "ef" * 32
    assert not np.array_equal(words_of(1, 64), words_of(1, 64, noise_key(*other)))


def test_a_position_has_noise_of_its_own_and_a_larger_vocabulary_extends_it() -> None:
    rows = words_of(2, 512)
    assert not np.array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[:, :100], words_of(2, 100))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_shortcut_chooses_what_all_scores_choose(temperature: float) -> None:
    logits = np.random.default_rng(2).normal(0, 3, (400, 200)).astype(np.float32)
    words = words_of(400, 200)
    scores = logits.astype(np.float64) / temperature + gumbel(words.reshape(-1)).reshape(words.shape)
    tokens, best = choose(logits, words, temperature)
    np.testing.assert_array_equal(tokens, scores.argmax(1))
    np.testing.assert_array_equal(best, scores.max(1))
    np.testing.assert_array_equal(scores_of(logits, words, temperature, tokens), best)


def test_tokens_follow_the_softmax_at_the_temperature() -> None:
    draws, temperature = 20_000, 0.7
    logits = np.array([1.0, 0.0, -1.0, 2.0, 0.5], np.float32)
    tokens, _ = choose(np.tile(logits, (draws, 1)), words_of(draws, 5), temperature)
    wanted = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    found = np.bincount(tokens, minlength=5) / draws
    deviation = np.sqrt(wanted * (1 - wanted) / draws)
    assert (np.abs(found - wanted) < 4 * deviation).all()


def test_of_equal_scores_the_lowest_token_wins() -> None:
    words = np.full((1, 6), 77, np.uint32)
    assert choose(np.zeros((1, 6), np.float32), words, 1.0)[0].tolist() == [0]
    assert choose(np.array([[0, 1, 0, 1, 1, 0]], np.float32), words, 1.0)[0].tolist() == [1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_broken_logits_are_our_own_fault(bad: float) -> None:
    logits = np.array([[0.0, bad]], np.float32)
    with pytest.raises(OwnFault, match="finite"):
        choose(logits, words_of(1, 2), 1.0)

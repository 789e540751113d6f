"""Honest samples have no regret in any arithmetic, and every other way of picking tokens has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from protocol.rollouts import Sample, quantise
from protocol.tensors import Floats
from tests.training.episodes import MODEL, SAMPLING, TOKENIZER, key, lively, tasks
from training.activations import distance
from training.generate import generate
from training.model import Transformer
from training.prefill import ExactScorer, Judged, PlainScorer, best_digest, judge

SEEDS = (1, 2, 6)
KEYS = [key(seed, index) for seed in SEEDS for index in range(SAMPLING.group_size)]
FLOOR = 1e-4


def policy(parameters: Floats) -> Transformer:
    found = Transformer(MODEL, torch.device("cpu"))
    found.parameters.copy_(torch.from_numpy(parameters))
    return found


def drawn(parameters: Floats, **changes: object) -> list[Sample]:
    sampling = SAMPLING.model_copy(update=changes)
    return [one.sample() for one in generate(policy(parameters), MODEL, tasks(SEEDS), sampling, TOKENIZER)]


def judged(samples: list[Sample], keys: list[bytes] = KEYS) -> list[Judged]:
    return judge(PlainScorer(MODEL, policy(lively())), samples, keys, SAMPLING.temperature)


def worst(samples: list[Sample], keys: list[bytes] = KEYS) -> float:
    return max(one.max_regret for one in judged(samples, keys))


@pytest.fixture(scope="module")
def honest() -> list[Sample]:
    return drawn(lively())


def test_honest_samples_have_no_regret_and_their_log_probabilities_are_right(honest: list[Sample]) -> None:
    for one, found in zip(honest, judged(honest), strict=True):
        assert found.max_regret < FLOOR
        assert found.max_off < FLOOR
        assert not found.regret.any()
        step = 0.001 - 0.013 * found.log_probabilities  # of the codes
        assert (np.abs(one.log_probabilities - found.log_probabilities) <= step).all()
        np.testing.assert_array_equal(found.best, one.tokens[one.spoken])
        assert distance(one.fingerprint, found.fingerprint, found.energy) < FLOOR


def test_exact_arithmetic_agrees_and_does_not_depend_on_company(honest: list[Sample]) -> None:
    exact = judge(ExactScorer(MODEL, lively()), honest, KEYS, SAMPLING.temperature)
    for found, plain in zip(exact, judged(honest), strict=True):
        assert found.max_regret < FLOOR
        np.testing.assert_allclose(found.log_probabilities, plain.log_probabilities, atol=FLOOR)
        assert distance(plain.fingerprint, found.fingerprint, found.energy) < FLOOR
    alone = judge(ExactScorer(MODEL, lively()), honest[3:4], KEYS[3:4], SAMPLING.temperature)
    np.testing.assert_array_equal(alone[0].log_probabilities, exact[3].log_probabilities)
    np.testing.assert_array_equal(alone[0].fingerprint, exact[3].fingerprint)
    assert best_digest(alone) == best_digest(exact[3:4]) != best_digest(exact[4:5])


def greedy(_: list[Sample]) -> list[Sample]:
    return drawn(lively(), temperature=0.01)


def hotter(_: list[Sample]) -> list[Sample]:
    return drawn(lively(), temperature=1.5)


def other_weights(_: list[Sample]) -> list[Sample]:
    return drawn(lively(seed=4))


def slightly_other_weights(_: list[Sample]) -> list[Sample]:
    noise = np.random.default_rng(1).normal(0, 0.01, lively().size)
    return drawn((lively() + noise).astype(np.float32))


def copied(samples: list[Sample]) -> list[Sample]:
    return samples[1:] + samples[:1]


def edited(samples: list[Sample]) -> list[Sample]:
    tokens = samples[2].tokens.copy()
    tokens[samples[2].spoken[1]] ^= 1
    return [*samples[:2], replace(samples[2], tokens=tokens), *samples[3:]]


@pytest.mark.parametrize("cheat", [greedy, hotter, other_weights, slightly_other_weights, copied, edited])
def test_no_other_tokens_pass(cheat: Callable[[list[Sample]], list[Sample]], honest: list[Sample]) -> None:
    assert worst(cheat(honest)) > 100 * FLOOR


def test_other_noise_is_regretted(honest: list[Sample]) -> None:
    """A re-rolled sample was drawn with noise of its own; judged with the task's, it is not the one."""
    assert worst(honest, [key(seed + 50, 0) for seed in range(len(KEYS))]) > 100 * FLOOR


def test_an_invented_log_probability_is_off(honest: list[Sample]) -> None:
    codes = honest[0].codes.copy()
    codes[-1] = quantise(np.array([-9.0]))[0]
    (found,) = judged([replace(honest[0], codes=codes)], KEYS[:1])
    assert found.max_off > 0.1
    assert abs(-9.0 - found.log_probabilities[-1]) > found.max_off
    assert np.median(found.off) < FLOOR

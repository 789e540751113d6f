"""Base models: what a corpus holds, that tuning repeats, and that a tuned model is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import ConfigError, UsageError
from protocol.model_config import ModelConfig
from training.base import base_model
from training.environments.registry import open_environment
from training.preset import Preset, preset
from training.rollout import ByteTokenizer
from training.tuning import TuningConfig, corpus_of, tune

SMALL = ModelConfig(vocab=128, width=16, layers=1, heads=1, feed_forward=16, context=24)


def small(**changes: object) -> Preset:
    tuning = TuningConfig(demonstrations=64, observation_weight=0.0, steps=12, batch=16)
    return preset("sort").model_copy(update={"model": SMALL, "tuning": tuning, **changes})


def test_a_corpus_weighs_turns_in_full_and_observations_less() -> None:
    chosen = preset("shop")
    opened, config = chosen.open(), TuningConfig(demonstrations=8, observation_weight=0.25)
    found = corpus_of(opened, chosen.sampling, ByteTokenizer(128), config)
    for tokens, weights in found.episodes:
        text = bytes(tokens)
        assert len(tokens) == len(weights) <= chosen.sampling.tokens
        opening = text.index(b"\n") + 1
        assert text.startswith(b"need ")
        assert weights[:opening] == [0.25] * opening
        end = text.index(b"\n", opening) + 1
        assert weights[opening:end] == [1.0] * (end - opening)
    assert found.text() == b"".join(bytes(tokens) + b"\n" for tokens, _ in found.episodes)


def test_seeds_decide_the_corpus() -> None:
    opened, sampling = open_environment("sort"), preset("sort").sampling

    def text(seed: int) -> bytes:
        config = TuningConfig(demonstrations=16, seed=seed)
        return corpus_of(opened, sampling, ByteTokenizer(128), config).text()

    assert text(1) == text(1)
    assert not set(text(1).split()) & set(text(2).split()) - {b"sort"}


def test_an_environment_that_nobody_shows_has_no_corpus() -> None:
    opened = dataclasses.replace(
        open_environment("sort"),
        definition=dataclasses.replace(open_environment("sort").definition, demonstrator=None),
    )
    with pytest.raises(UsageError, match="no demonstrator"):
        corpus_of(opened, preset("sort").sampling, ByteTokenizer(128), TuningConfig(demonstrations=1))


def test_tuning_lowers_the_loss_and_repeats() -> None:
    chosen = small()
    corpus = corpus_of(chosen.open(), chosen.sampling, ByteTokenizer(128), chosen.tuning)
    losses: list[float] = []
    first = tune(chosen.model, corpus, chosen.tuning, lambda step, steps, loss: losses.append(loss))
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 0.1
    np.testing.assert_array_equal(first, tune(chosen.model, corpus, chosen.tuning))


def test_a_base_model_is_tuned_once(tmp_path: Path) -> None:
    steps: list[int] = []
    first = base_model(small(), tmp_path, lambda step, steps_, loss: steps.append(step))
    again = base_model(small(), tmp_path, lambda step, steps_, loss: steps.append(step))
    assert (first.cached, again.cached) == (False, True)
    assert len(steps) == 12
    np.testing.assert_array_equal(first.parameters, again.parameters)
    assert again.corpus.read_bytes().startswith(b"sort ")
    other = base_model(small(settings={"length": 4}), tmp_path)
    assert not other.cached


def test_a_damaged_base_model_is_tuned_again(tmp_path: Path) -> None:
    first = base_model(small(), tmp_path)
    (first.corpus.parent / "parameters").write_bytes(b"damaged")
    again = base_model(small(), tmp_path)
    assert not again.cached
    np.testing.assert_array_equal(first.parameters, again.parameters)


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "bases").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot keep a model"):
        base_model(small(), tmp_path)

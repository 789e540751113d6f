"""Samples drawn together are the samples drawn alone, and their environments agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from protocol.errors import ConfigError
from tests.training.episodes import MODEL, SAMPLING, TOKENIZER, Echo, lively, tasks
from training.generate import Sampled, Task, generate
from training.model import Cache, Transformer
from training.rollout import Rollout
from training.sampling import choose, noise_words


@pytest.fixture(scope="module")
def model() -> Transformer:
    found = Transformer(MODEL, torch.device("cpu"))
    found.parameters.copy_(torch.from_numpy(lively()))
    return found


def drawn(model: Transformer, asked: list[Task]) -> list[Sampled]:
    return generate(model, MODEL, asked, SAMPLING, TOKENIZER)


def test_a_cache_gives_the_logits_of_one_pass(model: Transformer) -> None:
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, 128, (3, 20)))
    with torch.inference_mode():
        whole = model.logits(tokens)
        cache = Cache(MODEL, 3, 20, torch.device("cpu"))
        parts = [model.logits(tokens[:, :7], cache)]
        parts += [model.logits(tokens[:, at : at + 1], cache) for at in range(7, 12)]
        cache.keep(torch.tensor([2, 0]))
        parts = [torch.cat(parts, dim=1)[[2, 0]]]
        parts += [model.logits(tokens[[2, 0], at : at + 1], cache) for at in range(12, 20)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole[[2, 0]], atol=2e-5, rtol=0)
    with pytest.raises(ValueError, match="one token"):
        model.logits(tokens[:2, :2], cache)


def test_many_environments_at_once_give_what_each_gives_alone(model: Transformer) -> None:
    """Prompts differ in length, and episodes in turns and ends."""
    together = drawn(model, tasks(range(6)))
    alone = [drawn(model, [task])[0] for task in tasks(range(6))]
    assert [one.rollout.tokens for one in together] == [one.rollout.tokens for one in alone]
    assert [one.rollout.turns for one in together] == [one.rollout.turns for one in alone]
    assert len({len(one.rollout.tokens) for one in together}) > 3
    assert len({len(one.rollout.turns) for one in together}) > 1
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, atol=1e-4)


def test_every_sample_replays_in_its_environment(model: Transformer) -> None:
    asked = tasks([1, 2, 3])
    for task, found in zip(asked, drawn(model, asked), strict=True):
        sample = found.sample()
        again = Rollout.replay(Echo(), task.seed, SAMPLING, TOKENIZER, sample)
        np.testing.assert_array_equal(again.rewards(), sample.rewards)
        assert len(sample.codes) == sum(end - start for start, end in again.turns)
        assert (found.log_probabilities <= 0).all()
        assert sample.fingerprint.all()


def test_samples_of_a_group_differ_and_drawing_again_gives_the_same(model: Transformer) -> None:
    first, again = drawn(model, tasks([1])), drawn(model, tasks([1]))
    assert len({tuple(one.rollout.tokens) for one in first}) == SAMPLING.group_size
    assert [one.rollout.tokens for one in first] == [one.rollout.tokens for one in again]


def test_the_first_token_is_the_seeded_one(model: Transformer) -> None:
    (task,) = tasks([2], samples=1)
    (found,) = drawn(model, [task])
    start = found.rollout.turns[0][0]
    with torch.inference_mode():
        logits = model.logits(torch.tensor([found.rollout.tokens[:start]]))[:, -1].numpy()
    tokens, _ = choose(logits, noise_words(task.key, start, MODEL.vocab)[None], SAMPLING.temperature)
    assert found.rollout.tokens[start] == tokens[0]


def test_no_tasks_are_no_samples(model: Transformer) -> None:
    assert drawn(model, []) == []


def test_episodes_longer_than_the_context_are_refused(model: Transformer) -> None:
    with pytest.raises(ConfigError, match="context"):
        generate(model, MODEL, tasks([1]), SAMPLING.model_copy(update={"tokens": 49}), TOKENIZER)

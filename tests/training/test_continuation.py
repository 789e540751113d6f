"""Going on with a text: the same tokens with a cache as without, again with the same seed, beyond the context too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from protocol.errors import UsageError
from protocol.model_config import ModelConfig
from training.continuation import continuation
from training.model import Transformer, initial_parameters
from training.sampling import choose, noise_at

MODEL = ModelConfig(vocab=64, width=32, layers=2, heads=2, feed_forward=48, context=16)
KEY = b"k" * 32


def transformer() -> Transformer:
    vector = initial_parameters(MODEL, 3)
    vector += np.random.default_rng(4).normal(0, 0.05, vector.size).astype(np.float32)
    return Transformer.loaded(MODEL, vector)


def test_the_cache_changes_no_token() -> None:
    model = transformer()
    found = continuation(model, MODEL, [1, 2, 3], count=10, temperature=0.7, key=KEY)
    said = [1, 2, 3]
    for _ in range(10):
        with torch.no_grad():
            logits = model.logits(torch.tensor([said]))[:, -1].numpy()
        said.append(int(choose(logits, noise_at([(KEY, len(said))], 64), 0.7)[0][0]))
    assert found == said[3:]


def test_a_seed_gives_its_text_again_and_another_gives_another() -> None:
    model = transformer()
    texts = [
        continuation(model, MODEL, [5], count=40, temperature=1.0, key=key) for key in (KEY, KEY, b"j" * 32)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0]) == 40, "longer than the context"
    assert all(0 <= token < 64 for token in texts[0])


def test_without_temperature_the_likeliest_token_follows_whatever_the_seed() -> None:
    model = transformer()
    first, second = (
        continuation(model, MODEL, [5], count=12, temperature=0, key=key) for key in (KEY, b"j" * 32)
    )
    assert first == second
    with torch.no_grad():
        assert first[0] == int(model.logits(torch.tensor([[5]]))[0, -1].argmax())


def test_an_end_token_ends_the_text_and_is_not_part_of_it() -> None:
    model = transformer()
    whole = continuation(model, MODEL, [5], count=12, temperature=1.0, key=KEY)
    end = whole[4]
    assert (
        continuation(model, MODEL, [5], count=12, temperature=1.0, key=KEY, end=end)
        == whole[: whole.index(end)]
    )


def test_a_prompt_longer_than_the_context_is_read_from_its_end() -> None:
    model = transformer()
    long = [7] * 100 + [1, 2, 3, 4, 5, 6, 7, 8]
    assert len(continuation(model, MODEL, long, count=3, temperature=1.0, key=KEY)) == 3


@pytest.mark.parametrize("prompt", [[], [64]])
def test_a_prompt_without_a_token_of_the_vocabulary_is_refused(prompt: list[int]) -> None:
    with pytest.raises(UsageError, match="no token"):
        continuation(transformer(), MODEL, prompt, count=1, temperature=1.0, key=KEY)

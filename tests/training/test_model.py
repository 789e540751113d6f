"""The model is a function of one flat vector, causal, and within its arithmetic equal to a plain one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from protocol.manifest import RunManifest
from protocol.model_config import ModelConfig
from protocol.tensors import parameter_layout
from training.assignment import heldout_start
from training.corpus import Shard
from training.evaluate import heldout_loss, heldout_windows
from training.model import Transformer, initial_parameters

MODEL = ModelConfig(vocab=50, width=32, layers=2, heads=4, feed_forward=48, context=12)


@pytest.fixture
def model() -> Transformer:
    made = Transformer(MODEL, torch.device("cpu"))
    start = torch.from_numpy(initial_parameters(MODEL, 3))
    noise = torch.from_numpy(np.random.default_rng(3).normal(0, 0.1, start.numel()))
    made.parameters.copy_(start + noise)
    return made


def test_initial_parameters_follow_the_seed_and_the_layout() -> None:
    vector = initial_parameters(MODEL, 3)
    layout = parameter_layout(MODEL)
    assert vector.dtype == np.float32
    assert (vector[layout.slices["norm"]] == 1).all()
    assert vector[layout.slices["embedding"]].std() == pytest.approx(32**-0.5, rel=0.1)
    assert not vector[layout.slices["blocks.1.down"]].any()
    np.testing.assert_array_equal(vector, initial_parameters(MODEL, 3))
    assert (vector != initial_parameters(MODEL, 4)).any()


def test_no_position_sees_what_follows_it(model: Transformer) -> None:
    tokens = torch.arange(12)[None] % 50
    changed = tokens.clone()
    changed[0, 7:] = 49
    with torch.no_grad():
        one, other = model.logits(tokens), model.logits(changed)
    torch.testing.assert_close(one[0, :7], other[0, :7])
    assert (one[0, 7:] - other[0, 7:]).abs().max() > 1e-3


def plain_logits(vector: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Compute one sequence's logits float64[time, vocab] by the papers' formulas, head by head."""
    layout = parameter_layout(MODEL)
    tensor = {
        name: vector[layout.slices[name]].reshape(shape).astype(np.float64) for name, shape in layout.tensors
    }
    head, time = MODEL.width // MODEL.heads, len(tokens)

    def rms_norm(hidden: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + 1e-5) * gain

    def rotate(rows: np.ndarray) -> np.ndarray:
        turned = np.empty_like(rows)
        for position in range(time):
            for pair in range(head // 2):
                angle = position * 10_000.0 ** (-2 * pair / head)
                x, y = rows[position, 2 * pair : 2 * pair + 2]
                turned[position, 2 * pair] = x * math.cos(angle) - y * math.sin(angle)
                turned[position, 2 * pair + 1] = x * math.sin(angle) + y * math.cos(angle)
        return turned

    hidden = tensor["embedding"][tokens]
    for block in (f"blocks.{layer}." for layer in range(MODEL.layers)):
        query, key, value = np.split(
            rms_norm(hidden, tensor[block + "attention_norm"]) @ tensor[block + "qkv"].T, 3, axis=1
        )
        heads = []
        for part in (slice(h * head, (h + 1) * head) for h in range(MODEL.heads)):
            scores = rotate(query[:, part]) @ rotate(key[:, part]).T / math.sqrt(head)
            weights = np.exp(np.where(np.tri(time, dtype=bool), scores, -np.inf))
            heads.append(weights / weights.sum(1, keepdims=True) @ value[:, part])
        hidden = hidden + np.concatenate(heads, axis=1) @ tensor[block + "attention_out"].T
        gate, up = np.split(
            rms_norm(hidden, tensor[block + "feed_forward_norm"]) @ tensor[block + "gate_up"].T, 2, axis=1
        )
        hidden = hidden + (gate / (1 + np.exp(-gate)) * up) @ tensor[block + "down"].T
    return rms_norm(hidden, tensor["norm"]) @ tensor["embedding"].T


def test_logits_follow_the_formulas(model: Transformer, seed: int) -> None:
    tokens = np.random.default_rng(seed).integers(0, 50, 12)
    with torch.no_grad():
        logits = model.logits(torch.from_numpy(tokens)[None])[0].numpy()
    np.testing.assert_allclose(logits, plain_logits(model.parameters.numpy(), tokens), rtol=1e-3, atol=1e-4)


def test_gradients_land_in_the_flat_vector(model: Transformer) -> None:
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (3, 13)))
    model.loss(tokens).backward()
    analytic = model.gradient.clone()
    step = 2e-3
    for place in [*torch.topk(analytic.abs(), 5).indices.tolist(), 0, 7000, analytic.numel() - 1]:
        with torch.no_grad():
            model.parameters[place] += step
            above = float(model.loss(tokens))
            model.parameters[place] -= 2 * step
            below = float(model.loss(tokens))
            model.parameters[place] += step
        assert float(analytic[place]) == pytest.approx((above - below) / (2 * step), rel=0.05, abs=1e-3)


def test_an_untrained_model_knows_nothing(manifest: RunManifest, shard: Shard) -> None:
    loss = heldout_loss(manifest, initial_parameters(manifest.model, 0), shard)
    assert math.log(256) < loss < math.log(256) + 2
    assert loss == heldout_loss(manifest, initial_parameters(manifest.model, 0), shard)


def test_windows_cover_the_held_out_part_and_nothing_else(manifest: RunManifest) -> None:
    windows = heldout_windows(manifest, 64)
    assert len(set(windows.tolist())) == 64
    assert windows[0] == heldout_start(manifest.dataset)
    assert windows[-1] + manifest.model.context + 1 == manifest.dataset.tokens


def test_a_short_held_out_part_gives_each_window_once(manifest: RunManifest) -> None:
    dataset = manifest.dataset.model_copy(update={"tokens": 400})
    windows = heldout_windows(manifest.model_copy(update={"dataset": dataset}), 512)
    assert windows.tolist() == [380, 381, 382, 383]

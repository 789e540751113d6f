"""The exact trainer takes the steps of the float32 one, and the same bits whoever takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from protocol.errors import ConfigError, OwnFault
from protocol.manifest import InnerConfig, RunManifest
from protocol.model_config import ModelConfig
from protocol.tensors import Floats, frozen, parameter_layout
from tests.training.parameters import alive
from training.assignment import assignment, batch
from training.corpus import Shard
from training.distance import segment_distances
from training.exact import ExactTrainer, exact_learning_rate
from training.exact_model import ExactTransformer
from training.inner import InnerState, InnerTrainer, learning_rate, prepare_process
from training.model import Transformer, initial_parameters

BEACON = "cd" * 32
ROUNDS = 3


@pytest.fixture
def lively(manifest: RunManifest) -> Floats:
    return alive(manifest.model)


@pytest.fixture
def two_threads() -> Iterator[None]:
    prepare_process(2)
    yield
    prepare_process(1)


def rounds(trainer: InnerTrainer | ExactTrainer, manifest: RunManifest, state: InnerState) -> list[float]:
    trainer.load(state)
    losses = []
    for round_ in range(ROUNDS):
        losses += trainer.run(assignment(manifest, BEACON, round_, 1), round_ * manifest.inner.steps)
    return losses


def files(manifest: RunManifest, trainer: ExactTrainer) -> tuple[bytes, bytes]:
    state = trainer.state()
    return state.parameters_file(manifest.model), state.moments_file(manifest.model)


PRETRAINED = {"heads": 4, "key_heads": 2, "rotary_base": 1e5, "norm_eps": 1e-6, "tied": False}


@pytest.mark.parametrize("shape", [{"heads": 2}, PRETRAINED], ids=["ours", "pretrained"])
def test_its_gradient_is_autograds(
    make_manifest: Callable[..., RunManifest], shard: Shard, shape: dict[str, Any]
) -> None:
    """Compare every tensor's with float32 and float64 autograd; it is no farther from the truth than float32."""
    manifest = make_manifest(model=ModelConfig(width=32, layers=2, feed_forward=48, context=16, **shape))
    tokens = torch.from_numpy(batch(shard, assignment(manifest, BEACON, 0, 1)[0], manifest.model.context))
    parameters = torch.from_numpy(alive(manifest.model))
    loss, found = ExactTransformer(manifest.model).loss_and_gradient(parameters, tokens)
    gradients = {}
    for dtype in (torch.float32, torch.float64):
        model = Transformer(manifest.model, torch.device("cpu"), dtype)
        model.parameters.copy_(parameters)
        model.loss(tokens).backward()
        gradients[dtype] = model.gradient
    assert loss == pytest.approx(model.loss(tokens).item(), abs=1e-6)
    for name, place in parameter_layout(manifest.model).slices.items():
        truth = gradients[torch.float64][place]
        error = (found[place] - truth).norm() / truth.norm()
        plain = (gradients[torch.float32][place] - truth).norm() / truth.norm()
        assert error < 1e-6, name
        assert error < 2 * plain, name


def test_only_the_last_layers_learn(make_manifest: Callable[..., RunManifest], shard: Shard) -> None:
    model = ModelConfig(width=32, layers=3, feed_forward=48, context=16, **PRETRAINED)
    whole = make_manifest(model=model)
    manifest = make_manifest(model=model, inner=InnerConfig(steps=4, batch=3, last_layers=1, warmup_steps=0))
    layout, first = parameter_layout(model), frozen(manifest)
    assert first == layout.slices["blocks.2.qkv"].start
    start = InnerState.fresh(alive(model))
    row = assignment(manifest, BEACON, 0, 1)
    ends = []
    for trainer, of_all in (
        (InnerTrainer(manifest, shard), InnerTrainer(whole, shard)),
        (ExactTrainer(manifest, shard), ExactTrainer(whole, shard)),
    ):
        for one in (trainer, of_all):
            one.load(start)
            one.backward(row[0])
        assert not trainer.gradient[:first].any()
        np.testing.assert_array_equal(trainer.gradient[first:], of_all.gradient[first:])
        trainer.run(row, 0)
        end = trainer.state()
        np.testing.assert_array_equal(end.parameters[:first], start.parameters[:first])
        assert not end.exp_avg[:first].any()
        assert not end.exp_avg_sq[:first].any()
        for name, place in layout.slices.items():
            assert bool((end.parameters[place] != start.parameters[place]).any()) is (place.start >= first), (
                name
            )
        ends.append(end)
    distances = segment_distances(manifest, start, *ends)
    assert max(distances.values()) < 1e-3
    ends[1].parameters[0] += 1e-3  # whoever moves what is frozen has done other work
    assert segment_distances(manifest, start, *ends)["parameters.embedding"] > 1e-3


@pytest.mark.parametrize("layers", [None, 1])
def test_fresh_moments_follow_float32(
    make_manifest: Callable[..., RunManifest], shard: Shard, lively: Floats, layers: int | None
) -> None:
    inner = InnerConfig(steps=6, batch=3, warmup_steps=0, moments="fresh", last_layers=layers)
    manifest = make_manifest(inner=inner)
    start, offsets = InnerState.fresh(lively), assignment(manifest, BEACON, 0, 1)
    ends = []
    for trainer in (InnerTrainer(manifest, shard), ExactTrainer(manifest, shard)):
        trainer.load(start)
        trainer.run(offsets, 0)
        ends.append(trainer.state())
    assert max(segment_distances(manifest, start, *ends).values()) < 1e-4
    assert ends[0].steps == ends[1].steps == 6


def test_a_run_cannot_teach_more_layers_than_there_are(make_manifest: Callable[..., RunManifest]) -> None:
    with pytest.raises(ValueError, match="last_layers exceeds the model's 2 layers"):
        make_manifest(inner=InnerConfig(steps=4, batch=3, last_layers=3))


def test_training_follows_float32(make_manifest: Callable[..., RunManifest], shard: Shard) -> None:
    manifest = make_manifest(inner=InnerConfig(steps=10, batch=4, lr=1e-2, warmup_steps=5), rounds=ROUNDS)
    start = InnerState.fresh(initial_parameters(manifest.model, 1))
    plain = rounds(InnerTrainer(manifest, shard), manifest, start)
    exact = rounds(ExactTrainer(manifest, shard), manifest, start)
    np.testing.assert_allclose(exact, plain, atol=1e-3)
    assert np.mean(exact[-5:]) < exact[0] - 1


def test_a_segment_is_within_the_replay_tolerance_of_float32(
    manifest: RunManifest, shard: Shard, lively: Floats
) -> None:
    start = InnerState.fresh(lively)
    trainers = InnerTrainer(manifest, shard), ExactTrainer(manifest, shard)
    ends = []
    for trainer in trainers:
        rounds(trainer, manifest, start)
        ends.append(trainer.state())
    one_step = []
    offsets = assignment(manifest, BEACON, ROUNDS, 1)[:2]
    for trainer in trainers:
        trainer.load(ends[0])
        trainer.run(offsets, ROUNDS * manifest.inner.steps)
        one_step.append(trainer.state())
    assert max(segment_distances(manifest, ends[0], *one_step).values()) < 3e-5


@pytest.mark.usefixtures("two_threads")
def test_two_threads_and_resuming_from_files_change_no_bit(
    manifest: RunManifest, shard: Shard, lively: Floats
) -> None:
    whole = ExactTrainer(manifest, shard)
    rounds(whole, manifest, InnerState.fresh(lively))
    prepare_process(1)
    state = InnerState.fresh(lively)
    for round_ in range(ROUNDS):
        offsets = assignment(manifest, BEACON, round_, 1)
        for step, row in enumerate(offsets):
            trainer = ExactTrainer(manifest, shard)
            trainer.load(state)
            trainer.run(row[None], round_ * manifest.inner.steps + step)
            state = InnerState.from_files(manifest.model, *files(manifest, trainer))
    assert files(manifest, trainer) == files(manifest, whole)


def test_one_changed_bit_of_the_start_changes_the_end(
    manifest: RunManifest, shard: Shard, lively: Floats
) -> None:
    ends = []
    for start in (lively, lively.copy()):
        if ends:
            start[-1] = np.nextafter(start[-1], np.float32(9))
        trainer = ExactTrainer(manifest, shard)
        rounds(trainer, manifest, InnerState.fresh(start))
        ends.append(files(manifest, trainer))
    assert ends[0] != ends[1]


def test_a_loaded_or_returned_state_is_a_copy(manifest: RunManifest, shard: Shard, lively: Floats) -> None:
    before, start = lively.copy(), InnerState.fresh(lively)
    trainer = ExactTrainer(manifest, shard)
    trainer.load(start)
    held = trainer.state()
    trainer.run(assignment(manifest, BEACON, 0, 1), 0)
    np.testing.assert_array_equal(lively, before)
    np.testing.assert_array_equal(held.parameters, before)
    assert not held.exp_avg.any()


def test_its_learning_rate_is_the_schedules() -> None:
    inner = InnerConfig()
    for step in range(0, 600, 7):
        assert exact_learning_rate(inner, step, 600) == pytest.approx(
            learning_rate(inner, step, 600), rel=1e-14
        )


def test_a_diverged_step_stops(manifest: RunManifest, shard: Shard, lively: Floats) -> None:
    trainer = ExactTrainer(manifest, shard)
    trainer.load(InnerState.fresh((lively * np.float32(1e30)).astype(np.float32)))
    with pytest.raises(OwnFault, match="finite"):
        trainer.run(assignment(manifest, BEACON, 0, 1), 0)


def test_tokens_outside_the_vocabulary_are_refused(
    make_manifest: Callable[..., RunManifest], shard: Shard
) -> None:
    narrow = make_manifest(
        model=ModelConfig(vocab=64, width=32, layers=1, heads=2, feed_forward=48, context=16)
    )
    with pytest.raises(ConfigError, match="vocabulary"):
        ExactTrainer(narrow, shard)

"""The inner step is AdamW, it is the same step whoever takes it, and it goes on where its files left off."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from protocol.errors import ConfigError, Malformed, OwnFault
from protocol.manifest import InnerConfig, RunManifest
from protocol.model_config import ModelConfig
from protocol.tensors import parameter_layout
from training.assignment import assignment, batch
from training.corpus import Shard
from training.inner import InnerState, InnerTrainer, learning_rate, read_moments, replay
from training.model import Transformer, initial_parameters

BEACON = "cd" * 32


@pytest.fixture
def start(manifest: RunManifest) -> InnerState:
    return InnerState.fresh(initial_parameters(manifest.model, 1))


def assert_same(one: InnerState, other: InnerState) -> None:
    np.testing.assert_array_equal(one.parameters, other.parameters)
    np.testing.assert_array_equal(one.exp_avg, other.exp_avg)
    np.testing.assert_array_equal(one.exp_avg_sq, other.exp_avg_sq)
    assert one.steps == other.steps


def trained(
    manifest: RunManifest, shard: Shard, state: InnerState, rounds: int
) -> tuple[InnerState, list[float]]:
    trainer, losses = InnerTrainer(manifest, shard), []
    trainer.load(state)
    for round_ in range(rounds):
        losses += trainer.run(assignment(manifest, BEACON, round_, 1), round_ * manifest.inner.steps)
    return trainer.state(), losses


ONE_STEP = """
import sys
from pathlib import Path
from protocol.manifest import RunManifest
from training.assignment import assignment
from training.corpus import Shard
from training.inner import InnerState, InnerTrainer, prepare_process
from training.model import initial_parameters

prepare_process(1)
manifest = RunManifest.from_bytes(Path(sys.argv[1]).read_bytes())
trainer = InnerTrainer(manifest, Shard.read(Path(sys.argv[2])))
trainer.load(InnerState.fresh(initial_parameters(manifest.model, 1)))
trainer.run(assignment(manifest, "cd" * 32, 0, 1)[:1], 0)
assert trainer.state().steps == 1
sys.exit("torch._dynamo" in sys.modules)
"""


def test_a_step_does_without_torchs_compiler(manifest: RunManifest, shard: Shard, tmp_path: Path) -> None:
    """Importing it costs every trainer, replayer and audit as much time again as torch itself."""
    path = tmp_path / "manifest.json"
    path.write_bytes(manifest.to_bytes())
    argv = [sys.executable, "-c", ONE_STEP, str(path), str(shard.path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_training_lowers_the_loss(
    make_manifest: Callable[..., RunManifest], shard: Shard, start: InnerState
) -> None:
    manifest = make_manifest(inner=InnerConfig(steps=10, batch=4, lr=1e-2, warmup_steps=5))
    _, losses = trained(manifest, shard, start, 6)
    assert losses[0] > math.log(256)
    assert np.mean(losses[-5:]) < 2.5


def test_state_carried_through_files_equals_uninterrupted_training(
    manifest: RunManifest, shard: Shard, start: InnerState
) -> None:
    whole, losses = trained(manifest, shard, start, 3)
    state, resumed = start, []
    for round_ in range(3):
        offsets = assignment(manifest, BEACON, round_, 1)
        for first in range(0, len(offsets), 2):
            trainer = InnerTrainer(manifest, shard)
            files = state.parameters_file(manifest.model), state.moments_file(manifest.model)
            trainer.load(InnerState.from_files(manifest.model, *files))
            resumed += trainer.run(offsets[first : first + 2], round_ * manifest.inner.steps + first)
            state = trainer.state()
    assert resumed == losses
    assert_same(state, whole)
    assert state.moments_file(manifest.model) == whole.moments_file(manifest.model)


def test_a_replay_is_the_step_that_was_trained(
    manifest: RunManifest, shard: Shard, start: InnerState
) -> None:
    offsets = assignment(manifest, BEACON, 0, 1)
    trainer = InnerTrainer(manifest, shard)
    trainer.load(start)
    trainer.run(offsets[:2], 0)
    middle = trainer.state()
    trainer.run(offsets[2:], 2)
    assert_same(replay(manifest, shard, middle, offsets[2:], 2), trainer.state())


def test_a_loaded_or_returned_state_is_a_copy(manifest: RunManifest, shard: Shard, start: InnerState) -> None:
    before = start.parameters.copy()
    trainer = InnerTrainer(manifest, shard)
    trainer.load(start)
    held = trainer.state()
    trainer.run(assignment(manifest, BEACON, 0, 1), 0)
    np.testing.assert_array_equal(start.parameters, before)
    np.testing.assert_array_equal(held.parameters, before)
    assert not held.exp_avg.any()


def test_steps_equal_the_reference_optimizer(manifest: RunManifest, shard: Shard, start: InnerState) -> None:
    """Compare with torch.optim.AdamW and gradient clipping over separate tensors, one for each layer."""
    offsets = assignment(manifest, BEACON, 0, 1)
    ours, _ = trained(manifest, shard, start, 1)
    inner, layout = manifest.inner, parameter_layout(manifest.model)
    model = Transformer(manifest.model, torch.device("cpu"))
    leaves = [
        torch.from_numpy(start.parameters[layout.slices[name]].copy()).requires_grad_()
        for name, _ in layout.tensors
    ]
    optimizer = torch.optim.AdamW(
        leaves,
        betas=(inner.beta1, inner.beta2),
        eps=inner.eps,
        weight_decay=inner.weight_decay,
        foreach=False,
        fused=False,
    )
    for step, row in enumerate(offsets):
        with torch.no_grad():
            model.parameters.copy_(torch.cat(leaves))
        model.gradient.zero_()
        model.loss(torch.from_numpy(batch(shard, row, manifest.model.context))).backward()
        for leaf, (name, _) in zip(leaves, layout.tensors, strict=True):
            leaf.grad = model.gradient[layout.slices[name]].clone()
        torch.nn.utils.clip_grad_norm_(leaves, inner.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(inner, step, manifest.total_steps)
        optimizer.step()
    reference = torch.cat(leaves).detach().numpy()
    np.testing.assert_allclose(ours.parameters, reference, rtol=0, atol=2e-6)
    assert np.abs(ours.parameters - start.parameters).max() > 1e-3


def fresh_run(make_manifest: Callable[..., RunManifest], **inner: object) -> RunManifest:
    values = {"steps": 4, "batch": 3, "lr": 1e-2, "warmup_steps": 0, "moments": "fresh", **inner}
    return make_manifest(inner=InnerConfig.model_validate(values))


def test_fresh_moments_start_from_the_first_gradient_and_end_with_what_they_hold(
    make_manifest: Callable[..., RunManifest], shard: Shard, start: InnerState
) -> None:
    """Follow the rule with plain operations on each tensor."""
    manifest = fresh_run(make_manifest)
    inner, layout = manifest.inner, parameter_layout(manifest.model)
    ours, _ = trained(manifest, shard, start, 1)
    model = Transformer(manifest.model, torch.device("cpu"))
    vector = torch.from_numpy(start.parameters.copy())
    m, v = torch.zeros_like(vector), torch.zeros_like(vector)
    for step, row in enumerate(assignment(manifest, BEACON, 0, 1)):
        with torch.no_grad():
            model.parameters.copy_(vector)
        model.gradient.zero_()
        model.loss(torch.from_numpy(batch(shard, row, manifest.model.context))).backward()
        g = model.gradient * min(1.0, inner.clip_norm / float(model.gradient.norm()))
        if step == 0:
            for name, shape in layout.tensors:
                squares = g[layout.slices[name]].view(shape).square()
                if len(shape) == 2:
                    squares = (
                        squares.mean(1, keepdim=True) * squares.mean(0) / squares.mean().clamp(min=1e-30)
                    )
                v[layout.slices[name]] = (squares if len(shape) == 2 else squares.mean()).flatten()
        m, v = inner.beta1 * m + (1 - inner.beta1) * g, inner.beta2 * v + (1 - inner.beta2) * g * g
        rate = learning_rate(inner, step, manifest.total_steps)
        moved = rate * m / (v.sqrt() + inner.eps)
        vector = vector * (1 - rate * inner.weight_decay) - moved
    # What later steps would take of m: beta1 + beta1**2 + ... times as much as the last one took.
    vector -= moved * inner.beta1 / (1 - inner.beta1)
    np.testing.assert_allclose(ours.parameters, vector.numpy(), rtol=0, atol=2e-6)
    np.testing.assert_allclose(ours.exp_avg_sq, v.numpy(), rtol=1e-4, atol=1e-12)
    assert ours.steps == inner.steps
    assert np.abs(ours.parameters - start.parameters).max() > 1e-2


def test_segments_of_fresh_moments_replay_one_by_one(
    make_manifest: Callable[..., RunManifest], shard: Shard, start: InnerState
) -> None:
    manifest = fresh_run(make_manifest)
    whole, _ = trained(manifest, shard, start, 1)
    offsets = assignment(manifest, BEACON, 0, 1)
    middle = replay(manifest, shard, start, offsets[:2], 0)
    assert_same(replay(manifest, shard, middle, offsets[2:], 2), whole)


def test_the_rate_warms_up_and_falls_to_its_floor() -> None:
    inner = InnerConfig(lr=4e-3, warmup_steps=40, min_lr_fraction=0.1)
    rates = [learning_rate(inner, step, 600) for step in range(600)]
    assert rates[0] == pytest.approx(1e-4, rel=1e-3)
    assert max(rates) == pytest.approx(4e-3, rel=0.02)
    assert rates.index(max(rates)) in (38, 39, 40)
    assert rates[-1] == pytest.approx(4e-4, rel=1e-3)
    assert learning_rate(inner.model_copy(update={"warmup_steps": 0}), 0, 600) == pytest.approx(4e-3)


def test_a_diverged_step_is_our_own_fault(manifest: RunManifest, shard: Shard, start: InnerState) -> None:
    trainer = InnerTrainer(manifest, shard)
    huge = (start.parameters * np.float32(1e30)).astype(np.float32)
    trainer.load(InnerState.fresh(huge))
    with pytest.raises(OwnFault, match="finite"):
        trainer.run(assignment(manifest, BEACON, 0, 1), 0)


def test_tokens_outside_the_vocabulary_are_refused(
    make_manifest: Callable[..., RunManifest], shard: Shard
) -> None:
    narrow = make_manifest(
        model=ModelConfig(vocab=64, width=32, layers=1, heads=2, feed_forward=48, context=16)
    )
    with pytest.raises(ConfigError, match="vocabulary"):
        InnerTrainer(narrow, shard)


def test_an_absent_device_is_refused_with_a_way_out(manifest: RunManifest, shard: Shard) -> None:
    with pytest.raises(ConfigError, match="device") as caught:
        InnerTrainer(manifest, shard, "cuda:63")
    assert "--device cpu" in caught.value.hint


def test_a_moments_file_of_another_model_is_refused(manifest: RunManifest, start: InnerState) -> None:
    data = start.moments_file(manifest.model)
    with pytest.raises(Malformed):
        read_moments(ModelConfig(), data)
    with pytest.raises(Malformed):
        read_moments(manifest.model, data[:-1])

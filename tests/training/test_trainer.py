"""A profile says which arithmetic trains; a replay under it is judged by how far honest ones may be away."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from protocol.errors import ConfigError
from protocol.manifest import CPU_BF16, CPU_EXACT, CPU_FP32, CUDA_FP32, NumericProfile, RunManifest
from training.assignment import assignment
from training.corpus import Shard
from training.distance import segment_distances
from training.exact import ExactTrainer
from training.inner import InnerState, InnerTrainer
from training.model import initial_parameters
from training.trainer import trainer_for

BEACON = "cd" * 32
PROFILES = (CPU_FP32, CPU_BF16, CPU_EXACT)


def segments(manifest: RunManifest, shard: Shard, profile: NumericProfile) -> list[InnerState]:
    """Return the states of two rounds of two segments each."""
    trainer = trainer_for(manifest, shard, profile)
    trainer.load(InnerState.fresh(initial_parameters(manifest.model, 1)))
    states = [trainer.state()]
    for round_ in range(2):
        offsets = assignment(manifest, BEACON, round_, 1)
        for first in (0, 2):
            trainer.run(offsets[first : first + 2], round_ * manifest.inner.steps + first)
            states.append(trainer.state())
    return states


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_profile_repeats_itself_bit_by_bit(
    manifest: RunManifest, shard: Shard, profile: NumericProfile
) -> None:
    one, other = (segments(manifest, shard, profile)[-1] for _ in range(2))
    np.testing.assert_array_equal(one.parameters, other.parameters)
    np.testing.assert_array_equal(one.exp_avg_sq, other.exp_avg_sq)


@pytest.mark.parametrize("profile", [CPU_FP32, CPU_BF16], ids=lambda profile: profile.name)
def test_honest_segments_are_far_within_the_slash_tolerance_of_exact_ones(
    manifest: RunManifest, shard: Shard, profile: NumericProfile
) -> None:
    states = segments(manifest, shard, profile)
    exact = trainer_for(manifest, shard, CPU_EXACT)
    for index, (start, end) in enumerate(pairwise(states)):
        offsets = assignment(manifest, BEACON, index // 2, 1)[index % 2 * 2 :][:2]
        exact.load(start)
        exact.run(offsets, index * 2)
        distance = max(segment_distances(manifest, start, end, exact.state()).values())
        assert 0 < distance * 10 <= profile.slash_bound(fresh=index == 0)


def test_bf16_computes_in_bf16_and_keeps_its_state_in_float32(manifest: RunManifest, shard: Shard) -> None:
    plain, half = (segments(manifest, shard, profile) for profile in (CPU_FP32, CPU_BF16))
    distance = max(segment_distances(manifest, plain[0], half[1], plain[1]).values())
    assert CPU_FP32.slash_bound(fresh=True) < distance < CPU_BF16.slash_bound(fresh=True)
    rounded = torch.from_numpy(half[1].parameters).bfloat16().float()
    assert not torch.equal(rounded, torch.from_numpy(half[1].parameters))


def test_exact_arithmetic_is_the_exact_trainers(manifest: RunManifest, shard: Shard) -> None:
    assert isinstance(trainer_for(manifest, shard, CPU_EXACT), ExactTrainer)
    assert isinstance(trainer_for(manifest, shard, CPU_FP32), InnerTrainer)


def test_a_device_of_another_class_is_refused_with_a_way_out(manifest: RunManifest, shard: Shard) -> None:
    with pytest.raises(ConfigError, match="cuda-fp32 computes on cuda") as caught:
        trainer_for(manifest, shard, CUDA_FP32, "cpu")
    assert "--device cuda" in caught.value.hint
    with pytest.raises(ConfigError, match="not on cuda:1"):
        trainer_for(manifest, shard, CPU_EXACT, "cuda:1")


@pytest.mark.parametrize("profile", [CPU_FP32, CPU_EXACT])
def test_gradients_are_measured_before_they_are_clipped(
    manifest: RunManifest, shard: Shard, profile: NumericProfile
) -> None:
    trainer = trainer_for(manifest, shard, profile)
    start = InnerState.fresh(initial_parameters(manifest.model, 1))
    rows = assignment(manifest, "cd" * 32, 0, 1)[:2]
    trainer.load(start)
    trainer.backward(rows[0])
    norm = float(torch.linalg.vector_norm(trainer.gradient.double()))
    trainer.load(start)
    assert trainer.gradient_norms() == []
    trainer.run(rows, 0)
    found = trainer.gradient_norms()
    assert len(found) == 2
    assert found[0] == pytest.approx(norm, rel=1e-6)
    trainer.load(start)
    assert trainer.gradient_norms() == []

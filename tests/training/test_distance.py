"""Distances are relative to the change, tensor by tensor, and rounding noise on a small change is not a difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from protocol.manifest import CPU_FP32, RunManifest
from protocol.tensors import Layout, parameter_layout
from training.assignment import assignment
from training.corpus import Shard
from training.distance import change_distance, segment_distances
from training.inner import InnerState, InnerTrainer, replay
from training.model import initial_parameters

LAYOUT = Layout((("a", (4,)), ("b", (2, 3))))
BEACON = "ef" * 32


def test_each_tensor_is_measured_against_its_own_change() -> None:
    start = np.zeros(10, np.float32)
    replayed = np.array([1, 1, 1, 1, 10, 10, 10, 10, 10, 10], np.float32)
    claimed = replayed.copy()
    claimed[0] += 2
    claimed[9] += 2
    distances = change_distance(start, claimed, replayed, LAYOUT, 1e-9)
    assert distances == {"a": pytest.approx(1.0), "b": pytest.approx(2 / np.sqrt(600))}


def test_the_floor_bounds_what_a_small_change_is_measured_against() -> None:
    start = np.ones(10, np.float32)
    claimed = start.copy()
    claimed[0] += np.float32(2**-20)
    distances = change_distance(start, claimed, start, LAYOUT, 0.5)
    assert distances == {"a": pytest.approx(2**-20 / (0.5 * 2)), "b": 0.0}


def test_equal_ends_are_at_no_distance_even_without_change() -> None:
    same = np.ones(10, np.float32)
    assert set(change_distance(same, same, same, LAYOUT, 1e-6).values()) == {0.0}


@pytest.fixture
def segment(manifest: RunManifest, shard: Shard) -> tuple[InnerState, InnerState, np.ndarray]:
    trainer = InnerTrainer(manifest, shard)
    trainer.load(InnerState.fresh(initial_parameters(manifest.model, 0)))
    trainer.run(assignment(manifest, BEACON, 0, 1), 0)
    start, offsets = trainer.state(), assignment(manifest, BEACON, 1, 1)[:2]
    trainer.run(offsets, 4)
    return start, trainer.state(), offsets


def worst(manifest: RunManifest, start: InnerState, claimed: InnerState, replayed: InnerState) -> float:
    return max(segment_distances(manifest, start, claimed, replayed).values())


def test_every_tensor_and_moment_is_measured(
    manifest: RunManifest, segment: tuple[InnerState, InnerState, np.ndarray]
) -> None:
    start, end, _ = segment
    names = [name for name, _ in parameter_layout(manifest.model).tensors]
    expected = {f"{part}.{name}" for part in ("parameters", "exp_avg", "exp_avg_sq") for name in names}
    assert segment_distances(manifest, start, end, end).keys() == expected


def test_an_honest_replay_is_at_no_distance_on_the_same_machine(
    manifest: RunManifest, shard: Shard, segment: tuple[InnerState, InnerState, np.ndarray]
) -> None:
    start, end, offsets = segment
    assert worst(manifest, start, end, replay(manifest, shard, start, offsets, 4)) == 0


def test_less_or_other_work_is_far_beyond_the_tolerance(
    manifest: RunManifest,
    make_manifest: Callable[..., RunManifest],
    shard: Shard,
    segment: tuple[InnerState, InnerState, np.ndarray],
) -> None:
    start, end, offsets = segment
    slower = make_manifest(inner=manifest.inner.model_copy(update={"lr": manifest.inner.lr * 0.99}))
    claims = {
        "a step left out": replay(manifest, shard, start, offsets[:1], 4),
        "other data": replay(manifest, shard, start, offsets[::-1] + 1, 4),
        "a lower rate": replay(slower, shard, start, offsets, 4),
        "nothing at all": start,
    }
    bound = CPU_FP32.slash_tolerance
    for claim, state in claims.items():
        assert worst(manifest, start, state, end) > bound, claim


def test_one_edited_tensor_is_seen(
    manifest: RunManifest, segment: tuple[InnerState, InnerState, np.ndarray]
) -> None:
    start, end, _ = segment
    edited = end.parameters.copy()
    edited[parameter_layout(manifest.model).slices["norm"]] *= np.float32(1 + 1e-5)
    distances = segment_distances(manifest, start, replace(end, parameters=edited), end)
    assert max(distances, key=lambda name: distances[name]) == "parameters.norm"
    assert distances["parameters.norm"] > CPU_FP32.tolerance


def test_moments_weigh_as_the_next_step_feels_them(
    manifest: RunManifest, segment: tuple[InnerState, InnerState, np.ndarray]
) -> None:
    start, end, _ = segment
    place = parameter_layout(manifest.model).slices["embedding"]
    small = place.start + int(np.argmin(end.exp_avg_sq[place]))
    shift = np.float32(1e-6 * np.linalg.norm(end.exp_avg[place] - start.exp_avg[place]))
    moved = end.exp_avg.copy()
    moved[small] += shift
    distances = segment_distances(manifest, start, replace(end, exp_avg=moved), end)
    assert distances["exp_avg.embedding"] > 1e-5, "next to nothing in the norm of its tensor, much in a step"
    erased = end.exp_avg_sq.copy()
    erased[small] = -1.0
    distances = segment_distances(manifest, start, replace(end, exp_avg_sq=erased), end)
    assert distances["exp_avg_sq.embedding"] > 1, "what no honest state holds is far off"

"""Matrices of blocks take Muon's steps: torch's, but for what orthogonalises, and the exact reference's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from protocol.manifest import InnerConfig, MuonConfig, RunManifest
from protocol.tensors import frozen, parameter_layout
from tests.training.parameters import alive
from training.assignment import assignment
from training.corpus import Shard
from training.distance import segment_distances
from training.exact import ExactTrainer
from training.inner import InnerState, InnerTrainer, learning_rate
from training.muon import LAST_STEP, NORM_EPS, adamw_places, muon_places, orthogonalised

BEACON = "cd" * 32
Make = Callable[..., RunManifest]


def muon(make_manifest: Make, steps: int = 4, **changes: object) -> RunManifest:
    settings = {"steps": steps, "batch": 3, "warmup_steps": 0, "muon": MuonConfig(), **changes}
    return make_manifest(inner=InnerConfig.model_validate(settings))


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 24, 24)])
def test_singular_values_end_around_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    found = orthogonalised(matrices / torch.linalg.matrix_norm(matrices, keepdim=True), torch.matmul)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.13
    assert values.max() < 1.87
    # It turns the matrix no further: its singular vectors stay.
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    rest = left.mT @ found @ right.mT
    assert torch.triu(rest, 1).abs().max() < 1e-4


def test_a_matrix_of_zeros_stays() -> None:
    assert not orthogonalised(torch.zeros(1, 4, 6), torch.matmul).any()


@pytest.mark.parametrize("layers", [None, 1])
def test_every_learning_parameter_takes_one_kind_of_step(make_manifest: Make, layers: int | None) -> None:
    manifest = muon(make_manifest, last_layers=layers)
    layout, matrices = parameter_layout(manifest.model), muon_places(manifest)
    taken = sorted(
        (*(place for same in matrices.values() for place in same), *adamw_places(manifest)),
        key=lambda place: place.start,
    )
    assert taken[0].start == frozen(manifest)
    assert taken[-1].stop == layout.size
    assert all(one.stop == other.start for one, other in pairwise(taken))
    names = {name for name, place in layout.slices.items() if place in taken and name.startswith("blocks.")}
    assert len(names) == 4 * (layers or manifest.model.layers)
    assert all(layout.slices[name].start >= frozen(manifest) for name in names)
    plain = make_manifest()
    assert not muon_places(plain)
    assert adamw_places(plain) == (slice(0, layout.size),)


def test_steps_are_torchs_but_for_what_orthogonalises(
    make_manifest: Make, shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.optim.Muon's Newton-Schulz steps are others, in bfloat16; momentum, decay and length are the same."""

    def ours(matrix: torch.Tensor, *_: object) -> torch.Tensor:
        return orthogonalised((matrix / (matrix.norm() + NORM_EPS))[None], torch.matmul)[0]

    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", ours)
    manifest = muon(make_manifest)
    config, start = manifest.inner.muon, alive(manifest.model)
    assert config is not None
    gradients = torch.randn(3, start.size, generator=torch.Generator().manual_seed(2))
    gradients /= 2 * torch.linalg.vector_norm(gradients, dim=1, keepdim=True)  # nothing is clipped
    trainer = InnerTrainer(manifest, shard)
    trainer.load(InnerState.fresh(start))
    for step, gradient in enumerate(gradients):
        trainer.gradient.copy_(gradient)
        trainer.descend(step)
    end = torch.from_numpy(trainer.state().parameters)
    for shape, places in muon_places(manifest).items():
        for place in places:
            leaf = torch.from_numpy(start[place].copy()).view(shape).requires_grad_()
            theirs = torch.optim.Muon(
                [leaf], momentum=config.momentum, weight_decay=manifest.inner.weight_decay
            )
            for step, gradient in enumerate(gradients):
                leaf.grad = gradient[place].view(shape).clone()
                rate = learning_rate(manifest.inner, step, manifest.total_steps) / manifest.inner.lr
                theirs.param_groups[0]["lr"] = config.lr * rate
                theirs.step()
            expected = leaf.detach().flatten() - torch.from_numpy(start[place])
            error = end[place] - leaf.detach().flatten()
            assert error.norm() < 1e-4 * expected.norm()


def test_the_last_step_of_a_round_is_long_where_momentum_ends_with_it(
    make_manifest: Make, shard: Shard
) -> None:
    ends = {}
    for moments in ("carried", "fresh"):
        manifest = muon(make_manifest, steps=2, moments=moments, weight_decay=0.0, min_lr_fraction=1.0)
        trainer = InnerTrainer(manifest, shard)
        trainer.load(InnerState.fresh(alive(manifest.model)))
        gradients = torch.randn(2, alive(manifest.model).size, generator=torch.Generator().manual_seed(2))
        states = [trainer.state().parameters]
        for step, gradient in enumerate(gradients):
            trainer.gradient.copy_(gradient)
            trainer.descend(step)
            states.append(trainer.state().parameters)
        place = muon_places(manifest)[32, 32][0]
        ends[moments] = [np.linalg.norm(after[place] - before[place]) for before, after in pairwise(states)]
    assert ends["fresh"][0] == pytest.approx(ends["carried"][0], rel=1e-4)
    assert ends["fresh"][1] == pytest.approx(LAST_STEP * ends["carried"][1], rel=1e-4)


@pytest.mark.parametrize("moments", ["carried", "fresh"])
@pytest.mark.parametrize("layers", [None, 1])
def test_exact_steps_follow_float32(
    make_manifest: Make, shard: Shard, layers: int | None, moments: str
) -> None:
    manifest = muon(make_manifest, steps=6, moments=moments, last_layers=layers)
    start, rows = InnerState.fresh(alive(manifest.model)), assignment(manifest, BEACON, 0, 1)
    ends = []
    for trainer in (InnerTrainer(manifest, shard), ExactTrainer(manifest, shard)):
        trainer.load(start)
        trainer.run(rows, 0)
        ends.append(trainer.state())
    assert max(segment_distances(manifest, start, *ends).values()) < 1e-4
    assert ends[0].steps == ends[1].steps == 6
    first = frozen(manifest)
    assert np.array_equal(ends[0].parameters[:first], start.parameters[:first])
    assert (ends[0].parameters[first:] != start.parameters[first:]).all()


@pytest.mark.parametrize("trainer", [InnerTrainer, ExactTrainer])
def test_only_what_adamw_moves_has_second_moments(
    make_manifest: Make, shard: Shard, trainer: type[InnerTrainer | ExactTrainer]
) -> None:
    """So that updates have nothing to say of the others, and their slices compress to next to nothing."""
    manifest = muon(make_manifest, moments="fresh")
    found = trainer(manifest, shard)
    found.load(InnerState.fresh(alive(manifest.model)))
    found.run(assignment(manifest, BEACON, 0, 1), 0)
    second = found.state().exp_avg_sq
    for places in muon_places(manifest).values():
        assert not any(second[place].any() for place in places)
    for place in adamw_places(manifest):
        assert second[place].any()


def test_momentum_goes_on_from_files(make_manifest: Make, shard: Shard) -> None:
    manifest = muon(make_manifest, steps=4)
    rows = assignment(manifest, BEACON, 0, 1)
    whole = InnerTrainer(manifest, shard)
    whole.load(InnerState.fresh(alive(manifest.model)))
    whole.run(rows[:2], 0)
    state = whole.state()
    whole.run(rows[2:], 2)
    resumed = InnerTrainer(manifest, shard)
    files = state.parameters_file(manifest.model), state.moments_file(manifest.model)
    resumed.load(InnerState.from_files(manifest.model, *files))
    resumed.run(rows[2:], 2)
    for end in (resumed.state(), whole.state()):
        assert end.parameters_file(manifest.model) == whole.state().parameters_file(manifest.model)
        assert end.moments_file(manifest.model) == whole.state().moments_file(manifest.model)


def test_a_shift_of_a_matrix_s_momentum_or_a_second_moment_is_seen(make_manifest: Make, shard: Shard) -> None:
    manifest = muon(make_manifest)
    start = InnerState.fresh(alive(manifest.model))
    trainer = InnerTrainer(manifest, shard)
    trainer.load(start)
    trainer.run(assignment(manifest, BEACON, 0, 1), 0)
    end, name = trainer.state(), "blocks.1.down"
    place = parameter_layout(manifest.model).slices[name]
    shifted = end.exp_avg.copy()
    shifted[place] += (
        np.float32(0.01) * np.linalg.norm(shifted[place]) / np.sqrt(np.float32(shifted[place].size))
    )
    found = segment_distances(manifest, start, replace(end, exp_avg=shifted), end)
    assert found.pop(f"exp_avg.{name}") == pytest.approx(0.01, rel=1e-3)
    assert not any(found.values())
    invented = end.exp_avg_sq.copy()
    invented[place] = 1e-9
    found = segment_distances(manifest, start, replace(end, exp_avg_sq=invented), end)
    assert found[f"exp_avg_sq.{name}"] > 1e-3


def test_what_hides_in_the_smallest_directions_of_momentum_moves_little(
    make_manifest: Make, shard: Shard
) -> None:
    """Orthogonalised, the smallest singular value counts as much as the largest, so that a shift is put there."""
    manifest = muon(make_manifest, steps=6)
    tolerance, rows = manifest.verification.profiles[0].tolerance, assignment(manifest, BEACON, 0, 1)
    trainer = InnerTrainer(manifest, shard)
    trainer.load(InnerState.fresh(alive(manifest.model)))
    trainer.run(rows[:2], 0)
    before = trainer.state()
    trainer.run(rows[2:4], 2)
    honest = trainer.state()
    shifted = honest.exp_avg.copy()
    for shape, places in muon_places(manifest).items():
        for place in places:
            left, _, right = np.linalg.svd(honest.exp_avg[place].reshape(shape), full_matrices=False)
            room = 0.8 * tolerance * np.linalg.norm(honest.exp_avg[place] - before.exp_avg[place])
            shifted[place] -= room * np.outer(left[:, -1], right[-1]).ravel()
    hidden = replace(honest, exp_avg=shifted)
    assert max(segment_distances(manifest, before, hidden, honest).values()) < tolerance
    ends = []
    for state in (honest, hidden):
        trainer.load(state)
        trainer.run(rows[4:], 4)
        ends.append(trainer.state().parameters)
    for places in muon_places(manifest).values():
        for place in places:
            moved = np.linalg.norm(ends[1][place] - ends[0][place])
            assert moved < 0.01 * np.linalg.norm(ends[0][place] - honest.parameters[place])

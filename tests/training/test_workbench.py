"""What a child is given, and what it refuses, before any of it is computed on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import ConfigError, Malformed, NetworkError, ProofRejected
from protocol.manifest import MergingConfig, RunManifest
from protocol.tensors import parameter_layout
from protocol.update import encode
from training.codec import compress
from training.corpus import Shard
from training.joint import merge
from training.merging import Merit
from training.model import initial_parameters
from training.outer import aggregate, initial_state, parameters_file
from training.program import check_program
from training.workbench import (
    AggregateRequest,
    DeviceLoadRequest,
    LoadRequest,
    MergedUnit,
    WeighRequest,
    Workbench,
    child_environment,
)


@pytest.fixture
def make_bench(manifest: RunManifest, directory: Path, tmp_path: Path) -> Callable[..., Workbench]:
    """Return a function that opens the bench of the small run with fields of the request replaced."""
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())

    def make(**changes: Path) -> Workbench:
        fields = {
            "manifest_path": tmp_path / "manifest.json",
            "store": tmp_path / "blobs",
            "data_dir": directory,
        }
        return Workbench.open(LoadRequest.model_validate(fields | changes))

    return make


def test_a_request_arrives_as_it_was_sent(tmp_path: Path) -> None:
    request = DeviceLoadRequest(
        manifest_path=tmp_path / "m", store=tmp_path, data_dir=tmp_path, threads=3, device="cuda:1"
    )
    assert DeviceLoadRequest.model_validate(request.params()) == request


def test_updates_are_aggregated_by_address(
    make_bench: Callable[..., Workbench], manifest: RunManifest
) -> None:
    bench = make_bench()
    generator, size = np.random.default_rng(5), parameter_layout(manifest.model).size
    updates = [
        compress(manifest.codec, generator.normal(0, 1e-3, size).astype(np.float32), None)[0]
        for _ in range(3)
    ]
    state = initial_state(manifest, initial_parameters(manifest.model, 1))
    request = AggregateRequest(
        parameters=bench.store.put(parameters_file(manifest, state)),
        updates=tuple(bench.store.put(encode(update)) for update in updates),
        weights=(1, 1, 1),
    )
    found = bench.parameters(bench.aggregate(request))
    assert found.parameters.tobytes() == aggregate(manifest, state, updates).parameters.tobytes()
    with pytest.raises(NetworkError, match="not in the store"):
        bench.aggregate(request.model_copy(update={"updates": ("ee" * 32,), "weights": (1,)}))
    with pytest.raises(Malformed):
        bench.aggregate(request.model_copy(update={"updates": (bench.store.put(b"noise"),)}))
    with pytest.raises(Malformed):
        bench.parameters(bench.store.put(b"noise"))


def test_a_joint_update_is_made_and_held_against_what_it_was_made_of(
    make_bench: Callable[..., Workbench], manifest: RunManifest
) -> None:
    bench = make_bench()
    joint = manifest.model_copy(update={"merging": MergingConfig(joint_k=512)})
    bench = replace(bench, manifest=joint)
    generator, size = np.random.default_rng(5), parameter_layout(joint.model).size
    updates = [
        compress(joint.codec, generator.normal(0, 1e-3, size).astype(np.float32), None)[0] for _ in range(3)
    ]
    state = initial_state(joint, initial_parameters(joint.model, 1))
    blobs = tuple(bench.store.put(encode(update)) for update in updates)
    units = tuple(MergedUnit(number=number, salt="5a" * 32, score=None) for number in (1, 2, 3))
    start = bench.store.put(parameters_file(joint, state))
    weigh = WeighRequest(parameters=start, updates=blobs, weights=(1, 3, 2), round=0, units=units)
    merits = (Merit(passed=True, reason=""), Merit(passed=False, reason="no"), Merit(passed=True, reason=""))
    found = bench.weigh(weigh, lambda state, updates: merits)
    assert found.joint is not None
    moving = {"updates": (blobs[0], blobs[2]), "weights": (1, 2)}
    alone = AggregateRequest(parameters=start, joint=found.joint, updates=(), weights=())
    expected = aggregate(joint, state, [merge(joint, [updates[0], updates[2]], [1, 2])])
    after = bench.aggregate(alone)
    assert bench.parameters(after).parameters.tobytes() == expected.parameters.tobytes()
    assert bench.aggregate(alone.model_copy(update=moving)) == after
    assert alone.model_copy(update=moving).blobs == (start, found.joint, blobs[0], blobs[2])
    for wrong in ({"weights": (2, 1)}, {"updates": blobs[:2]}):
        with pytest.raises(ProofRejected, match="is not the joint update"):
            bench.aggregate(alone.model_copy(update=moving | wrong))
    with pytest.raises(Malformed):
        bench.aggregate(alone.model_copy(update={"joint": blobs[0]}))
    bench.store.delete(found.joint)
    with pytest.raises(NetworkError, match="not in the store"):
        bench.aggregate(alone)
    assert bench.aggregate(alone.model_copy(update=moving)) == after
    assert bench.store.has(found.joint), "for whoever lacks it"
    nobody = tuple(replace(one, passed=False) for one in merits)
    assert bench.weigh(weigh, lambda state, updates: nobody).joint is None


def test_a_missing_shard_is_made_of_its_text(
    make_bench: Callable[..., Workbench], shard: Shard, directory: Path, tmp_path: Path
) -> None:
    assert make_bench().shard().tokens.tobytes() == shard.tokens.tobytes()
    made = make_bench(data_dir=tmp_path / "fresh", data=directory / "flock.txt").shard()
    assert made.path.parent == tmp_path / "fresh"
    assert made.tokens.tobytes() == shard.tokens.tobytes()


def test_another_text_than_the_runs_is_refused(make_bench: Callable[..., Workbench], tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_bytes(b"some other text")
    with pytest.raises(ConfigError, match="no shard of dataset"):
        make_bench(data_dir=tmp_path / "fresh", data=tmp_path / "other.txt").shard()


def test_a_damaged_manifest_is_refused(make_bench: Callable[..., Workbench], tmp_path: Path) -> None:
    (tmp_path / "damaged.json").write_bytes(b"{}")
    with pytest.raises(Malformed):
        make_bench(manifest_path=tmp_path / "damaged.json")


def test_a_machine_that_computes_another_program_is_refused(manifest: RunManifest) -> None:
    assert check_program(manifest, manifest.program) == manifest.program
    for computed in ("ab" * 32, None):
        with pytest.raises(ConfigError, match="computes program") as caught:
            check_program(manifest, computed)
        assert "install" in caught.value.hint


def test_a_child_starts_with_its_threads() -> None:
    found = child_environment(3)
    assert found["OMP_NUM_THREADS"] == found["MKL_NUM_THREADS"] == "3"


def test_a_bench_does_not_load_torch() -> None:
    program = "import sys, training.workbench; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

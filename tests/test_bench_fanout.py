"""The figures of `python -m tests.bench fanout`, on few peers and small runs."""

from __future__ import annotations

from pathlib import Path

from protocol.manifest import InnerConfig, MergingConfig
from tests.bench._cells import Cell, train
from tests.bench._peers import bench_manifest
from tests.bench.fanout import Swarm, variants

INNER = InnerConfig(steps=3, batch=1)


def test_downloads_are_those_that_the_product_decides(tmp_path: Path) -> None:
    merging = MergingConfig(gate_windows=0, similarity=0, joint_k=256)
    manifest, shard = bench_manifest(tmp_path, 0, merging=merging, inner=INNER)
    swarm = Swarm(manifest, shard, 5, 0, tmp_path)
    for round_ in range(2):
        swarm.play(round_)
    found = swarm.downloads
    row = found.row(5)
    assert row["peers"] == 5
    assert row["all KiB"] < 5 * row["update KiB"]
    witnesses = manifest.verification.witnesses
    for round_ in range(2):
        joint, everybody = (one[5 * round_ : 5 * round_ + 5] for one in (found.joint, found.everybody))
        alone = found.joint_update[round_]
        assert sorted(joint)[: 5 - witnesses] == [alone] * (5 - witnesses)
        fetched = zip(joint, everybody, strict=True)
        assert sum(mine == alone + other for mine, other in fetched) == witnesses
    assert min(found.messages) > 5 * 1000


def test_a_joint_update_costs_a_run_something_but_not_its_learning(tmp_path: Path) -> None:
    base = Cell(rounds=3, peers=3, steps=6, batch=2, warmup=5)
    cells = base, base.model_copy(update={"joint": 512})
    together, joint = (train(cell, tmp_path, lambda steps: None) for cell in cells)
    assert together.report is not None
    assert joint.report is not None
    assert joint.report != together.report
    assert joint.report < together.report + 0.2
    assert abs(joint.bytes - together.bytes) < together.bytes / 10, "own updates are as large"


def test_the_table_compares_equal_runs_and_training_alone() -> None:
    cells = variants((8, 16), 512)
    assert next(iter(cells)) == "alone"
    assert cells["alone"].scheme == "local"
    for peers in (8, 16):
        plain, joint = cells[f"{peers} peers, all updates"], cells[f"{peers} peers, joint update"]
        assert plain == joint.model_copy(update={"joint": None})
        assert (plain.peers, joint.joint, plain.kind) == (peers, 512, "sparse")

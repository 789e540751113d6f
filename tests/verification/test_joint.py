"""Runs with joint updates: what comes back is replayed, and a wrong joint update is named by whoever recomputes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from protocol.manifest import MergingConfig, OuterConfig, TierConfig
from protocol.messages import PASSED, PROVEN_FALSE
from protocol.tensors import parameter_layout, unpack
from protocol.update import encode
from tests.verification.mischief import other_rate
from tests.verification.testbed import Testbed, Trial
from training.codec import compress
from training.joint import merge, share_of
from training.model import initial_parameters
from training.outer import load_parameters
from training.workbench import Weighing, WeighRequest, Workbench
from verification.anchor import ChainAnchor
from verification.audit import AuditReport, audit
from verification.blobs import find_blob
from verification.bundle import export_bundle, load_bundle
from verification.facts import chain_facts
from verification.lateness import in_force
from verification.proof import verify_bundle
from verification.retract import aggregate_request

JOINT = {"merging": MergingConfig(gate_windows=0, similarity=0, joint_k=48)}


@pytest.fixture
def joint_bed(make_bed: Callable[..., Testbed]) -> Callable[..., Testbed]:
    return lambda **changes: make_bed(**(JOINT | changes))


def audited(bed: Testbed) -> AuditReport:
    find = find_blob([bed.archive.blobs, bed.states.root])
    return audit(bed.archive, bed.chain, bed.run, find, replay="all", shard=lambda: bed.shard)


def faults(report: AuditReport) -> dict[str, str]:
    return {check.name: check.detail for check in report.checks if not check.ok}


def forgetful(trial: Trial) -> None:
    """Leave out of an update what came back of the one before."""
    raw = trial.bed.states.get(trial.bed.made[trial.round - 1, trial.number].residual, max_size=1 << 24)
    residual, _ = unpack(parameter_layout(trial.bed.manifest.model), raw)
    trial.symbols, trial.residual = compress(trial.bed.manifest.codec, trial.start - trial.final, residual)


def test_a_run_with_joint_updates_passes_every_check(joint_bed: Callable[..., Testbed]) -> None:
    bed = joint_bed()
    bed.play_run()
    assert {report.outcome for report in bed.reports.values()} == {PASSED}
    for round_, record in bed.records.items():
        assert record.body.joint is not None
        assert aggregate_request(record.body, {}).updates == (), "the joint update moves the parameters alone"
        for number in bed.contributors:
            back = bed.carried(round_ + 1, number).returned
            assert back is not None
            assert back.joint == record.body.joint
    report = audited(bed)
    assert not faults(report)
    assert next(one for one in report.checks if one.name == "replays").count == len(bed.reports)


def test_units_that_begin_before_the_outer_step_get_back_what_was_left_out_too(
    joint_bed: Callable[..., Testbed],
) -> None:
    bed = joint_bed(outer=OuterConfig(delay=1))
    bed.play_run()
    assert {report.outcome for report in bed.reports.values()} == {PASSED}
    assert all(bed.carried(round_, 1).returned is not None for round_ in (1, 2))
    assert not faults(audited(bed))


def test_tiers_judged_updates_and_joint_updates_go_together(joint_bed: Callable[..., Testbed]) -> None:
    merging = MergingConfig(gate_windows=8, joint_k=48)
    tiers = (TierConfig(steps=6, batch=1), TierConfig(steps=2, batch=1))
    bed = joint_bed(merging=merging, tiers=tiers)
    bed.wishes = {1: 0, 2: 1, 3: 2}
    bed.play_run()
    assert {report.outcome for report in bed.reports.values()} == {PASSED}
    weights = [unit.weight for unit in bed.records[1].body.units]
    assert len(set(weights)) > 1, "by tier, or doubted"
    for round_ in (1, 2):
        for unit in bed.records[round_ - 1].body.units:
            assert (bed.carried(round_, unit.number).returned is not None) == unit.moves
    assert not faults(audited(bed))


def test_who_does_not_take_back_what_was_left_out_is_proven_false(joint_bed: Callable[..., Testbed]) -> None:
    bed = joint_bed()
    bed.play_run({(1, 2): {"symbols": forgetful}})
    assert bed.reports[1, 2].outcome == PROVEN_FALSE
    assert bed.reports[1, 2].forged_residual
    assert {bed.reports[1, number].outcome for number in (1, 3)} == {PASSED}
    assert bed.carried(3, 2).returned is None, "who is found out gets nothing back"
    assert not faults(audited(bed))


def test_nothing_comes_back_after_a_void_round(joint_bed: Callable[..., Testbed]) -> None:
    bed = joint_bed()
    bed.late = {1}
    bed.play_run()
    assert bed.carried(1, 1).returned is not None
    assert bed.carried(2, 1).returned is None
    assert in_force(bed.records[1].body, void=True).joint is None
    assert not faults(audited(bed))


def test_a_wrong_joint_update_is_named(
    joint_bed: Callable[..., Testbed], monkeypatch: pytest.MonkeyPatch
) -> None:
    bed = joint_bed()
    weigh = Workbench.weigh

    def favour_the_first(self: Workbench, request: WeighRequest, judge: object) -> Weighing:
        found = weigh(self, request, judge)  # type: ignore[arg-type]
        if request.round != 1:
            return found
        updates = bed.updates(bed.records[0].body)
        wrong = encode(merge(bed.manifest, updates[:1], [1]))
        return dataclasses.replace(found, joint=bed.public.put(wrong))

    monkeypatch.setattr(Workbench, "weigh", favour_the_first)
    bed.play_run()
    record = bed.records[1].body
    found = faults(audited(bed))
    assert set(found) == {"aggregation"}
    assert (
        f"the joint update of round 1, {record.joint}, is not what its 3 updates give" in found["aggregation"]
    )


def test_a_joint_update_that_nobody_holds_leaves_an_audit_undecided(
    joint_bed: Callable[..., Testbed],
) -> None:
    bed = joint_bed()
    bed.play_run()
    address = bed.records[1].body.joint
    assert address is not None
    bed.public.delete(address)
    assert address in faults(audited(bed))["aggregation"]
    assert audited(bed).exit_code == 7


def test_what_is_taken_back_is_the_share_within_the_joint_update(joint_bed: Callable[..., Testbed]) -> None:
    bed = joint_bed(rounds=2)
    bed.play_run({(0, 2): other_rate(0, 0.5) | other_rate(1, 0.5) | other_rate(2, 0.5)})
    manifest, records = bed.manifest, [bed.records[round_].body for round_ in range(2)]
    assert [(one.round, one.number) for one in records[1].retracted] == [(0, 2)]
    gradient = np.zeros(bed.parameters_size)
    for record in records:
        updates = bed.updates(record)
        joint = merge(manifest, updates, [1, 1, 1])
        gradient[joint.positions] += joint.integers * 2.0**joint.exponent
        if record is records[0]:
            share = share_of(updates, 1, [1, 1, 1], joint)
            gradient[share.positions] -= np.ldexp(share.integers.astype(np.float64), share.grid)
    end = load_parameters(manifest, bed.public.get(bed.parameters, max_size=1 << 24)).parameters
    start = initial_parameters(manifest.model, seed=1).astype(np.float64)
    np.testing.assert_allclose(end, start - manifest.outer.lr * gradient, rtol=1e-6, atol=1e-8)
    assert not faults(audited(bed))


def test_a_bundle_holds_what_came_back(
    joint_bed: Callable[..., Testbed], corpus: Path, tmp_path: Path
) -> None:
    bed = joint_bed()
    bed.play_run()
    chain, path = chain_facts(bed.chain, bed.manifest), tmp_path / "unit.bundle"
    export_bundle(bed.archive, chain, find_blob([bed.archive.blobs, bed.states.root]), 1, 1, path)
    bundle = load_bundle(path)
    back = bundle.carried.returned
    assert back is not None
    assert {back.joint, back.update} <= bundle.files.keys()
    report = verify_bundle(path, ChainAnchor(chain, "the chain"), data=corpus)
    assert (report.exit_code, report.unit) == (0, "passed")

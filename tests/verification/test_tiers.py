"""Peers of different tiers in one run: drawn, replayed, weighed and paid by what they did, and audited."""

import copy
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import Malformed
from protocol.manifest import InnerConfig, MergingConfig, TierConfig
from protocol.messages import sign
from tests.verification.test_audit import Forge
from tests.verification.testbed import Testbed, key, tiny_manifest
from training.assignment import assignment, assignment_digest
from verification.archive import Archive
from verification.audit import AuditReport, audit
from verification.blobs import find_blob
from verification.commit import Carried, check_commitment
from verification.settle import earned_in_epoch

UNIT = 10**18


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Testbed:
    """Return a run of three peers who want the full tier, half of it, and a sixth, and of epochs of two rounds."""
    directory = tmp_path_factory.mktemp("tiers")
    manifest = tiny_manifest(
        corpus,
        directory / "data",
        rounds=4,
        inner=InnerConfig(steps=6, batch=2, lr=4e-3, warmup_steps=2),
        tiers=(TierConfig(steps=6, batch=1), TierConfig(steps=2, batch=1)),
        merging=MergingConfig(gate_windows=8),
    )
    bed = Testbed(directory, manifest)
    bed.wishes = {1: 0, 2: 1, 3: 2}
    bed.play_run()
    return bed


def checked(bed: Testbed, archive: Archive | None = None, chain: Any = None) -> AuditReport:
    find = find_blob([bed.archive.blobs, bed.states.root])
    shard = bed.shard
    return audit(
        archive or bed.archive, chain or bed.chain, bed.run, find, replay="sampled", shard=lambda: shard
    )


def test_newcomers_do_the_smallest_unit_and_then_what_they_declared(played: Testbed) -> None:
    tiers = [[unit.tier for unit in played.records[round_].body.units] for round_ in range(4)]
    assert tiers == [[2, 2, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    segments = [
        len(made.commitment.body.segments) - 1 for (r, _), made in sorted(played.made.items()) if r == 1
    ]
    assert segments == [3, 3, 1]


def test_weight_in_the_mean_is_by_samples(played: Testbed) -> None:
    weights = [unit.weight for unit in played.records[1].body.units]
    assert all(found in (0, wanted) for found, wanted in zip(weights, (6, 3, 1), strict=True))
    assert any(weights)


def test_every_unit_is_replayed_and_the_whole_audit_holds(played: Testbed) -> None:
    report = checked(played)
    assert [check for check in report.checks if not check.ok] == []


def test_pay_is_by_samples(played: Testbed) -> None:
    earned = earned_in_epoch(played.manifest, [one for one in played.settled if one.round in (2, 3)])
    assert [earned[number] for number in (1, 2, 3)] == [2 * UNIT, UNIT, 2 * (UNIT // 6)]


def test_a_record_that_gives_another_tier_is_found(played: Testbed, tmp_path: Path) -> None:
    chain, folder = copy.deepcopy(played.chain), tmp_path / "public"
    shutil.copytree(played.archive.root, folder)
    archive = Archive(folder)
    dossier, record = archive.round(played.manifest, 2), played.records[2].body
    assert dossier is not None
    units = tuple(
        unit.model_copy(update={"tier": 0, "weight": 6}) if unit.number == 3 else unit
        for unit in record.units
    )
    body = record.model_copy(update={"units": units})
    archive.write_round(
        dataclasses.replace(dossier, record=sign(key(0), played.manifest, 2, "coordinator", body))
    )
    chain.records[2] = body.digest().hex()
    check = next(one for one in checked(played, archive, chain).checks if one.name == "merging")
    assert check.result == "rejected"
    assert "number 3 tier 0" in check.detail


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tier": 1}, "declared was 0"),
        ({"next_tier": 1}, "changes its tier within epoch"),
        ({"next_tier": 5}, "does not have"),
    ],
)
def test_a_tier_of_ones_own_is_refused(played: Testbed, changes: dict[str, int], why: str) -> None:
    manifest, round_ = played.manifest, 2
    body = played.made[round_, 1].commitment.body
    previous = played.made[round_ - 1, 1].commitment.body
    expected = Carried(previous.moments_after, previous.residual_after, previous.next_tier)
    forged = body.model_copy(update=changes)
    beacon = played.chain.assignment_beacon(round_)
    assert beacon is not None
    drawn = assignment_digest(assignment(manifest.at(forged.tier), beacon, round_, 1))
    with pytest.raises(Malformed, match=why):
        check_commitment(
            manifest, round_, forged, parameters=body.parameters, assignment=drawn, expected=expected
        )


def test_a_unit_that_does_not_count_has_no_tier_to_be_wrong_about(
    make_bed: Callable[..., Testbed], tmp_path: Path
) -> None:
    """Whoever forces in what it may not commit to says any tier in it."""
    bed = make_bed(rounds=2, tiers=(TierConfig(steps=2, batch=1),))
    bed.left_out[0] = {2}
    bed.play_run()
    shutil.copytree(bed.archive.root, tmp_path / "copy")
    forge = Forge(bed, Archive(tmp_path / "copy"), copy.deepcopy(bed.chain))
    for counts in (False, True):
        others = tuple(unit for unit in forge.units(0) if unit.number != 2)
        (unit,) = (unit for unit in forge.units(0) if unit.number == 2)
        said = {"counts": counts, "tier": 0, "merged": False, "reason": "late: not told", "symbols": None}
        forge.record(0, units=(*others, unit.model_copy(update=said | {"blob": None})))
        merging = next(one for one in forge.audit().checks if one.name == "merging")
        assert ("tier" in merging.detail) == counts

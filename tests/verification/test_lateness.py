"""What is late follows from two blocks, and a late record's round is void for everybody alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.chain import OPENING_ROUND
from protocol.errors import ConfigError
from protocol.manifest import DeadlineConfig
from protocol.messages import UnitRecord
from tests.verification.test_duty import Watch
from tests.verification.testbed import Testbed, key, sign
from verification.archive import RoundDossier
from verification.audit import AuditReport, audit
from verification.blobs import find_blob
from verification.bundle import export_bundle
from verification.commit import Carried
from verification.duty import is_over
from verification.facts import chain_facts
from verification.lateness import in_force, is_late, is_void

DEADLINES = DeadlineConfig(verify=4, reveal=3, record=5, appeal=4)
MakeBed = Callable[..., Testbed]


@pytest.fixture
def late(make_bed: MakeBed) -> Testbed:
    """Return a finished run whose round 1 is void."""
    bed = make_bed(deadlines=DEADLINES)
    bed.late = {1}
    bed.play_run()
    return bed


def audited(bed: Testbed) -> AuditReport:
    return audit(bed.archive, bed.chain, bed.run, find_blob([bed.archive.blobs, bed.states.root]))


def rejected(report: AuditReport) -> set[str]:
    return {check.name for check in report.checks if check.result == "rejected"}


def test_the_last_block_counts_and_the_next_does_not(bed: Testbed) -> None:
    last = 100 + bed.manifest.deadlines.reveal + bed.manifest.deadlines.record
    assert not is_late(bed.manifest, 100, last)
    assert is_late(bed.manifest, 100, last + 1)


def test_a_round_that_is_open_or_has_no_root_is_not_void(bed: Testbed) -> None:
    bed.chain.height += 10_000
    assert not is_void(bed.manifest, bed.chain, 0)
    assert not is_void(bed.manifest, bed.chain, OPENING_ROUND)


def test_in_a_void_round_only_judgements_stand(late: Testbed) -> None:
    record = late.records[1].body
    standing = in_force(record, void=True)
    assert (standing.units, standing.receipts, standing.retracted) == ((), (), ())
    assert standing.judged == record.judged != ()
    assert in_force(record, void=False) is record


def test_a_void_round_merges_nothing_draws_nothing_and_pays_nothing(late: Testbed) -> None:
    assert [is_void(late.manifest, late.chain, round_) for round_ in range(3)] == [False, True, False]
    assert all(unit.merged for unit in late.records[1].body.units), "its record says otherwise"
    assert late.records[2].body.parameters == late.records[1].body.parameters
    assert (late.dossiers[1].openings, late.dossiers[1].verdicts) == ((), ())
    report = audited(late)
    assert {check.name for check in report.checks if not check.ok} == {"replays"}, "none was asked for"
    counts = {check.name: check.count for check in report.checks}
    assert (counts["draws"], counts["merging"]) == (6, 6)
    paid = sum(entry.cumulative_wei for entry in late.settlement.rewards[-1].body.entries)
    assert paid == 6 * late.manifest.pay.unit_wei + 12 * late.manifest.pay.verdict_wei


def test_what_a_unit_of_a_void_round_leaves_behind_is_not_carried_on(late: Testbed) -> None:
    for number in late.contributors:
        after_void, before_void = late.dossiers[2].commitments, late.dossiers[1].commitments
        body = after_void[number - 1].body
        assert Carried(body.moments_before, body.residual_before) == Carried()
        body = before_void[number - 1].body
        assert Carried(body.moments_before, body.residual_before) != Carried()


def test_a_late_record_that_is_treated_as_valid_is_named(make_bed: MakeBed) -> None:
    bed = make_bed(deadlines=DEADLINES)
    bed.play_run()
    # The same run, but the chain says that the record of round 1 came too late.
    bed.chain.posted[1] = dataclasses.replace(bed.chain.posted[1], block=bed.chain.posted[1].block - 9)
    report = audited(bed)
    assert report.exit_code == 6
    assert rejected(report) >= {
        "assignments",
        "aggregation",
        "draws",
        "verdicts",
        "outcomes",
        "reward tables",
    }


def test_a_verifier_has_no_duty_in_a_void_round(make_bed: MakeBed) -> None:
    bed = make_bed(deadlines=DEADLINES)
    bed.chain.height += 1
    bed.late = {0}
    watch = Watch(bed)
    watch.hear(bed.play_round(0))
    assert watch.draws() == ()
    bed.chain.height = bed.chain.anchors[0] + 2 + bed.manifest.deadlines.appeal
    assert is_over(bed.manifest, bed.chain, watch.pool, 0, ())


def test_a_verifier_expects_nothing_carried_out_of_a_void_round(make_bed: MakeBed) -> None:
    bed = make_bed(deadlines=DEADLINES)
    bed.chain.height += 1
    bed.late = {0}
    watch = Watch(bed)
    watch.hear(bed.play_round(0))
    watch.hear(bed.play_round(1))
    found = watch.due(bed.judges[0], 1)
    assert {duty.unit.carried for duty in found.values()} <= {Carried()}
    assert len({number for judge in bed.judges for number in watch.due(judge, 1)}) == 3


def test_no_evidence_is_exported_of_a_void_round(late: Testbed, tmp_path: Path) -> None:
    facts = chain_facts(late.chain, late.manifest)
    find = find_blob([late.archive.blobs, late.states.root])
    with pytest.raises(ConfigError, match="was not drawn"):
        export_bundle(late.archive, facts, find, 1, 1, tmp_path / "bundle")
    draw = export_bundle(late.archive, facts, find, 2, 1, tmp_path / "bundle")
    assert draw.number == 1


def test_a_symbol_shown_in_a_void_round_cannot_be_merged_by_another_later(late: Testbed) -> None:
    dossier = late.dossiers[2]
    assert dossier.record is not None
    first = late.records[1].body.units[0]
    units = [_with_symbols(unit, first) if unit.number == 2 else unit for unit in dossier.record.body.units]
    _rewrite(late, dossier, tuple(units))
    assert "merging" in rejected(audited(late))


def _with_symbols(unit: UnitRecord, other: UnitRecord) -> UnitRecord:
    return unit.model_copy(update={"symbols": other.symbols, "blob": other.blob})


def _rewrite(bed: Testbed, dossier: RoundDossier, units: tuple[UnitRecord, ...]) -> None:
    assert dossier.record is not None
    body = dossier.record.body.model_copy(update={"units": units})
    record = sign(key(0), bed.manifest, dossier.round, "coordinator", body)
    bed.archive.write_round(dataclasses.replace(dossier, record=record))
    bed.chain.records[dossier.round] = body.digest().hex()

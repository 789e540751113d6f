"""Weights and scores of a record are recomputed from its updates, and every other is found."""

import copy
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from protocol.manifest import MergingConfig
from protocol.messages import RoundRecord, Signed, UnitRecord, sign
from tests.verification.testbed import Testbed, Trial, key, tiny_manifest
from training.codec import compress
from verification.archive import Archive
from verification.audit import audit
from verification.blobs import find_blob
from verification.report import Check
from verification.sample import draws

LIAR = 2


def flipped(trial: Trial) -> None:
    """Show the opposite of what was learnt."""
    trial.symbols, trial.residual = compress(
        trial.bed.manifest.codec, trial.final - trial.start, trial.residual_before
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Testbed:
    """Return a run of three peers, of whom one flips its first update."""
    directory = tmp_path_factory.mktemp("weights")
    manifest = tiny_manifest(corpus, directory / "data", merging=MergingConfig(gate_windows=16))
    bed = Testbed(directory, manifest)
    bed.play_run({(0, LIAR): {"symbols": flipped}})
    return bed


def checked(bed: Testbed, chain: Any = None, archive: Archive | None = None, **options: Any) -> Check:
    find = find_blob([bed.archive.blobs, bed.states.root])
    report = audit(archive or bed.archive, chain or bed.chain, bed.run, find, **options)
    return next(check for check in report.checks if check.name == "weights")


def units(bed: Testbed, round_: int) -> dict[int, UnitRecord]:
    return {unit.number: unit for unit in bed.records[round_].body.units}


def test_a_flipped_update_moves_nothing_and_is_certain_to_be_drawn(played: Testbed) -> None:
    unit = units(played, 0)[LIAR]
    assert (unit.merged, unit.weight, unit.moves) == (True, 0, False)
    assert "merged with no weight" in unit.fate
    calm = played.manifest.verification.schedule.model_copy(
        update={"fresh_probability": 0.0, "floor_probability": 0.0}
    )
    manifest = played.manifest.model_copy(
        update={"verification": played.manifest.verification.model_copy(update={"schedule": calm})}
    )
    drawn = draws(manifest, played.run, "ab" * 32, 0, played.records[0].body.units, played.judges)
    assert [draw.number for draw in drawn] == [LIAR]


def test_an_honest_record_of_weights_holds(played: Testbed) -> None:
    check = checked(played, replay="sampled", shard=lambda: played.shard)
    assert (check.result, check.count) == ("ok", 3 + 3 + 2), check.detail
    doubted = [unit for round_ in range(3) for unit in units(played, round_).values() if not unit.weight]
    assert f"{len(doubted)} without weight" in check.detail


def test_weights_are_only_believed_where_nothing_is_judged_again(played: Testbed) -> None:
    assert checked(played).result == "inconclusive"
    assert checked(played, replay="sampled").result == "inconclusive"


@pytest.mark.parametrize(
    "change",
    [
        {"weight": 1, "reason": ""},
        {"score": 7},
        {"score": None},
        {"reason": "it points away from the others"},
    ],
    ids=["weight", "score", "no score", "reason"],
)
def test_a_coordinator_that_weighs_otherwise_is_found(
    played: Testbed, tmp_path: Path, change: dict[str, Any]
) -> None:
    chain, folder = copy.deepcopy(played.chain), tmp_path / "public"
    shutil.copytree(played.archive.root, folder)
    archive = Archive(folder)
    dossier, record = archive.round(played.manifest, 0), played.records[0].body
    assert dossier is not None
    told = tuple(unit.model_copy(update=change) if unit.number == LIAR else unit for unit in record.units)
    body = record.model_copy(update={"units": told})
    signed: Signed[RoundRecord] = sign(key(0), played.manifest, 0, "coordinator", body)
    chain.records[0] = body.digest().hex()
    archive.write_round(dataclasses.replace(dossier, record=signed))
    check = checked(played, chain, archive, replay="sampled", shard=lambda: played.shard)
    assert check.result == "rejected"
    assert f"number {LIAR}" in check.detail

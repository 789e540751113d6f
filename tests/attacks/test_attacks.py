"""Every way to cheat meets the check that is there for it, and no honest work does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from murmur.attacks import AttackReport, AttackResult, markdown, measure_attacks, measure_honest
from murmur.cli import program
from murmur.laboratory import EMULATED, Laboratory
from murmur.measuring import STEP_CHEATS
from node.cheats.casting import steps_of
from protocol.blobs import BlobStore
from protocol.errors import UsageError
from protocol.manifest import CPU_FP32, InnerConfig, VerificationConfig
from protocol.messages import PASSED
from protocol.state import NOTHING_CARRIED
from tests.verification.testbed import tiny_manifest
from training.model import initial_parameters
from training.outer import initial_state, parameters_file
from verification.cheats import Cheat, Fate

STEPS = {
    *STEP_CHEATS,
    Cheat.STALE_START,
    Cheat.ONE_FORGED_SEGMENT,
    Cheat.PERTURBED_COPY,
    Cheat.RANDOM_UPDATE,
}
"""Found by replay, and by nothing before."""

UPDATE = {
    Cheat.DROPPED_RESIDUAL,
    Cheat.FORGED_RESIDUAL,
    Cheat.CARRIED_RESIDUAL,
    Cheat.FORGED_UPDATE,
    Cheat.FORGED_MOMENTS,
}
"""Found by computing symbols and residual again, whichever segment is drawn."""

ONE_SEGMENT = {Cheat.SKIP_TENTH, Cheat.STALE_START, Cheat.ONE_FORGED_SEGMENT}
"""Dishonest in one of three segments."""


def inner(moments: str) -> InnerConfig:
    return InnerConfig.model_validate(
        {"steps": 6, "batch": 2, "warmup_steps": 2, "moments": moments, "slices": 1}
    )


def tiny_laboratory(directory: Path, **changes: object) -> Laboratory:
    """Return a laboratory with a model of two thousand parameters, after one honest round."""
    letters = np.random.default_rng(3).integers(97, 123, 6000, dtype=np.uint8)
    (directory / "text.txt").write_bytes(letters.tobytes())
    manifest = tiny_manifest(directory / "text.txt", directory, **changes)
    state = initial_state(manifest, initial_parameters(manifest.model, seed=1))
    BlobStore(directory / "blobs").put(parameters_file(manifest, state))
    return Laboratory.open(directory, manifest, rounds=1)


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return tiny_laboratory(tmp_path_factory.mktemp("laboratory"), inner=inner("published"))


@pytest.fixture(scope="module")
def results(laboratory: Laboratory) -> dict[str, AttackResult]:
    return {one.name: one for one in measure_attacks(laboratory)}


def test_every_cheat_is_tried_and_caught(results: dict[str, AttackResult]) -> None:
    assert list(results) == list(Cheat)
    assert [one.name for one in results.values() if not one.caught] == []


@pytest.mark.parametrize("moments", ["carried", "fresh"])
def test_every_cheat_is_caught_where_no_moments_are_published(tmp_path: Path, moments: str) -> None:
    laboratory = tiny_laboratory(tmp_path, inner=inner(moments))
    body = laboratory.honest_unit().commitment
    nothing = [root == NOTHING_CARRIED for root in (body.moments_before, body.moments_after)]
    assert nothing == [moments == "fresh"] * 2
    assert body.residual_before != NOTHING_CARRIED
    found = measure_attacks(laboratory)
    assert [one.name for one in found] == [one for one in Cheat if one is not Cheat.FORGED_MOMENTS]
    assert [one.name for one in found if not one.caught] == []


@pytest.mark.parametrize("cheat", sorted(STEPS))
def test_work_that_was_not_done_replays_beyond_the_tolerance(
    results: dict[str, AttackResult], cheat: Cheat
) -> None:
    found = results[cheat]
    assert found.check == "replay"
    assert found.ratio is not None
    assert found.distance is not None
    assert found.tolerance == CPU_FP32.tolerance
    assert found.ratio == found.distance / found.tolerance > 1
    assert found.paid_undrawn, "nothing but a replay sees it"
    assert found.detection == (pytest.approx(1 / 3) if cheat in ONE_SEGMENT else 1.0)


@pytest.mark.parametrize("cheat", sorted(UPDATE))
def test_an_update_that_does_not_follow_is_proven_false_in_any_segment(
    results: dict[str, AttackResult], cheat: Cheat
) -> None:
    found = results[cheat]
    assert (found.check, found.outcome, found.detection) == ("update", "proven false", 1.0)
    assert "does not follow" in found.reason or "do not follow" in found.reason


@pytest.mark.parametrize(
    ("cheat", "check", "outcome", "reason"),
    [
        (Cheat.COPYCAT, "merge", "proven false", "same symbols"),
        (Cheat.FORGED_BYTES, "opening", "proven false", "committed root"),
        (Cheat.REFUSE_OPENING, "opening", "void", "not opened"),
        (Cheat.LATE_OPENING, "opening", "void", "not opened in time"),
        (Cheat.WITHHOLD_REVEAL, "reveal", "passed", "not revealed"),
        (Cheat.EQUIVOCATE, "gossip", "passed", "a second commitment"),
        (Cheat.GARBAGE, "gossip", "refused", "JSON"),
    ],
)
def test_what_is_said_meets_its_rule(
    results: dict[str, AttackResult], cheat: Cheat, check: str, outcome: str, reason: str
) -> None:
    found = results[cheat]
    assert (found.check, found.outcome) == (check, outcome)
    assert reason in found.reason


def test_what_is_refused_in_public_is_not_paid_without_a_draw(results: dict[str, AttackResult]) -> None:
    unpaid = {name for name, one in results.items() if not one.paid_undrawn}
    assert unpaid == {Cheat.COPYCAT, Cheat.WITHHOLD_REVEAL, Cheat.GARBAGE}


def test_a_nudge_is_lost_in_the_whole_and_found_in_its_tensor(results: dict[str, AttackResult]) -> None:
    assert results[Cheat.NUDGE].tensor == "parameters.norm"


def test_outcomes_are_those_that_a_run_must_show(results: dict[str, AttackResult]) -> None:
    for name, found in results.items():
        match Cheat(name).kind.fate:
            case Fate.SLASHED:
                assert found.outcome == "proven false", name
            case Fate.CAUGHT:
                assert found.outcome in ("void", "proven false"), name
            case Fate.VOID:
                assert found.outcome == "void", name
            case Fate.UNPAID | Fate.HARMLESS:
                assert found.outcome == "passed", name
            case Fate.REFUSED:
                assert found.outcome == "refused", name


def test_honest_work_passes_every_check_and_differs_by_nothing(laboratory: Laboratory) -> None:
    trial = laboratory.try_cheat(None)
    assert trial.public == []
    assert [one.outcome for one in trial.drawn.values()] == [PASSED] * 3
    assert [one.report.distance for one in trial.drawn.values() if one.report] == [0.0] * 3


def test_a_residual_forged_once_is_carried_on_honestly_for_three_units() -> None:
    steps, residual = steps_of("carried-residual"), np.ones(3, np.float32)
    forged = [not np.array_equal(steps.residual_after(residual), residual) for _ in range(5)]
    assert forged == [True, False, False, False, True]


@pytest.mark.parametrize("arguments", [("--only", "nap"), ("--report", "--json")])
def test_a_command_that_makes_no_sense_is_refused(arguments: tuple[str, ...]) -> None:
    found = CliRunner().invoke(program(), ["verifier", "attacks", *arguments])
    assert isinstance(found.exception, UsageError)


@pytest.mark.slow
def test_the_command_measures_one_attack_on_the_default_model() -> None:
    found = CliRunner().invoke(program(), ["verifier", "attacks", "--only", "lr-0.99", "--json"])
    assert found.exit_code == 0
    document = json.loads(found.stdout)
    [attack] = document["attacks"]
    assert attack["ratio"] == attack["distance"] / attack["tolerance"] > 10
    assert document["honest"] == []
    assert 0 < document["slack"] < 1e-3


def test_what_a_wide_tolerance_cannot_see_is_said_with_its_price(tmp_path: Path) -> None:
    blind = CPU_FP32.model_copy(
        update={"tolerance": 0.05, "fresh_tolerance": 0.05, "slash_tolerance": 0.5, "name": "blind"}
    )
    laboratory = tiny_laboratory(
        tmp_path,
        verification=VerificationConfig(segment_steps=2, profiles=(blind,)),
    )
    found = {one.name: one for one in measure_attacks(laboratory, [Cheat.LR_99, Cheat.TF32, Cheat.LR_90])}
    assert not found["lr-0.99"].caught
    assert found["lr-0.99"].outcome == "passed"
    assert found["lr-0.99"].detection == 0.0
    assert found["lr-0.99"].ratio is not None
    assert 0 < found["lr-0.99"].ratio < 1
    assert "shifts its parameters by at most" in found["lr-0.99"].gain
    assert "saves" in found["tf32"].gain
    assert found["lr-0.9"].caught


def test_honest_work_on_other_kernels_is_not_rejected(laboratory: Laboratory) -> None:
    other = next(one for one in EMULATED if one.name == "SSE4.1")
    found = measure_honest(laboratory, [other])
    assert [one.name for one in found] == ["SSE4.1"]
    assert not found[0].rejected
    assert all(0 < one.distance < one.tolerance for one in found)


def test_the_report_is_a_table_of_what_was_measured(results: dict[str, AttackResult]) -> None:
    report = AttackReport(
        profile="cpu-fp32",
        tolerance=1e-4,
        fresh_tolerance=4e-4,
        slash_tolerance=1e-3,
        slack=2e-4,
        attacks=list(results.values()),
        honest=[],
    )
    lines = markdown(report).splitlines()
    assert report.holds
    assert len([line for line in lines if line.startswith("| `")]) == len(Cheat)
    missed = results[Cheat.NUDGE].model_copy(update={"caught": False, "gain": "moves it by little"})
    assert not report.model_copy(update={"attacks": [missed]}).holds
    assert "**no**: moves it by little" in markdown(report.model_copy(update={"attacks": [missed]}))

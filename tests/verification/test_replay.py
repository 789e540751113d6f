from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from protocol.errors import ProofInconclusive
from protocol.manifest import CPU_FP32
from protocol.messages import PASSED, PROVEN_FALSE, REJECTED
from tests.verification.mischief import (
    forged_residual,
    forged_symbols,
    nudge,
    other_data,
    other_rate,
    skip_a_step,
)
from tests.verification.testbed import Cheat, Testbed, Trial


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_an_honest_unit_passes_at_every_segment(bed: Testbed, segment: int) -> None:
    report = bed.replay(bed.make(0, 1), segment)
    assert (report.outcome, report.reason, report.distance) == (PASSED, "", 0.0)
    assert len(report.distances) == 3 * 8
    assert report.tensor in report.distances


def test_an_honest_unit_passes_with_what_it_carries(bed: Testbed) -> None:
    bed.play_round(0)
    bed.chain.height += 1
    made = bed.make(1, 1)
    assert made.unit.residual_before is not None
    for segment in range(3):
        assert bed.replay(made, segment).outcome == PASSED


@pytest.mark.parametrize(
    ("cheat", "where"),
    [
        (skip_a_step(1), "segment 1"),
        (other_data(1), "segment 1"),
        (other_rate(1, 0.9), "segment 1"),
        (nudge(1, "norm", 0.01), "parameters.norm"),
    ],
    ids=["skipped step", "other data", "other rate", "nudged tensor"],
)
def test_a_cheated_segment_is_proven_false(bed: Testbed, cheat: dict[str, Cheat], where: str) -> None:
    made = bed.make(0, 1, cheat)
    report = bed.replay(made, 1)
    assert report.outcome == PROVEN_FALSE
    assert report.distance > CPU_FP32.slash_tolerance
    assert where in report.reason


def test_only_the_cheated_segment_is_out(bed: Testbed) -> None:
    made = bed.make(0, 1, other_rate(1, 0.5))
    assert [bed.replay(made, segment).outcome for segment in range(3)] == [PASSED, PROVEN_FALSE, PASSED]


def test_between_the_tolerances_a_unit_is_rejected_but_not_proven_false(bed: Testbed) -> None:
    report = bed.replay(
        bed.make(0, 1, nudge(2, "embedding", (CPU_FP32.tolerance + CPU_FP32.slash_tolerance) / 2)), 2
    )
    assert report.outcome == REJECTED
    assert report.tensor == "parameters.embedding"
    assert CPU_FP32.tolerance < report.distance < CPU_FP32.slash_tolerance


def test_a_forged_residual_is_proven_false_whatever_segment_is_drawn(bed: Testbed) -> None:
    made = bed.make(0, 1, {"symbols": forged_residual})
    for segment in range(3):
        report = bed.replay(made, segment)
        assert (report.outcome, report.forged_residual) == (PROVEN_FALSE, True)
        assert "residual does not follow" in report.reason


def test_forged_symbols_are_proven_false_whatever_segment_is_drawn(bed: Testbed) -> None:
    made = bed.make(0, 1, {"symbols": forged_symbols})
    for segment in range(3):
        report = bed.replay(made, segment)
        assert (report.outcome, report.forged_residual) == (PROVEN_FALSE, False)
        assert "symbols do not follow" in report.reason


def test_another_fault_hides_no_forged_residual(bed: Testbed) -> None:
    report = bed.replay(bed.make(0, 1, {"symbols": forged_residual} | with_end(steps=3)), 1)
    assert (report.outcome, report.forged_residual) == (PROVEN_FALSE, True)


def test_what_is_no_residual_at_all_was_forged_before(bed: Testbed) -> None:
    bed.play_round(0)
    bed.chain.height += 1
    made = bed.make(1, 1)
    unit, opened = bed.drawn(made, 1), bed.open(made, 1)
    assert opened.body.residual_before is not None
    files = bed.files(unit, opened) | {opened.body.residual_before: b"noise"}
    report = bed.units.replay(bed.manifest, unit, opened.body, files)
    assert (report.outcome, report.forged_residual) == (PROVEN_FALSE, True)


def test_a_unit_on_batches_of_another_beacon_is_proven_false(bed: Testbed) -> None:
    made = bed.make(0, 1)
    unit, opened = bed.drawn(made, 0), bed.open(made, 0)
    other = dataclasses.replace(unit, beacon="ab" * 32)
    report = bed.units.replay(bed.manifest, other, opened.body, bed.files(unit, opened))
    assert report.outcome == PROVEN_FALSE
    assert "other batches" in report.reason


def test_a_first_segment_from_other_parameters_is_proven_false(bed: Testbed) -> None:
    def move_start(trial: Trial) -> None:
        start = trial.states[0]
        trial.states[0] = dataclasses.replace(start, parameters=start.parameters * np.float32(1.5))
        trial.trainer.load(trial.states[0])
        trial.run(0)

    report = bed.replay(bed.make(0, 1, {"segment0": move_start}), 0)
    assert (report.outcome, report.reason) == (
        PROVEN_FALSE,
        "first segment starts from other parameters than the round's",
    )


def with_end(**changes: object) -> dict[str, Cheat]:
    def cheat(trial: Trial) -> None:
        trial.run(1)
        trial.states[-1] = dataclasses.replace(trial.states[-1], **changes)

    return {"segment1": cheat}


def test_a_wrong_step_count_is_proven_false(bed: Testbed) -> None:
    report = bed.replay(bed.make(0, 1, with_end(steps=3)), 1)
    assert (report.outcome, report.reason) == (PROVEN_FALSE, "opened 1 optimizer steps in a segment of 2")


def test_steps_that_the_run_has_not_had_are_proven_false(bed: Testbed) -> None:
    report = bed.replay(bed.make(0, 1, with_end(steps=2**62)), 2)
    assert (report.outcome, report.reason) == (
        PROVEN_FALSE,
        "opened more optimizer steps than the run has had",
    )


def test_a_negative_second_moment_is_proven_false(bed: Testbed) -> None:
    size = bed.parameters_size
    report = bed.replay(bed.make(0, 1, with_end(exp_avg_sq=np.full(size, -1, np.float32))), 1)
    assert (report.outcome, report.reason) == (PROVEN_FALSE, "opened a negative second moment")


def test_a_start_that_makes_the_loss_infinite_is_no_way_out(bed: Testbed) -> None:
    def blow_up(trial: Trial) -> None:
        trial.run(0)
        huge = np.full_like(trial.start, 3e38)
        trial.states[-1] = dataclasses.replace(trial.states[-1], parameters=huge)
        trial.states.append(dataclasses.replace(trial.states[-1], steps=4))

    made = bed.make(0, 1, {"segment0": blow_up, "segment1": lambda trial: None})
    report = bed.replay(made, 1)
    assert report.outcome == PROVEN_FALSE
    assert "not finite" in report.reason


def test_values_that_are_not_finite_are_proven_false(bed: Testbed) -> None:
    made = bed.make(0, 1)
    unit, opened = bed.drawn(made, 1), bed.open(made, 1)
    files = bed.files(unit, opened)
    for address in (opened.body.end_moments, opened.body.final_parameters):
        data = bytearray(files[address])
        data[-12:-8] = b"\xff\xff\xff\x7f"
        report = bed.units.replay(bed.manifest, unit, opened.body, files | {address: bytes(data)})
        assert report.outcome == PROVEN_FALSE
        assert "not canonical" in report.reason


def test_unreadable_public_parameters_are_nobody_s_proof(bed: Testbed) -> None:
    made = bed.make(0, 1)
    unit, opened = bed.drawn(made, 1), bed.open(made, 1)
    files = bed.files(unit, opened) | {made.commitment.body.parameters: b"short"}
    with pytest.raises(ProofInconclusive, match="public parameters"):
        bed.units.replay(bed.manifest, unit, opened.body, files)

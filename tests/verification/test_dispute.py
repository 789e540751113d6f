"""A disputed segment is decided by exact arithmetic: one reference for all, and no slashing between the tolerances."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from protocol.manifest import (
    CPU_BF16,
    CPU_EXACT,
    CPU_FP32,
    NumericProfile,
    SamplingSchedule,
    VerificationConfig,
)
from protocol.messages import PASSED, PROVEN_FALSE, REJECTED
from protocol.state import EXACT_DIVERGES, exact_root
from tests.verification.mischief import nudge, other_rate
from tests.verification.testbed import Cheat, Made, Testbed, Trial
from training.inner import InnerState, InnerTrainer
from training.trainer import trainer_for
from verification.dispute import judge_segment, run_segment
from verification.unit import ReplayReport

SEGMENT = 1


def under(profile: NumericProfile, *others: NumericProfile) -> VerificationConfig:
    return VerificationConfig(
        segment_steps=2, schedule=SamplingSchedule(fresh_probability=1.0), profiles=(profile, *others)
    )


@pytest.fixture
def exact_bed(make_bed: Callable[..., Testbed]) -> Testbed:
    bed = make_bed(verification=under(CPU_EXACT))
    bed.chain.height += 1
    return bed


def claimed_by(trainer: object) -> dict[str, Cheat]:
    """Claim what another trainer makes of the segment."""

    def cheat(trial: Trial) -> None:
        trainer.load(trial.trainer.state())
        rows = trial.offsets[2 * SEGMENT : 2 * SEGMENT + 2]
        trainer.run(rows, trial.round * trial.bed.manifest.inner.steps + 2 * SEGMENT)
        trial.states.append(trainer.state())
        trial.trainer.load(trial.states[-1])

    return {f"segment{SEGMENT}": cheat}


def judged(bed: Testbed, made: Made, shift: float) -> ReplayReport:
    """Judge the honest segment by a replay whose parameters are off by a share of the change."""
    unit, opened = bed.drawn(made, SEGMENT), bed.open(made, SEGMENT).body
    files, model = bed.files(unit, bed.open(made, SEGMENT)), bed.manifest.model
    start = InnerState.from_files(model, files[opened.start_parameters], files[opened.start_moments])
    end = InnerState.from_files(model, files[opened.end_parameters], files[opened.end_moments])
    own = bed.manifest.verification.profiles[0]
    replayed = run_segment(bed.manifest, trainer_for(bed.manifest, bed.shard, own), unit, start)
    assert replayed is not None
    moved = replayed.parameters + np.float32(shift) * (replayed.parameters - start.parameters)
    off = dataclasses.replace(replayed, parameters=moved.astype(np.float32))
    return judge_segment(bed.manifest, bed.shard, unit, own, start, end, off)


def test_what_is_within_tolerance_is_not_disputed(bed: Testbed) -> None:
    report = bed.replay(bed.make(0, 1), SEGMENT)
    assert (report.outcome, report.exact, report.exact_distance) == (PASSED, None, 0.0)


def test_a_proven_fault_names_the_root_of_the_exact_replay(bed: Testbed) -> None:
    made = bed.make(0, 1, other_rate(SEGMENT, 0.9))
    report = bed.replay(made, SEGMENT)
    assert report.outcome == PROVEN_FALSE
    assert report.exact_distance > CPU_FP32.slash_tolerance
    assert report.exact_distance == pytest.approx(report.distance, rel=1e-2)
    unit, opened = bed.drawn(made, SEGMENT), bed.open(made, SEGMENT)
    files = bed.files(unit, opened)
    start = InnerState.from_files(
        bed.manifest.model, files[opened.body.start_parameters], files[opened.body.start_moments]
    )
    end = run_segment(bed.manifest, trainer_for(bed.manifest, bed.shard, CPU_EXACT), unit, start)
    assert end is not None
    written = [bed.public.put(end.parameters_file(bed.manifest.model))]
    written.append(bed.public.put(end.moments_file(bed.manifest.model)))
    assert report.exact == exact_root(bed.run, 0, 1, SEGMENT + 1, *written)


def test_between_the_tolerances_nothing_is_proven(bed: Testbed) -> None:
    far = (CPU_FP32.tolerance + CPU_FP32.slash_tolerance) / 2
    report = bed.replay(bed.make(0, 1, nudge(SEGMENT, "embedding", far)), SEGMENT)
    assert report.outcome == REJECTED
    assert report.exact is not None
    assert CPU_FP32.tolerance < report.exact_distance < CPU_FP32.slash_tolerance
    assert "exactly" in report.reason


def test_a_verifier_whose_own_replay_is_wrong_proves_nothing_against_honest_work(bed: Testbed) -> None:
    report = judged(bed, bed.make(0, 1), shift=0.5)
    assert report.distance > CPU_FP32.slash_tolerance
    assert report.outcome == REJECTED
    assert report.exact_distance < CPU_FP32.tolerance


def test_two_verifiers_with_different_replays_name_one_reference(bed: Testbed) -> None:
    made = bed.make(0, 1, other_rate(SEGMENT, 0.5))
    one, other = judged(bed, made, shift=0.0), judged(bed, made, shift=0.01)
    assert one.distance != other.distance
    assert (one.outcome, one.exact, one.exact_distance) == (PROVEN_FALSE, other.exact, other.exact_distance)


def test_a_start_that_diverges_is_proven_false_by_exact_arithmetic_too(bed: Testbed) -> None:
    def blow_up(trial: Trial) -> None:
        trial.run(0)
        huge = np.full_like(trial.start, 3e38)
        trial.states[-1] = dataclasses.replace(trial.states[-1], parameters=huge)
        trial.states.append(dataclasses.replace(trial.states[-1], steps=4))

    report = bed.replay(bed.make(0, 1, {"segment0": blow_up, "segment1": lambda trial: None}), SEGMENT)
    assert (report.outcome, report.exact) == (PROVEN_FALSE, EXACT_DIVERGES)


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_a_run_in_exact_arithmetic_passes_at_equal_roots(exact_bed: Testbed, segment: int) -> None:
    report = exact_bed.replay(exact_bed.make(0, 1), segment)
    assert (report.outcome, report.distance, report.exact) == (PASSED, 0.0, None)


def test_a_run_in_exact_arithmetic_takes_no_float32(exact_bed: Testbed) -> None:
    trainer = InnerTrainer(exact_bed.manifest, exact_bed.shard)
    report = exact_bed.replay(exact_bed.make(0, 1, claimed_by(trainer)), SEGMENT)
    assert report.outcome == PROVEN_FALSE
    assert 0 < report.distance == report.exact_distance < 1e-3


def test_a_run_in_exact_arithmetic_takes_no_other_bit(exact_bed: Testbed) -> None:
    def flip_a_bit(trial: Trial) -> None:
        trial.run(SEGMENT)
        end = trial.states[-1]
        exp_avg = end.exp_avg.copy()
        exp_avg[5] = np.nextafter(exp_avg[5], np.float32(1))
        trial.states[-1] = dataclasses.replace(end, exp_avg=exp_avg)
        trial.trainer.load(trial.states[-1])

    report = exact_bed.replay(exact_bed.make(0, 1, {f"segment{SEGMENT}": flip_a_bit}), SEGMENT)
    assert report.outcome == PROVEN_FALSE
    assert 0 < report.distance < 1e-6


def test_the_sign_of_a_zero_is_a_difference_in_exact_arithmetic(exact_bed: Testbed) -> None:
    unit = exact_bed.drawn(exact_bed.make(0, 1), SEGMENT)
    size = exact_bed.parameters_size
    start = InnerState.fresh(np.ones(size, np.float32))
    claimed = dataclasses.replace(start, exp_avg=-np.zeros(size, np.float32))
    for end, outcome in ((start, PASSED), (claimed, PROVEN_FALSE)):
        report = judge_segment(exact_bed.manifest, exact_bed.shard, unit, CPU_EXACT, start, end, start)
        assert report.outcome == outcome


def test_a_bf16_unit_is_judged_by_bf16_and_tells_cheap_work_from_it(make_bed: Callable[..., Testbed]) -> None:
    bed = make_bed(verification=under(CPU_BF16, CPU_FP32))
    bed.chain.height += 1
    assert bed.replay(bed.make(0, 1), SEGMENT).outcome == PASSED
    assert bed.replay(bed.make(0, 2, other_rate(SEGMENT, 0.5)), SEGMENT).outcome == REJECTED
    report = bed.replay(bed.make(0, 3, other_rate(SEGMENT, -1.0)), SEGMENT)
    assert report.outcome == PROVEN_FALSE
    assert report.exact_distance > CPU_BF16.slash_tolerance


def test_an_exact_verifier_judges_float32_where_the_profile_lets_it(make_bed: Callable[..., Testbed]) -> None:
    """Its replay is the reference already; on a machine without float32's torch release it is the one that is left."""
    foreign = CPU_FP32.model_copy(update={"torch": "1.0.0", "judged_by": ("cpu-exact",)})
    bed = make_bed(verification=under(foreign, CPU_EXACT))
    bed.chain.height += 1
    assert 0 < bed.replay(bed.make(0, 1), SEGMENT).distance < CPU_FP32.tolerance
    report = bed.replay(bed.make(0, 2, other_rate(SEGMENT, 0.5)), SEGMENT)
    assert (report.outcome, report.exact_distance) == (PROVEN_FALSE, report.distance)

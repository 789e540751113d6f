"""What jurors find of a segment: one outcome and one result, whoever replays it on whatever machine."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contracts.types import CaseOutcome
from protocol.daemon import MANIFEST_FILE
from protocol.errors import Malformed, ProofRejected
from protocol.manifest import CPU_BF16, CPU_EXACT, CPU_FP32, SamplingSchedule, VerificationConfig
from protocol.state import EXACT_DIVERGES, exact_root
from protocol.worker import Worker
from tests.verification.mischief import (
    forged_residual,
    forged_symbols,
    nudge,
    other_data,
    other_rate,
    skip_a_step,
)
from tests.verification.testbed import Cheat, Made, Testbed, Trial
from training.inner import InnerState, prepare_process
from training.trainer import trainer_for
from training.workbench import DeviceLoadRequest, child_environment
from verification.commit import Carried
from verification.dispute import run_segment
from verification.opening import check_opening, not_countable
from verification.request import FindAnswer, ReplayRequest
from verification.unit import NO_RESULT, Finding

SEGMENT = 1


def found(bed: Testbed, made: Made, segment: int = SEGMENT) -> Finding:
    unit, opened = bed.drawn(made, segment), bed.open(made, segment)
    check_opening(bed.manifest, unit, opened)
    return bed.units.find(bed.manifest, unit, opened.body, bed.files(unit, opened))


def exact_end(bed: Testbed, made: Made, segment: int = SEGMENT) -> str:
    """Return the root of the end that the exact trainer reaches from the opened start."""
    unit, opened, model = bed.drawn(made, segment), bed.open(made, segment), bed.manifest.model
    files, said = bed.files(unit, opened), opened.body
    start = InnerState.from_files(model, files[said.start_parameters], files[said.start_moments])
    end = run_segment(bed.manifest, trainer_for(bed.manifest, bed.shard, CPU_EXACT), unit, start)
    assert end is not None
    written = bed.public.put(end.parameters_file(model)), bed.public.put(end.moments_file(model))
    return exact_root(bed.run, unit.round, unit.number, segment + 1, *written)


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_an_honest_float32_segment_is_right_and_names_the_exact_end(bed: Testbed, segment: int) -> None:
    made = bed.make(0, 1)
    finding = found(bed, made, segment)
    assert (finding.outcome, finding.reason) == (CaseOutcome.RIGHT, "")
    assert finding.result.hex() == exact_end(bed, made, segment)
    assert 0 < finding.distance <= CPU_FP32.bound(segment == 0)


def test_an_honest_unit_is_right_with_what_it_carries(bed: Testbed) -> None:
    bed.play_round(0)
    bed.chain.height += 1
    assert found(bed, bed.make(1, 1)).outcome == CaseOutcome.RIGHT


@pytest.mark.parametrize("profile", [CPU_BF16, CPU_EXACT], ids=["bf16", "exact"])
def test_honest_work_of_every_profile_is_right(make_bed: Callable[..., Testbed], profile: object) -> None:
    config = VerificationConfig(
        segment_steps=2, schedule=SamplingSchedule(fresh_probability=1.0), profiles=(profile,)
    )
    bed = make_bed(verification=config)
    bed.chain.height += 1
    assert found(bed, bed.make(0, 1)).outcome == CaseOutcome.RIGHT


@pytest.mark.parametrize(
    "cheat",
    [skip_a_step(SEGMENT), other_data(SEGMENT), other_rate(SEGMENT, 0.9)],
    ids=["skipped step", "other data", "other rate"],
)
def test_a_cheated_segment_is_proven_false_and_only_that_one(bed: Testbed, cheat: dict[str, Cheat]) -> None:
    made = bed.make(0, 1, cheat)
    finding = found(bed, made)
    assert finding.outcome == CaseOutcome.FALSE
    assert finding.distance > CPU_FP32.slash_bound(False)
    assert finding.result.hex() == exact_end(bed, made)
    assert "segment 1 is" in finding.reason
    assert found(bed, made, 2).outcome == CaseOutcome.RIGHT


def test_between_the_tolerances_a_segment_is_void(bed: Testbed) -> None:
    far = (CPU_FP32.tolerance + CPU_FP32.slash_tolerance) / 2
    finding = found(bed, bed.make(0, 1, nudge(SEGMENT, "embedding", far)))
    assert (finding.outcome, finding.tensor) == (CaseOutcome.VOID, "parameters.embedding")
    assert CPU_FP32.tolerance < finding.distance < CPU_FP32.slash_tolerance


def test_symbols_that_do_not_follow_are_proven_false_by_what_does(bed: Testbed) -> None:
    findings = [found(bed, bed.make(0, 1, {"symbols": forged_symbols}), segment) for segment in range(3)]
    assert {one.outcome for one in findings} == {CaseOutcome.FALSE}
    assert "symbols do not follow" in findings[0].reason
    assert len({one.result for one in findings} | {NO_RESULT}) == 4


def test_a_forged_residual_is_named_whatever_else_is_wrong(bed: Testbed) -> None:
    finding = found(bed, bed.make(0, 1, {"symbols": forged_residual} | skip_a_step(SEGMENT)))
    assert finding.outcome == CaseOutcome.FORGED
    assert finding.result not in (NO_RESULT, found(bed, bed.make(0, 1)).result)


def test_a_start_that_diverges_is_proven_false(bed: Testbed) -> None:
    def blow_up(trial: Trial) -> None:
        trial.run(0)
        huge = np.full_like(trial.start, 3e38)
        trial.states[-1] = dataclasses.replace(trial.states[-1], parameters=huge)
        trial.states.append(dataclasses.replace(trial.states[-1], steps=4))

    finding = found(bed, bed.make(0, 1, {"segment0": blow_up, "segment1": lambda trial: None}))
    assert (finding.outcome, finding.result.hex()) == (CaseOutcome.FALSE, EXACT_DIVERGES)


def test_what_no_trainer_can_have_written_is_proven_false(bed: Testbed) -> None:
    def negative(trial: Trial) -> None:
        trial.run(SEGMENT)
        below = np.full(trial.bed.parameters_size, -1, np.float32)
        trial.states[-1] = dataclasses.replace(trial.states[-1], exp_avg_sq=below)

    finding = found(bed, bed.make(0, 1, {f"segment{SEGMENT}": negative}))
    assert (finding.outcome, finding.reason) == (CaseOutcome.FALSE, "opened a negative second moment")


def test_other_batches_are_proven_false(bed: Testbed) -> None:
    made = bed.make(0, 1)
    unit, opened = bed.drawn(made, 0), bed.open(made, 0)
    elsewhere = dataclasses.replace(unit, beacon="ab" * 32)
    finding = bed.units.find(bed.manifest, elsewhere, opened.body, bed.files(unit, opened))
    assert finding.outcome == CaseOutcome.FALSE
    assert "other batches" in finding.reason


def test_addresses_that_do_not_give_the_committed_roots_open_nothing(bed: Testbed) -> None:
    made = bed.make(0, 1)
    unit = bed.drawn(made, SEGMENT)
    with pytest.raises(ProofRejected, match="end of the segment"):
        check_opening(bed.manifest, unit, bed.open(made, SEGMENT, end_moments="ab" * 32))
    with pytest.raises(Malformed, match="segment"):
        check_opening(bed.manifest, unit, bed.open(made, 2))


def test_what_was_opened_for_a_case_shows_the_same(bed: Testbed) -> None:
    made = bed.make(0, 1)
    check_opening(bed.manifest, bed.drawn(made, SEGMENT), bed.open(made, SEGMENT, case=7))


def test_a_commitment_that_should_not_have_been_listed_is_void(bed: Testbed) -> None:
    unit = bed.drawn(bed.make(0, 1), SEGMENT)
    assert not_countable(bed.manifest, unit) is None
    finding = not_countable(bed.manifest, dataclasses.replace(unit, carried=Carried("ab" * 32)))
    assert finding is not None
    assert (finding.outcome, finding.result) == (CaseOutcome.VOID, NO_RESULT)


@pytest.mark.slow
async def test_another_process_with_other_kernels_and_threads_finds_the_same_bits(
    bed: Testbed, tmp_path: Path
) -> None:
    made = {
        "honest": bed.make(0, 1),
        "false": bed.make(0, 2, other_rate(SEGMENT, 0.9)),
        "forged": bed.make(0, 3, {"symbols": forged_residual}),
    }
    directory = tmp_path / "juror"
    directory.mkdir()
    (directory / MANIFEST_FILE).write_bytes(bed.manifest.to_bytes())
    for path in bed.states.root.glob("[0-9a-f][0-9a-f]/*"):
        bed.public.put(path.read_bytes())
    request = DeviceLoadRequest(
        manifest_path=directory / MANIFEST_FILE,
        store=bed.public.root,
        data_dir=bed.data_dir,
        data=None,
        threads=2,
        device="cpu",
    )
    other = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    worker = Worker(
        [sys.executable, "-m", "verification.replayer"],
        log_path=directory / "log",
        env=dict(os.environ) | child_environment(2) | other,
    )
    prepare_process(1)
    async with worker:
        await worker.call("load", request.params(), deadline_s=60)
        for name, one in made.items():
            asked = ReplayRequest.of(bed.drawn(one, SEGMENT), bed.open(one, SEGMENT))
            answer = await worker.call("find", asked.model_dump(mode="json"), deadline_s=60)
            ours = found(bed, one)
            theirs = dataclasses.replace(FindAnswer.model_validate(answer).finding(), cpu_s=ours.cpu_s)
            assert theirs == ours, name
